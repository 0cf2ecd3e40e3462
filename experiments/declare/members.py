"""
Runs a code file of the user and puts its members into the slots.

    load([Path("my_norm.py")])      # NORMS = {"dyt": DyT} in the file: then model.norm may be dyt

A code file is plain Python with dicts named like ours (TABLES). It is run only because the user
named it on the command line or in a study. It may add members and change nothing else: what it
does to this program or to torch while it is imported is found and refused.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import hashlib
import inspect
import sys
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments.declare.guard import changes_since, seeded, surroundings
from experiments.declare.names import all_slots
from experiments.records import codefiles
from experiments.records.codefiles import CodeFile
from mingpt.utils import BadInput, parse_value

# the name of a dict in a code file → the slot that its members join
TABLES = {"BLOCKS": "model.block", "ATTENTIONS": "model.attention", "NORMS": "model.norm",
          "MLPS": "model.mlp", "POSITIONS": "model.position",
          "PARAMETRIZATIONS": "model.parametrization", "SCHEDULES": "trainer.lr_schedule",
          "OPTIMIZERS": "trainer.optimizer"}
# slot → the arguments with which a member is called, and those of its forward
CALLS = {"block": ("config, layer", "x, allowed, cache"), "norm": ("dim, config", "x"),
         "attention": ("config, layer", "x, allowed, cache"), "mlp": ("config", "x"),
         "position": ("config, layer", None), "parametrization": ("config", None),
         "lr_schedule": ("progress, config", None),
         "optimizer": ("groups, config", None)}
LARGEST = 1_000_000    # bytes; every record keeps a copy
ALMOST = 0.8           # difflib's ratio from which a dict's name counts as a misspelled table


def load(paths: Iterable[str | Path]) -> None:
    """Run each file, unless it was run already, and add its members to the slots. Raises BadInput,
    with file and line, for a file that fails, adds nothing, or adds what no slot can take."""
    for path in paths:
        path = Path(path).expanduser().resolve()
        data = _read(path)
        if not codefiles.loaded(path, digest := hashlib.sha256(data).hexdigest()):
            text = _decoded(path, data)
            codefiles.LOADED.append(_Loading(path, digest, text).file())


def load_same(files: Iterable[CodeFile]) -> None:
    """Run, in another process, the files that the process which started it has run. Raises BadInput
    where one has changed since."""
    for file in files:
        if hashlib.sha256(_read(file.path)).hexdigest() != file.sha256:
            raise BadInput(f"{file.path}: the code file was changed while this program ran")
        load([file.path])


def forget() -> None:
    """Take the members of all code files out of the slots again."""
    slots = all_slots()
    for file in codefiles.LOADED:
        for slot, names in file.members.items():
            for name in names:
                slots[slot].pop(name, None)
        sys.modules.pop(_module_name(file.path, file.sha256), None)
    codefiles.LOADED.clear()


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"code file {path}: {error.strerror or error}") from None
    if len(data) > LARGEST:
        raise BadInput(f"code file {path}: {len(data):,} bytes, of which every record would keep a "
                       f"copy: at most {LARGEST:,}")
    return data


def _decoded(path: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data[:error.start].count(b"\n") + 1
        raise BadInput(f"{path}:{line}: not UTF-8 text (byte {error.start})") from None


def _module_name(path: Path, sha256: str) -> str:
    return f"code_file_{path.stem}_{sha256[:8]}"


class _Loading:
    """One code file while it is run and checked."""

    def __init__(self, path: Path, sha256: str, text: str):
        self.path, self.sha256, self.text = path, sha256, text
        self.slots = all_slots()     # this imports the library, which the file may import as well
        self.tree = self._parsed()

    def file(self) -> CodeFile:
        """Run the file, check what it defines, and add that to the slots."""
        try:
            found = self._tables(self._run())
            options = self._options(found)
        except BadInput:
            sys.modules.pop(_module_name(self.path, self.sha256), None)
            raise
        for slot, members in found.items():
            self.slots[slot].update(members)
        return CodeFile(self.path, self.sha256, self.text,
                        {slot: tuple(members) for slot, members in found.items()}, options)

    def error(self, line: int | None, text: str) -> BadInput:
        """A BadInput that names the file and the line."""
        return BadInput(f"{self.path}{f':{line}' if line else ''}: {text}")

    def line_of(self, name: str) -> int | None:
        """The line at which the file defines a class, a function or a variable."""
        for node in self.tree.body:
            names = [getattr(node, "name", None)] if hasattr(node, "name") else [
                ast.unparse(target) for target in getattr(node, "targets", [])
                or [getattr(node, "target", None)] if target is not None]
            if name in names:
                return node.lineno
        return None

    # -- running it --------------------------------------------------------------------------------

    def _parsed(self) -> ast.Module:
        try:
            return ast.parse(self.text, str(self.path))
        except SyntaxError as error:
            raise self.error(error.lineno, f"{type(error).__name__}: {error.msg}") from None
        except (ValueError, RecursionError, MemoryError) as error:
            raise self.error(None, codefiles.told(error)) from None

    def _run(self) -> Mapping[str, Any]:
        """Run the file as a module of its own and return what it defines. What it prints goes to
        stderr, and random numbers that it draws are the same at every start."""
        name = _module_name(self.path, self.sha256)
        module = sys.modules[name] = types.ModuleType(name)
        module.__file__ = str(self.path)
        before = surroundings()
        try:
            with contextlib.redirect_stdout(sys.stderr), seeded(self.sha256):
                code = compile(self.tree, str(self.path), "exec", dont_inherit=True)
                exec(code, vars(module))
        except (Exception, SystemExit) as error:
            line = (codefiles.place(error, self.path) or "").rpartition(":")[2]
            raise self.error(int(line) if line else None, codefiles.told(error)
                             + self._alone(error)) from None
        if wrong := changes_since(before, name):
            raise self.error(None, wrong)
        return vars(module)

    def _alone(self, error: BaseException) -> str:
        """What to do where the file imports another one that stands beside it."""
        missing = (getattr(error, "name", None) or "").partition(".")[0]
        beside = isinstance(error, ModuleNotFoundError) and missing and any(
            self.path.with_name(each).exists() for each in (f"{missing}.py", missing))
        return ": a code file stands alone, so put both into one file" if beside else ""

    # -- what it defines ---------------------------------------------------------------------------

    def _tables(self, defined: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """{slot: {name: member}} of the file's own tables, each checked."""
        tables = {name: value for name, value in defined.items() if name in TABLES
                  and value is not self.slots[TABLES[name]]}
        found = {TABLES[name]: self._table(name, value) for name, value in tables.items()}
        found = {slot: members for slot, members in found.items() if members}
        for name, value in defined.items():
            if isinstance(value, dict) and name.isupper() and name not in TABLES and (
                    near := difflib.get_close_matches(name, TABLES, n=1, cutoff=ALMOST)):
                raise self.error(self.line_of(name), f"no slot's table is called {name}: did you "
                                                     f"mean {near[0]!r}?")
        if not found:
            raise self.error(None, f"adds no member to any slot: define at least one of "
                                   f"{', '.join(TABLES)}, such as NORMS = {{'dyt': DyT}}")
        return found

    def _table(self, table: str, members: Any) -> dict[str, Any]:
        line, slot = self.line_of(table), TABLES[table]
        if not isinstance(members, dict):
            raise self.error(line, f"{table} is a dict from names to members, not {members!r:.60}")
        for name, member in members.items():
            self._check_name(line, table, slot, name)
            self._check_member(line, slot.partition(".")[2], name, member)
        return members

    def _check_name(self, line: int | None, table: str, slot: str, name: Any) -> None:
        plain = isinstance(name, str) and name.isascii() and name.isidentifier()
        if not plain or name != name.lower() or parse_value(name) != name or len(name) > 40:
            raise self.error(line, f"{table}: {name!r} cannot name a member: up to 40 small "
                                   f"letters, digits and _, and not None, true or false")
        if name in self.slots[slot]:
            owner = next((str(file.path) for file in codefiles.LOADED
                          if name in file.members.get(slot, ())), "this program")
            raise self.error(line, f"the name {name!r} is taken: --{slot}={name} is a member of "
                                   f"{owner}: choose another name")

    def _check_member(self, line: int | None, slot: str, name: str, member: Any) -> None:
        """Raise BadInput where a slot cannot use a member: of another kind, or with other
        arguments."""
        import torch

        from mingpt.config import REQUIRED, check_members
        from mingpt.parametrization import Standard
        line = self.line_of(getattr(member, "__name__", "")) or line
        what, (arguments, forward) = f"{slot} {name!r}", CALLS[slot]
        module = "__call__" not in REQUIRED[slot]
        kind, told = ((Standard, "mingpt.parametrization.Standard") if slot == "parametrization"
                      else (torch.nn.Module, "torch.nn.Module"))
        if module and not (isinstance(member, type) and issubclass(member, kind)):
            raise self.error(line, f"{what} is a class derived from {told}, not {member!r:.60}")
        if not callable(member) or (not module and isinstance(member, type)):
            raise self.error(line, f"{what} is a function of ({arguments}), not {member!r:.60}")
        self._check_call(line, what, member, arguments)
        try:
            check_members({slot: {name: member}})
        except TypeError as error:
            raise self.error(line, str(error)) from None
        if forward:
            self._check_call(line, f"{what}: forward", member.forward, f"self, {forward}")

    def _check_call(self, line: int | None, what: str, function: Any, arguments: str) -> None:
        """Raise BadInput for a function that cannot be called with these arguments."""
        try:
            inspect.signature(function).bind(*arguments.split(", "))
        except TypeError as error:
            raise self.error(line, f"{what} is called with ({arguments}): {error}") from None
        except ValueError:      # no signature, as of some functions written in C
            return

    def _options(self, found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """{setting: default} of the options that only this file's members have. Raises BadInput for
        an option that is another setting already, or has another default there."""
        from experiments.declare.settings import default_settings
        from mingpt.config import options_of
        known = default_settings().to_dict()
        theirs = {f"{slot.partition('.')[0]}.{option}" for slot, members in self.slots.items()
                  for member in members.values() for option in options_of(member)}
        earlier = {key for file in codefiles.LOADED for key in file.options}
        own: dict[str, Any] = {}
        for slot, members in found.items():
            section = slot.partition(".")[0]
            for name, member in members.items():
                line = self.line_of(getattr(member, "__name__", ""))
                for option, default in self._declared(line, slot, name, member).items():
                    key = f"{section}.{option}"
                    if option in known[section] and key not in theirs:
                        raise self.error(line, f"option {option!r} of {name}: {key} is a setting "
                                               f"of every arm: choose another name")
                    there = own.get(key, known[section].get(option, default))
                    if there != default or type(there) is not type(default):
                        raise self.error(line, f"option {option!r} of {name}: its default is "
                                               f"{default!r}, but {key} has {there!r}: members "
                                               f"share an option, so give it the same default")
                    if option not in known[section] or key in earlier:
                        own[key] = default
        return own

    def _declared(self, line: int | None, slot: str, name: str, member: Any) -> dict[str, Any]:
        """The options of one member, checked."""
        from mingpt.config import options_of
        options = options_of(member)
        if not isinstance(options, dict):
            raise self.error(line, f"{slot.partition('.')[2]} {name!r}: options is a dict from "
                                   f"names to defaults, not {options!r:.60}")
        for option, default in options.items():
            if not (isinstance(option, str) and option.isascii() and option.isidentifier()
                    and option == option.lower()):
                raise self.error(line, f"option {option!r} of {name}: small letters, digits and _ "
                                       f"only")
            values = default if isinstance(default, list | tuple) else [default]
            if not all(value is None or isinstance(value, bool | int | float | str)
                       for value in values):
                raise self.error(line, f"option {option!r} of {name}: its default is a number, a "
                                       f"text, true, false, None, or a list of these, not "
                                       f"{default!r:.60}")
        return options
