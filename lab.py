"""
ablate: change one thing in a GPT, train the variants, and get an answer that can be trusted.

    python lab.py -r -s -w                train one arm: rotary positions, SwiGLU, warm-up
    python lab.py VERB --help             explain one verb and its options
    python lab.py --version               the versions of this project and of what it imports

Without a verb, `train` is meant. Any setting can be given as --section.key=value, for example
--model.n_layer=2 --trainer.learning_rate=1e-3; `python lab.py settings` lists them.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import importlib
import os
import sys
from pathlib import Path

from commands._arguments import Parser, settings_help, split_overrides
from commands._door import guarded
from mingpt.utils import BadInput, did_you_mean

# Waiting OpenMP threads spin, which takes the cores from processes that have work. Beside one busy
# process on two cores, 60 steps of a small model took 28 s with libgomp's default and 4.4 s with
# this limit; alone they took 1.9 s either way. The variable must be set before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# Python would go through all objects of torch once more before it ends, which takes 0.35 s.
atexit.register(gc.freeze)

COMMANDS = Path(__file__).resolve().parent / "commands"


def verbs() -> list[str]:
    """The verbs: the names of the modules in commands/ that do not start with an underscore."""
    return sorted(path.stem for path in COMMANDS.glob("[a-z]*.py"))


def overview() -> str:
    """The help of lab.py itself: each verb with the first line of its module's docstring."""
    lines = [__doc__.strip(), "", "verbs:"]
    for verb in verbs():
        text = (COMMANDS / f"{verb}.py").read_text(encoding="utf-8").lstrip().lstrip('"').lstrip()
        lines.append(f"  {verb:<10} {text.splitlines()[0].rstrip('.')}")
    return "\n".join(lines)


def arm_hint(word: str) -> str:
    """The flag of an arm that was given without its dashes; empty for any other word."""
    from experiments.declare.arms import catalogue
    arm = catalogue().get(word)
    return f": did you mean the flag {arm.flags[0]!r}?" if arm else ""


def main(argv: list[str]) -> int:
    """Run one verb and return its exit code. Raises BadInput."""
    if argv and argv[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if argv and argv[0] in ("-V", "--version", "version"):
        from experiments.records.record import version_lines
        print("\n".join(version_lines()))
        return 0
    if argv and not argv[0].startswith("-") and argv[0] not in verbs():
        hint = arm_hint(argv[0]) or did_you_mean(argv[0], verbs())
        raise BadInput(f"lab.py: no verb {argv[0]!r}{hint}")
    verb, arguments = (argv[0], argv[1:]) if argv and argv[0] in verbs() else ("train", argv)
    command = importlib.import_module(f"commands.{verb}")
    parser = Parser(prog=f"lab.py {verb}", description=command.__doc__, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.takes_settings = getattr(command, "TAKES_SETTINGS", True)
    parser.epilog = settings_help() if parser.takes_settings else None
    command.add_arguments(parser)
    if hasattr(command, "spell_out"):     # the verb's own shorthand, which argparse cannot read
        arguments = command.spell_out(arguments)
    arguments, overrides = split_overrides(arguments)
    args = parser.parse_args(arguments)
    if overrides and not parser.takes_settings:
        raise BadInput(f"lab.py {verb} takes no settings: leave out {overrides[0]}")
    args.overrides = overrides
    return command.main(args)


def door() -> int:
    """Run the command line of this process and return its exit code. The command `ablate`, which
    pip installs, calls this too."""
    return guarded(main, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(door())
