"""
Compare a few arms with the baseline: declare a study from flags, and run it.

    python lab.py compare -r -s --seeds 3          baseline, rope and swiglu, with the seeds 0, 1, 2
    python lab.py compare -r -rs --window 96       baseline, rope, swiglu_rope and window96
    python lab.py compare -r --arm "wide: -s --model.mlp_hidden=512" --model.n_layer=2

Each flag is an arm of its own; flags written together, such as -rs, are one arm. The baseline is
always there. A setting --section.key=value holds for all arms. The study is written to
OUT/studies/NAME.toml and printed. Then this verb does what `lab.py study` does with that file. The
same command goes on where it stopped, and a larger --seeds adds runs.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import re
import shlex
import sys
from pathlib import Path

from commands import study
from commands._arguments import (
    Parser,
    add_arm_arguments,
    add_code_argument,
    attention_overrides,
    source_overrides,
    split_overrides,
)
from experiments.declare.arms import NAME, catalogue
from mingpt.utils import BadInput, did_you_mean, write_atomic


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `compare`."""
    add = parser.add_argument_group("arms (each is an arm of its own)").add_argument
    for arm in catalogue().values():
        add(*arm.flags, dest="arms", action="append_const", const=arm.flags[0], help=arm.help)
    for option, metavar, text in (
            ("attention", "KIND", "how queries, keys and values are made (gqa, mqa, mla, …)"),
            ("schedule", "S", "which keys each layer sees: a name, '256*', 'f 256/4*', FILE.json"),
            ("window", "W", "every layer sees only the last W keys")):
        add(f"--{option}", dest="arms", action="append", metavar=metavar, help=text,
            type=lambda value, option=option: f"--{option} {shlex.quote(value)}")
    add("--arm", dest="arms", action="append", metavar="'NAME: FLAGS'",
        help="any other arm, with the options and settings of `train`; without a name it gets "
             "its default one")
    add = parser.add_argument_group("the study").add_argument
    add("--seeds", default="3", metavar="N",
        help="how many seeds (3 means 0, 1 and 2), or which: 0-4, or 0,2,5 (default 3)")
    add("--margin", type=float, default=0.01, metavar="M",
        help="arms closer than this, in nats per token, count as equivalent (default 0.01)")
    add("--name", help="the study's name (default: from the arms, as in compare_rope_swiglu)")
    study.add_launch_options(parser)
    add_code_argument(parser)


def spell_out(arguments: list[str]) -> list[str]:
    """The arguments with -rs as --arm='-r -s', because argparse would read two arms; and with the
    value of --arm joined to it, because that may begin with a dash. Raises BadInput for a letter
    that is no arm's flag."""
    letters = {flag[1]: flag for arm in catalogue().values() for flag in arm.flags
               if len(flag) == 2}
    words, result = iter(arguments), []
    for word in words:
        if word == "--arm":
            word = f"--arm={next(words, '')}"
        elif re.fullmatch(r"-[A-Za-z]{2,}", word):
            for letter in word[1:]:
                if letter not in letters:
                    raise BadInput(f"{word}: no arm's flag "
                                   f"-{letter}{did_you_mean(f'-{letter}', letters.values())}")
            word = "--arm=" + " ".join(letters[letter] for letter in word[1:])
        result.append(word)
    return result


def main(args: argparse.Namespace) -> int:
    """Write the study, print it, and run it as `lab.py study` does; return the exit code. Raises
    BadInput."""
    from experiments.declare import compare
    from experiments.declare.spec import parse_override
    seeds, base = _seeds(args.seeds), list(args.overrides)
    study.check_jobs(args.jobs)    # before the study is written and printed
    if not 0 < args.margin < math.inf:
        raise BadInput(f"--margin {args.margin:g}: give a number above 0")
    if args.max_iters is not None:
        base.append(f"--trainer.max_iters={args.max_iters}")
    arms = compare.read_arms(map(_asked, args.arms or []), args.preset, args.data or None, base)
    shared = dict(map(parse_override, base)) | ({"data.paths": args.data} if args.data else {})
    text = compare.study_text(arms, shared, args.preset, seeds, args.margin, args.code)
    name = _name(args.name or compare.study_name(arms))
    path, is_new = _write(text, compare.read_back(text, name, arms, shared), args.out)
    print(f"# {path}\n{path.read_text(encoding='utf-8')}",
          file=sys.stderr if args.json else sys.stdout)
    args.study, args.seeds = str(path), ",".join(map(str, seeds))
    args.preset, args.data, args.max_iters, args.overrides = None, [], None, []   # in the file
    args.plan = args.task = None
    try:
        return study.main(args)
    except BadInput:
        if is_new:     # what is refused leaves nothing behind
            path.unlink()
            with contextlib.suppress(OSError):     # the folder may hold other studies
                path.parent.rmdir()
        raise


def _seeds(text: str) -> list[int]:
    """'3' → [0, 1, 2]; any other text is a list of seeds. Raises BadInput."""
    from experiments.declare.study import parse_seeds
    if text.isdecimal() and len(text) < 10:
        if int(text) == 0:
            raise BadInput("--seeds 0: at least 1")
        text = f"0-{int(text) - 1}"
    return parse_seeds(text, "--seeds")


def _asked(text: str):
    """The arm that a text such as 'NAME: -r --model.mlp=geglu' describes. Raises BadInput."""
    from experiments.declare.compare import Asked
    name, colon, words = (None, ":", text) if text.lstrip().startswith("-") else text.partition(":")
    if not colon or not words.strip():
        raise BadInput(f'--arm {text!r}: write it as --arm "NAME: FLAGS", as in '
                       f'--arm "wide: -s --model.mlp_hidden=512"')
    try:
        rest, overrides = split_overrides(shlex.split(words))
        parser = Parser(prog="lab.py train", allow_abbrev=False, add_help=False)
        add_arm_arguments(parser)
        args = parser.parse_args(rest)
    except (BadInput, ValueError) as error:     # ValueError: a quotation that does not end
        raise BadInput(f"arm {text!r}: {error}") from None
    if args.study or args.arm:
        raise BadInput(f"arm {text!r}: --study and --arm do not belong inside an arm")
    return Asked(text.strip(), name and name.strip(), tuple(args.flags or ()),
                 (*attention_overrides(args), *source_overrides(args), *overrides))


def _name(name: str) -> str:
    """The study's name. Raises BadInput for one that cannot name a file, or that is taken."""
    from experiments.declare.study import shipped
    if not NAME.fullmatch(name):
        raise BadInput(f"--name {name!r}: letters, digits and _ . + - only")
    if name in shipped():
        raise BadInput(f"--name {name}: a study of that name comes with the project: choose "
                       f"another name")
    return name


def _write(text: str, declared, out: str) -> tuple[Path, bool]:
    """(the study's file, whether it is new). A file that declares the same arms is kept. Raises
    BadInput where another study of that name has runs."""
    from experiments.declare.compare import same_question
    from experiments.declare.study import load_study
    folder = Path(out).expanduser()
    path, losses = folder / "studies" / f"{declared.name}.toml", folder / "losses" / declared.name
    if path.is_file() and same_question(load_study(path), declared):
        return path, False
    if any(losses.glob("*.s*")):
        raise BadInput(f"{losses} holds the runs of another study of that name: choose another "
                       f"with --name, or another --out")
    is_new = not path.exists()
    try:
        write_atomic(path, text)
    except OSError as error:
        raise BadInput(f"--out: cannot write {path}: {error.strerror}") from None
    return path, is_new
