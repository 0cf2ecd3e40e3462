"""
List every setting: its default, its range, its meaning, and the members of the slots.

    python lab.py settings             all settings
    python lab.py settings lr          those that the word names or whose meaning mentions it

A setting is given as --section.key=value, or in a study's file as section.key = value. Under a slot
stand its members, each with its own settings in brackets. A word that other programs use finds its
setting here too: `lr` finds trainer.learning_rate.
"""

from __future__ import annotations

import argparse
import json

from commands._arguments import add_code_argument

TAKES_SETTINGS = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `settings`."""
    parser.add_argument("words", nargs="*", metavar="WORD",
                        help="list only the settings that this word names or that mention it")
    add_code_argument(parser)
    parser.add_argument("--json", action="store_true", help="print the settings as JSON")


def main(args: argparse.Namespace) -> int:
    """Print the settings and return the exit code 0. Raises BadInput."""
    from experiments.declare.describe import describe, search, text_of
    from experiments.train.loggers import LOGGERS
    settings = describe(LOGGERS)
    if args.words:
        settings = search(settings, "_".join(args.words))
    print(json.dumps([setting.to_dict() for setting in settings], indent=2, ensure_ascii=False)
          if args.json else text_of(settings))
    return 0
