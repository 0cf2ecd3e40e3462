"""
Run all benchmarks, one after the other.

    make bench
    python -m benchmarks [NAME…] [--quick]

With --quick it takes eleven minutes on two idle cores, without copies of minGPT and nanoGPT.

`make bench MINGPT=path NANOGPT=path` compares with copies of these two as well. Options that one
benchmark has go to it alone: `make bench ARGS='step --only gpt-mini litgpt'`.
"""

import importlib
import sys

from benchmarks.kit import options

# modules here that have a `main`
NAMES = ["step", "generation", "arms", "levers", "attention", "schedules", "tokenizing"]


def main(arguments: list[str]) -> int:
    """Run the wanted benchmarks, or all of them, with the options given; 2 for an unknown name."""
    wanted, given = split(arguments)
    for name in wanted:
        if name not in NAMES:
            print(f"error: no benchmark {name!r}; known: {', '.join(NAMES)}", file=sys.stderr)
            return 2
    if set(given) - {"--quick"} and len(wanted) != 1:
        print(f"error: {' '.join(given)}: name the one benchmark that this is for; --quick is for "
              f"all", file=sys.stderr)
        return 2
    return max([run(name, given) for name in wanted or NAMES])


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """(the names in front, the options from the first one on)."""
    first = next((n for n, word in enumerate(arguments) if word.startswith("-")), len(arguments))
    return arguments[:first], arguments[first:]


def run(name: str, given: list[str]) -> int:
    """One of them, as `python -m benchmarks.NAME` does → its exit code. It is imported, not run as
    `__main__`: what it sends to processes of its own must be found there by name."""
    print(f"== benchmarks/{name}.py", flush=True)
    sys.argv = [name, *given]
    module = importlib.import_module(f"benchmarks.{name}")
    try:
        return options.run(module.main) or 0
    except SystemExit as end:   # how argparse ends
        return int(end.code or 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
