"""
What was wrong with the lines of a corpus: how many of each kind, and where the first of each
stands.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from mingpt.utils import BadInput


@dataclass
class First:
    """The first bad line of a kind. `source`: which of the corpus's sources; `line`: from 1, blank
    lines counted."""
    source: int
    line: int
    hint: str


@dataclass
class Report:
    """Lines read (blank ones aside), bad ones by kind, sources that end too early, and how often
    the text holds what other programs take for the end of a document."""
    lines: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    firsts: dict[str, First] = field(default_factory=dict)
    # source, documents read before, how
    cut_short: list[tuple[int, int, str]] = field(default_factory=list)
    markers: dict[str, int] = field(default_factory=dict)

    @property
    def bad(self) -> int:
        return sum(self.counts.values())

    def add(self, kind: str, source: int, line: int, hint: str) -> None:
        """Count a bad line."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.firsts.setdefault(kind, First(source, line, hint))

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict) -> Report:
        firsts = {kind: First(**first) for kind, first in stored["firsts"].items()}
        cut = [tuple(entry) for entry in stored["cut_short"]]
        return cls(stored["lines"], stored["counts"], firsts, cut, stored["markers"])

    def describe(self, names: list[str]) -> dict:
        """For a record: {'lines', 'bad', 'kinds': {kind: {'count', 'file', 'line'}}, 'cut_short':
        […]}."""
        kinds = {kind: {"count": count, "file": names[self.firsts[kind].source],
                        "line": self.firsts[kind].line}
                 for kind, count in self.counts.items()}
        cut = [{"file": names[source], "documents": documents, "how": how}
               for source, documents, how in self.cut_short]
        return {"lines": self.lines, "bad": self.bad, "kinds": kinds, "cut_short": cut}

    def check(self, names: list[str], max_bad: float, allow_truncated: bool) -> None:
        """BadInput when more than a share of the lines is bad, or a source is cut short and that is
        not allowed."""
        if self.cut_short and not allow_truncated:
            source, documents, how = self.cut_short[0]
            raise BadInput(f"--data {names[source]} {how}: {documents:,} documents could be read "
                           f"before that "
                           "(to go on with those: --data.allow_truncated=true)")
        if self.bad > max_bad * self.lines:
            self.refuse(names, self.lines, max_bad)

    def refuse(self, names: list[str], lines: int, max_bad: float) -> None:
        """BadInput naming the counts, and the share that would be needed."""
        found = "; ".join(self._kind(kind, names) for kind
                          in sorted(self.counts, key=self.counts.get, reverse=True))
        needed = min(1.0, -(-self.bad * 1000 // lines) / 1000)   # rounded up
        advice = f"to go on without them: --data.max_bad={needed:g}"
        if self.counts.get("no text", 0) > lines / 2:
            advice = "choose where the text stands with --data.text_key=…"
        raise BadInput(f"{self.bad:,} of {lines:,} lines are bad ({self.bad / lines:.1%}, allowed "
                       f"{max_bad:.1%}): "
                       f"{found} ({advice})")

    def _kind(self, kind: str, names: list[str]) -> str:
        first = self.firsts[kind]
        hint = f", {first.hint}" if first.hint else ""
        return f"{self.counts[kind]:,} {kind} (first: {names[first.source]}:{first.line}{hint})"
