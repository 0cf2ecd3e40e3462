"""
Counts the bad lines of a corpus by kind, and keeps where the first of each kind is.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from mingpt.utils import BadInput


@dataclass
class First:
    """The first bad line of a kind. `source` is the number of the source, from 0; `line` counts
    from 1 and includes blank lines."""
    source: int
    line: int
    hint: str


@dataclass
class Report:
    """The lines read (without blank ones), the bad lines by kind, the sources that end too early,
    and how often the text holds end-of-document markers of other programs."""
    lines: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    firsts: dict[str, First] = field(default_factory=dict)
    # per source that ends too early: its number, the documents read before, what is wrong
    cut_short: list[tuple[int, int, str]] = field(default_factory=list)
    markers: dict[str, int] = field(default_factory=dict)

    @property
    def bad(self) -> int:
        """The number of bad lines."""
        return sum(self.counts.values())

    def add(self, kind: str, source: int, line: int, hint: str) -> None:
        """Count a bad line."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.firsts.setdefault(kind, First(source, line, hint))

    def merge(self, other: Report, before: int) -> None:
        """Add the report of the next sources, of which there are `before` before them."""
        self.lines += other.lines
        for mine, theirs in ((self.counts, other.counts), (self.markers, other.markers)):
            for key, count in theirs.items():
                mine[key] = mine.get(key, 0) + count
        for kind, first in other.firsts.items():
            self.firsts.setdefault(kind, First(first.source + before, first.line, first.hint))
        self.cut_short += [(source + before, *rest) for source, *rest in other.cut_short]

    def to_json(self) -> dict:
        """The report as a store keeps it, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict) -> Report:
        """The report that `to_json` gave."""
        firsts = {kind: First(**first) for kind, first in stored["firsts"].items()}
        cut = [tuple(entry) for entry in stored["cut_short"]]
        return cls(stored["lines"], stored["counts"], firsts, cut, stored["markers"])

    def describe(self, names: list[str]) -> dict:
        """The report for a run's record: {'lines', 'bad', 'kinds': {kind: {'count', 'file',
        'line'}}, 'cut_short': […]}."""
        kinds = {kind: {"count": count, "file": names[self.firsts[kind].source],
                        "line": self.firsts[kind].line}
                 for kind, count in self.counts.items()}
        cut = [{"file": names[source], "documents": documents, "how": how}
               for source, documents, how in self.cut_short]
        return {"lines": self.lines, "bad": self.bad, "kinds": kinds, "cut_short": cut}

    def check(self, names: list[str], max_bad: float, allow_truncated: bool) -> None:
        """Raise BadInput where more than the share `max_bad` of the lines is bad, or where a source
        is cut short and that is not allowed."""
        if self.cut_short and not allow_truncated:
            source, documents, how = self.cut_short[0]
            raise BadInput(f"--data {names[source]} {how}: {documents:,} documents could be read "
                           f"before that (to go on with those: --data.allow_truncated=true)")
        if self.bad > max_bad * self.lines:
            self.refuse(names, self.lines, max_bad)

    def refuse(self, names: list[str], lines: int, max_bad: float) -> None:
        """Raise BadInput with the counts, and with the share that would have to be allowed."""
        found = "; ".join(self._kind(kind, names) for kind
                          in sorted(self.counts, key=self.counts.get, reverse=True))
        needed = min(1.0, -(-self.bad * 1000 // lines) / 1000)   # rounded up
        advice = f"to go on without them: --data.max_bad={needed:g}"
        if self.counts.get("no text", 0) > lines / 2:
            advice = "name the key of the text with --data.text_key=…"
        raise BadInput(f"{self.bad:,} of {lines:,} lines are bad ({self.bad / lines:.1%}, allowed "
                       f"{max_bad:.1%}): {found} ({advice})")

    def _kind(self, kind: str, names: list[str]) -> str:
        first = self.firsts[kind]
        hint = f", {first.hint}" if first.hint else ""
        return f"{self.counts[kind]:,} {kind} (first: {names[first.source]}:{first.line}{hint})"
