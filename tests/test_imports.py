"""The house's rules that a reader of one file cannot see: imports point one way, config is read
once, arms are data."""

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter

import pytest

from tests.helpers.rooms import FLOORS, PICTURE, REPO, arrows, draw, file_of, imports

LIBRARY = sorted((REPO / "mingpt").rglob("*.py"))
HARNESS = sorted((REPO / "experiments").rglob("*.py"))
COMMANDS = sorted((REPO / "commands").glob("*.py"))
VERBS = [path for path in COMMANDS if not path.stem.startswith("_")]
HEAVY = {"scipy", "pandas", "matplotlib", "statsmodels"}


def under(names, *packages):
    return {name for name in names if name.split(".")[0] in packages}


def label(path):
    return str(path.relative_to(REPO))


@pytest.mark.parametrize("path", LIBRARY, ids=label)
def test_the_library_knows_nothing_of_experiments(path):
    assert not under(imports(path), "experiments", "commands", "lab", "plotter", "argparse", *HEAVY)


@pytest.mark.parametrize("path", HARNESS, ids=label)
def test_experiments_know_nothing_of_the_command_line(path):
    assert not under(imports(path), "commands", "lab", "plotter", "argparse")


@pytest.mark.parametrize("path", COMMANDS, ids=label)
def test_commands_know_nothing_of_the_doors(path):
    assert not under(imports(path), "lab", "plotter")


def test_a_room_imports_only_from_rooms_below_it():
    levels = {f"{part}/{name}": level for part, floors in FLOORS.items()
              for level, floor in enumerate(floors) for name in floor.split()}
    for name, targets in arrows().items():
        part = name.partition("/")[0]
        if part in FLOORS:
            assert name in levels, f"give {name} a floor in tests/helpers/rooms.py"
            own = {target for target in targets if target.startswith(f"{part}/")}
            assert not {target for target in own if levels[target] >= levels[name]}, name


def test_no_circle_leads_through_rooms():
    list(TopologicalSorter(arrows()).static_order())     # CycleError names the circle


def test_the_picture_of_the_rooms_shows_the_imports_of_today():
    assert PICTURE.read_text(encoding="utf-8") == draw(), "run python -m tests.helpers.rooms"


@pytest.mark.parametrize("path", [*LIBRARY, *HARNESS, *COMMANDS], ids=label)
def test_no_import_goes_round_in_a_circle(path):
    start, seen, open_ = label(path), set(), [path]
    while open_:
        for name in imports(open_.pop(), lazy=False):
            file = file_of(name)
            assert file is None or label(file) != start, f"{start} imports itself by way of {name}"
            if file and file not in seen:
                seen.add(file)
                open_.append(file)


@pytest.mark.parametrize("path", LIBRARY, ids=label)
def test_config_is_read_when_a_part_is_built_and_never_in_its_forward(path):
    for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(function, ast.FunctionDef) and function.name == "forward":
            names = {n.id for n in ast.walk(function) if isinstance(n, ast.Name)}
            names |= {n.attr for n in ast.walk(function) if isinstance(n, ast.Attribute)}
            assert not {n for n in names if re.search(r"config|cfg", n,
                                                      re.I)}, f"{path.name}:{function.lineno}"


def test_every_module_can_be_imported_alone():
    for package in ("mingpt", "experiments", "commands"):
        for module in pkgutil.walk_packages([str(REPO / package)], f"{package}."):
            importlib.import_module(module.name)


@pytest.mark.parametrize("words", ["plotter.py", "lab.py", *(f"lab.py {path.stem}"
                                                             for path in VERBS)])
def test_help_needs_neither_torch_nor_pandas(words, tmp_path):
    door, *verb = words.split()
    assert not loaded_by(REPO / door, [*verb, "--help"], tmp_path, code=0) & {"torch", *HEAVY,
                                                                              "tiktoken",
                                                                              "transformers"}


def test_the_plotter_draws_without_torch(tmp_path):
    (tmp_path / "losses").mkdir()
    for arm, drop in (("baseline", 0.1), ("rope", 0.2)):
        rows = "".join(f"{i},{5 - drop * i}\n" for i in range(10))
        (tmp_path / "losses" / f"{arm}.csv").write_text("iteration,loss\n" + rows)
    loaded = loaded_by(REPO / "plotter.py", ["losses", "--out", "drawn"], tmp_path, code=0)
    assert "matplotlib" in loaded
    assert not loaded & {"torch", "transformers", "tiktoken"}
    assert list((tmp_path / "drawn").glob("*.png"))


def loaded_by(program, arguments, folder, code):
    """The top-level packages that a program loads on its way."""
    done = subprocess.run([sys.executable, "-X", "importtime", str(program), *arguments],
                          cwd=folder, text=True, capture_output=True)
    assert done.returncode == code, done.stderr[-3000:]
    return {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()
            if line.startswith("import time:")}


@pytest.mark.parametrize("name", ["lab.py", "plotter.py", "run_all.sh", "run_single.sh"])
def test_no_arms_name_stands_in_a_door_or_a_script(name):
    arms = set(tomllib.loads((REPO / "experiments" / "arms.toml").read_text(encoding="utf-8")))
    assert len(arms) >= 7
    text = (REPO / name).read_text(encoding="utf-8")
    words = set(re.findall(r"\w+", text))
    # a study's baseline is a word of the field, whatever arm it is
    assert not words & (arms - {"baseline"})
    assert not re.search(r"""["']baseline["']|--baseline""", text)
