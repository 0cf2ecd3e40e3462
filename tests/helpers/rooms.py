"""
The rooms of the project and the arrows between them, read from the imports.

A room is a folder, or one file at the front of its part: mingpt/attention, mingpt/model.
`python -m tests.helpers.rooms` draws docs/figures/architecture.svg.
"""

from __future__ import annotations

import ast
from html import escape
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
PICTURE = REPO / "docs" / "figures" / "architecture.svg"
PARTS = ("benchmarks", "commands", "experiments", "mingpt")
DOORS = [REPO / "lab.py", REPO / "plotter.py"]
FILES = [*DOORS, *(path for part in PARTS for path in sorted((REPO / part).rglob("*.py")))]
# The rooms of a part, the lowest floor first. Rooms of one floor do not import each other.
FLOORS = {
    "mingpt": ["utils moe shards",
               "config layers norms losses patterns optimizers lr_schedules bpe memory "
               "parametrization",
               "mlps positions sparse sampling",
               "attention multi_token pretrained",
               "blocks parallel",
               "model trainer"],
    "experiments": ["system",
                    "records corpus audit",
                    "weights",
                    "declare",
                    "train verdicts",
                    "launch figures",
                    "report analysis"],
}
OUTSIDE = [["commands"], ["lab", "plotter"], ["benchmarks"]]     # above both parts


def imports(path: Path, lazy: bool = True) -> set[str]:
    """Every module that a file imports, by its full name; without `lazy` only at its top level."""
    package = path.relative_to(REPO).parts[:-1]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree) if lazy else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[:len(package) - node.level + 1] if node.level else ()
            source = ".".join([*above, *([node.module] if node.module else [])])
            found |= {source} | {f"{source}.{alias.name}" for alias in node.names}
    return found


def file_of(module: str) -> Path | None:
    """The file of a module of this project; None for any other."""
    stem = REPO.joinpath(*module.split("."))
    if stem.with_suffix(".py").is_file():
        return stem.with_suffix(".py")
    return stem / "__init__.py" if (stem / "__init__.py").is_file() else None


def room(path: Path) -> str:
    """The room that a file stands in. commands/ and benchmarks/ are one room each."""
    parts = path.relative_to(REPO).with_suffix("").parts
    return "/".join(parts[:2] if parts[0] in FLOORS else parts[:1])


def arrows() -> dict[str, set[str]]:
    """{room: the rooms that its files import}. Imports inside functions count as well."""
    found: dict[str, set[str]] = {}
    for path in FILES:
        targets = {room(file) for name in imports(path) if (file := file_of(name)) is not None}
        found.setdefault(room(path), set()).update(targets - {room(path)})
    bare = {f"{part}/__init__" for part in FLOORS}
    return {name: targets - bare for name, targets in found.items() if name not in bare}


# -- the picture -----------------------------------------------------------------------------------

WIDTH, HEIGHT, GAP, MARGIN = 104, 30, 14, 24
STYLE = """
  .band { fill: #8881; stroke: none } .room { fill: #fff; stroke: #5a6b7b }
  .arrow { stroke: #5a6b7b; stroke-opacity: .55; fill: none } .head { fill: #5a6b7b }
  text { font: 13px system-ui, sans-serif; fill: #1f2933; text-anchor: middle }
  .part { font-weight: 600; text-anchor: start }
  @media (prefers-color-scheme: dark) {
    .room { fill: #1d2630 } text { fill: #e4e9ee } .arrow, .room { stroke: #9fb0c0 }
    .head { fill: #9fb0c0 } }
"""


def thinned(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The arrows that no longer way implies: a reader follows the rest from room to room."""
    def below(name: str) -> set[str]:
        return {further for target in graph[name] for further in {target} | below(target)}
    return {name: {t for t in targets if not any(t in below(o) for o in targets - {t})}
            for name, targets in graph.items()}


def rows() -> list[list[str]]:
    """The floors from the top of the picture to its foot."""
    inside = [[f"{part}/{name}" for name in floor.split()]
              for part in ("experiments", "mingpt") for floor in reversed(FLOORS[part])]
    return [*reversed(OUTSIDE), *inside]


def places() -> tuple[dict[str, tuple[float, float]], float, float]:
    """({room: its upper left corner}, the picture's width, its height)"""
    floors = rows()
    widest = max(len(floor) for floor in floors)
    total = 2 * MARGIN + widest * WIDTH + (widest - 1) * GAP
    found, y = {}, float(MARGIN)
    for at, floor in enumerate(floors):
        if at in (len(OUTSIDE), len(OUTSIDE) + len(FLOORS["experiments"])):
            y += 34                                          # the name of the part stands here
        x = (total - len(floor) * WIDTH - (len(floor) - 1) * GAP) / 2
        for name in floor:
            found[name] = (x, y)
            x += WIDTH + GAP
        y += HEIGHT + 34
    return found, total, y - 34 + MARGIN


def draw() -> str:
    """The rooms, floor by floor, and the thinned arrows, as SVG."""
    where, width, height = places()
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
             'role="img" aria-label="The parts of the project and what each imports">',
             f"<style>{STYLE}</style>",
             '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
             'markerHeight="7" orient="auto"><path class="head" d="M0 0 8 4 0 8z"/></marker>'
             "</defs>"]
    for part in ("experiments", "mingpt"):
        ys = [y for name, (_, y) in where.items() if name.startswith(f"{part}/")]
        top, foot = min(ys) - 34, max(ys) + HEIGHT + 12
        lines.append(f'<rect class="band" x="6" y="{top:.0f}" width="{width - 12:.0f}" '
                     f'height="{foot - top:.0f}" rx="10"/>'
                     f'<text class="part" x="18" y="{top + 20:.0f}">{part}/</text>')
    for name, targets in sorted(thinned(arrows()).items()):
        x, y = where[name]
        for target in sorted(targets):
            tx, ty = where[target]
            x1, y1, x2, y2 = x + WIDTH / 2, y + HEIGHT, tx + WIDTH / 2, ty - 1
            bend = (y2 - y1) / 2
            lines.append(f'<path class="arrow" marker-end="url(#head)" d="M{x1:.0f} {y1:.0f}C'
                         f'{x1:.0f} {y1 + bend:.0f} {x2:.0f} {y2 - bend:.0f} {x2:.0f} {y2:.0f}"/>')
    for name, (x, y) in where.items():
        lines.append(f'<rect class="room" x="{x:.0f}" y="{y:.0f}" width="{WIDTH}" '
                     f'height="{HEIGHT}" rx="5"/><text x="{x + WIDTH / 2:.0f}" '
                     f'y="{y + 20:.0f}">{escape(name.rpartition("/")[2])}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
    print(f"wrote {PICTURE.relative_to(REPO)}")
