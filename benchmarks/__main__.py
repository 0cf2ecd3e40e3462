"""
`make bench` runs every benchmark here, one after the other; `make bench ARGS=tokenizing` runs one.
"""

import runpy
import sys

NAMES = ["step", "attention", "schedules", "tokenizing"]   # modules of this package with a `main`


def main(wanted: list[str]) -> int:
    """Run the wanted benchmarks, or all of them; 2 for an unknown name."""
    for name in wanted:
        if name not in NAMES:
            print(f"error: no benchmark {name!r}; known: {', '.join(NAMES)}", file=sys.stderr)
            return 2
    for name in wanted or NAMES:
        print(f"== benchmarks/{name}.py", flush=True)
        sys.argv = [name]
        try:
            runpy.run_module(f"benchmarks.{name}", run_name="__main__")
        except SystemExit as end:   # how a module that is run says that it is done
            if end.code:
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
