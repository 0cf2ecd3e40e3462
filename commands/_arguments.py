"""
The options that several verbs share, and the argument parser of lab.py and plotter.py.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from experiments.declare.arms import catalogue
from experiments.declare.hints import flag_hint, meant, nearest_option, said
from experiments.declare.ranges import SECTIONS, shown
from experiments.records import codefiles
from mingpt.utils import BadInput

# what argparse says of a value that is no number, and of a letter behind -r that is no flag
INVALID = re.compile(r"invalid (int|float) value: (.+)")
IGNORED = re.compile(r"ignored explicit argument '(.+)'")


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are raised as BadInput, so they print as one line. With
    `takes_settings`, an unknown option may mean a setting."""

    takes_settings = False
    words: Sequence[str] = ()      # the command line, for error messages

    def parse_args(self, args: Sequence[str], namespace=None) -> argparse.Namespace:
        """Parse the words of the command line. Raises BadInput. Code files are run first, so that
        help, hints and settings know their members."""
        self.words = list(args)
        if "--code" in self.known():
            run_code(self.words, self.prog)
        return super().parse_args(args, namespace)

    def error(self, message: str) -> None:
        """Raise BadInput with argparse's message and the option or setting that may be meant."""
        if kind := INVALID.search(message):
            message = (f"{message[:kind.start()]}{kind[2]} is no "
                       f"{'whole ' * (kind[1] == 'int')}number")
        if together := IGNORED.search(message):     # -rz: r is a flag, z is none
            raise BadInput(f"{self.prog}: no flag -{together[1]} (see {self.prog} --help)")
        word = message.rpartition("unrecognized arguments: ")[2].split(" ")[0]
        raise BadInput(f"{self.prog}: {message}{self._hint(word)}")

    def _hint(self, word: str) -> str:
        known, (word, equals, value) = self.known(), word.partition("=")
        if not word.startswith("-") and (flag := self._flag_for(word)):
            return said([flag])
        if equals and not word.startswith("-") and self.takes_settings:
            names = [f"--{name}={value}" for name in meant(word)]
            return said(names) if names else ": settings are written --section.key=value"
        if word == "--code" and word not in known:
            return ': a study names its own code files: code = "FILE.py" at the top of its file'
        before = dict(zip(self.words[1:], self.words, strict=False)).get(word, "")
        if before.startswith("--") and not word.startswith("-"):    # --warmup 100
            setting = [f"--{key}" for key in meant(before) if self.takes_settings]
            return f": {before} takes no value" + (said(setting) if setting else "")
        if word.startswith("--") and self.takes_settings:
            return flag_hint(word, known)
        near = nearest_option(word, known) if word.startswith("--") else []
        return said(near) if near else f" (see {self.prog} --help)"

    def _flag_for(self, word: str) -> str | None:
        """The option that a bare word was meant for: an arm's flag for the arm's name, and --data
        for a file that is there."""
        arm = catalogue().get(word)
        flag = arm.flags[0] if arm and arm.flags[0] in self.known() else None
        return flag or (f"--data {word}" if "--data" in self.known() and Path(word).exists()
                        else None)

    def known(self) -> list[str]:
        """Every option, long and short, as it is written on the command line."""
        return [option for action in self._actions for option in action.option_strings]

    def format_help(self) -> str:
        """The help. To an option with `names`, a function, it adds the names that the option
        takes: only the help needs them, and some come from modules that load slowly."""
        for action in self._actions:
            if names := vars(action).pop("names", None):
                action.help = f"{action.help}: {', '.join(names())}"
        return super().format_help()


def split_overrides(argv: list[str]) -> tuple[list[str], list[str]]:
    """Split the arguments into (all others, the overrides of settings).

    An override is `--section.key=value` or `--section.key value`; both are returned in the first
    form. Raises BadInput where the value is missing.
    """
    rest, overrides, words = [], [], iter(argv)
    for word in words:
        name = word.partition("=")[0]
        if not (name.startswith("--") and "." in name):
            rest.append(word)
        elif "=" in word:
            overrides.append(word)
        else:
            value = next(words, None)
            if value is None or value.startswith("--"):
                raise BadInput(f"argument {word}: give it a value, {word}=VALUE")
            overrides.append(f"{word}={value}")
    return rest, overrides


def add_code_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option of the verbs that can use slot members from a file of the user."""
    parser.add_argument("--code", action="append", metavar="FILE.py",
                        help="run this file of yours and take its slot members; may be repeated "
                        "(docs/adding_an_arm.md)")


def run_code(words: Sequence[str], prog: str) -> None:
    """Run the code files that a command line names. Raises BadInput."""
    reader = Parser(prog=prog, add_help=False, allow_abbrev=False)
    reader.add_argument("--code", action="append", default=[])
    if files := reader.parse_known_args(words)[0].code:
        from experiments.declare.members import load
        load(files)


def add_arm_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verbs that build one arm."""
    arms = parser.add_argument_group("arms (these flags combine)")
    for arm in catalogue().values():
        arms.add_argument(*arm.flags, dest="flags", action="append_const", const=arm.name,
                          help=arm.help)
    arms.add_argument("--study", metavar="FILE",
                      help="a study, by name or as a TOML file; needs --arm")
    arms.add_argument("--arm", metavar="NAME",
                      help="an arm of the study; without --study, a name for this combination")
    attention = parser.add_argument_group("attention")
    attention.add_argument("--schedule", metavar="S",
                           help="which keys each layer sees: one pattern per layer ('f 256 128*4 "
                           "f'), FILE.json[:NAME], or a name").names = _schedules
    attention.add_argument("--window", type=int, metavar="W",
                           help="every layer sees only the last W keys")
    attention.add_argument("--dilation", type=int, metavar="D",
                           help="with --window: beyond the window, also every D-th key")
    attention.add_argument("--attention", metavar="NAME",
                           help="how queries, keys and values are made").names = _attentions
    attention.add_argument("--backend", metavar="NAME",
                           help="how attention is computed, which changes time and memory, not "
                           "the numbers").names = partial(
                               _names_in, "mingpt.sparse.backends", "BACKENDS")
    source = parser.add_argument_group("weights of another model")
    source.add_argument("--init", metavar="SOURCE",
                        help="start from the weights of a run, of a Hugging Face model (a folder "
                        "or a name on the hub), or of one of these, as far as they "
                        "fit").names = partial(_names_in, "mingpt.pretrained.read", "GPT2_SIZES")
    source.add_argument("--freeze-except", metavar="WORDS",
                        help="train only the parameters whose names contain these words, "
                        "separated by commas (attn, or mlp.c_fc,ln_*)")


def _schedules() -> list[str]:
    from mingpt.patterns.schedule import FORMULAS, NAMED
    return [*NAMED, *FORMULAS]


def _attentions() -> list[str]:
    own = [name for file in codefiles.LOADED for name in file.members.get("model.attention", ())]
    return [*_names_in("mingpt.attention.heads", "ATTENTIONS"), *own]


def _names_in(module: str, table: str) -> list[str]:
    """The names in a dict or set of texts of a module, read from its file: --help must not wait for
    torch, which the module imports."""
    path = Path(__file__).parents[1] / f"{module.replace('.', '/')}.py"
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            target, = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
            if ast.unparse(target) == table:
                names = node.value.keys if isinstance(node.value, ast.Dict) else node.value.elts
                return [ast.literal_eval(name) for name in names]
    raise LookupError(f"{path} has no {table}")


def check_seed(seed: int) -> None:
    """Raise BadInput for a number that is no seed."""
    from experiments.records.record import MAX_SEED
    if not 0 <= seed <= MAX_SEED:
        raise BadInput(f"--seed {shown(seed)}: a seed is a whole number from 0 to {MAX_SEED}")


def preset_names() -> list[str]:
    """The presets that come with the project."""
    from experiments.declare.presets import presets
    return [*presets()]


def attention_overrides(args: argparse.Namespace) -> list[str]:
    """The attention options as overrides, `--model.key=value`. Raises BadInput."""
    schedule = args.schedule
    if args.window is not None:
        from mingpt.patterns.schedule import uniform
        if schedule is not None:
            raise BadInput(f"--window {args.window} already sets the schedule: leave out "
                           f"--schedule {schedule}")
        schedule = uniform(args.window, args.dilation)
    elif args.dilation is not None:
        raise BadInput(f"--dilation {args.dilation} needs a window: give --window W as well")
    given = {"schedule": schedule, "attention": args.attention, "backend": args.backend}
    return [f"--model.{key}={value}" for key, value in given.items() if value is not None]


def source_overrides(args: argparse.Namespace) -> list[str]:
    """--init and --freeze-except as overrides, `--run.key=value`. Raises BadInput."""
    given = []
    if args.init is not None:
        from experiments.weights.begin import find_source
        given.append(f"--run.init={find_source(args.init, getattr(args, 'out', Path('.')))}")
    if args.freeze_except is not None:
        given.append(f"--run.freeze_except={args.freeze_except}")
    return given


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verbs that build a model and open a corpus."""
    add_size_arguments(parser)
    parser.add_argument("--data", nargs="+", metavar="PATH",
                        help="files, folders, globs, or the name of a data set "
                        "(default: a corpus made from Python's own standard library)")
    parser.add_argument("--out", type=Path, default=Path("."), metavar="DIR",
                        help="where losses/, checkpoints/ and visualizations/ are written (default "
                             ".)")


def add_size_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verbs that build a model: its size and its device."""
    parser.add_argument("--preset", metavar="NAME",
                        help="model size and training settings (default laptop): a TOML file, or "
                        "a name").names = preset_names
    parser.add_argument("--device", metavar="D",
                        help="cuda, mps or cpu (default: the fastest on this machine)")


def settings_help() -> str:
    """The groups of settings, for the end of a verb's help."""
    groups = "\n".join(f"  {name:<8} {meaning}" for name, meaning in SECTIONS.items())
    return (f"settings, each given as --section.key=value:\n{groups}\n`python lab.py settings "
            f"[WORD]` lists them with their defaults, ranges and meanings.")


def spec_from(args: argparse.Namespace):
    """The Spec (arm and settings) that the arguments describe. Raises BadInput."""
    from experiments.declare.spec import make_spec
    from experiments.declare.study import load_study
    overrides = [*attention_overrides(args), *source_overrides(args), *args.overrides]
    if getattr(args, "max_iters", None) is not None:
        overrides.append(f"--trainer.max_iters={args.max_iters}")
    if args.device:
        overrides.append(f"--trainer.device={args.device}")
    if getattr(args, "logger", None):
        overrides.append(f"--run.logger={args.logger}")
    if getattr(args, "allow_audit_fail", False):
        overrides.append("--run.allow_audit_fail=true")
    study = load_study(args.study) if args.study is not None else None
    return make_spec(args.preset, study, args.arm, args.flags or (),
                     getattr(args, "data", None), overrides)
