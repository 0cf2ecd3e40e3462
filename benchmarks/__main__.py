"""
Run all benchmarks, one after the other.

    make bench
    python -m benchmarks [NAME…] [--quick]

With --quick and without copies of minGPT and nanoGPT it takes eleven minutes on two idle cores.

`make bench MINGPT=path NANOGPT=path` also compares with copies of these two. An option other than
--quick needs the name of one benchmark: `make bench ARGS='step --only gpt-mini litgpt'`.
"""

import ast
import importlib
import os
import sys
from pathlib import Path

# the modules of this folder that run by default; each has a `main`
NAMES = ["step", "generation", "arms", "levers", "attention", "schedules", "tokenizing"]


def main(arguments: list[str]) -> int:
    """Run the named benchmarks, or all of them; return the largest exit code.

    Returns 2 for an unknown name, and for options that need one name.
    """
    wanted, given = split(arguments)
    asked = bool({"-h", "--help"} & set(given))
    if asked and not wanted:
        print(overview())
        return 0
    for name in wanted:
        if name not in NAMES:
            print(f"error: no benchmark {name!r}; known: {', '.join(NAMES)}", file=sys.stderr)
            return 2
    if set(given) - {"--quick"} and len(wanted) != 1:
        print(f"error: {' '.join(given)}: name the one benchmark that this is for; only --quick "
              f"works for all", file=sys.stderr)
        return 2
    return max([(explain if asked else run)(name, given) for name in wanted or NAMES])


def overview() -> str:
    """The help: this module's docstring, and the first line of each benchmark's. Nothing is
    imported for it, so it needs no packages."""
    width = max(map(len, NAMES))
    return "\n".join([(__doc__ or "").strip(), "", "benchmarks:"] + [
        f"  {name:<{width}}  {docstring(name).splitlines()[0]}" for name in NAMES])


def docstring(name: str) -> str:
    """The docstring of a benchmark's module, read from its file."""
    source = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(source)) or ""


def explain(name: str, given: list[str]) -> int:
    """Print a benchmark's own help; its docstring where packages that it needs are missing."""
    try:
        importlib.import_module(f"benchmarks.{name}")
    except ImportError:
        print(f"{docstring(name)}\n\n`make bench` installs what it needs; --help then lists its "
              f"options, too.")
        return 0
    return run(name, given)


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Split the command line into (names, options); the first word with "-" starts the options."""
    first = next((n for n, word in enumerate(arguments) if word.startswith("-")), len(arguments))
    return arguments[:first], arguments[first:]


def run(name: str, given: list[str]) -> int:
    """Run one benchmark as `python -m benchmarks.NAME` does, and return its exit code.

    The module is imported, not run as `__main__`, because its child processes must find its
    functions by name.
    """
    # imported here because it needs the packages, which the help does without
    from benchmarks.kit import options
    if "-h" not in given and "--help" not in given:
        print(f"== benchmarks/{name}.py", flush=True)
    sys.argv = [name, *given]
    module = importlib.import_module(f"benchmarks.{name}")
    try:
        return options.run(module.main) or 0
    except SystemExit as end:   # argparse exits this way
        return int(end.code or 0)


if __name__ == "__main__":
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:   # the reader of a pipe (head, less) has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())   # Python flushes at its end
        code = 0
    sys.exit(code)
