"""What became of every row."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class SourceReport:
    """The rows of one source, counted."""

    rows: int = 0
    kept: int = 0
    flawed: Counter[str] = field(default_factory=Counter)
    """Dropped because the row is no preference pair, by flaw."""
    overlong: Counter[str] = field(default_factory=Counter)
    """Dropped because the pair does not fit into `max_length`, by reason."""
    cut: Counter[str] = field(default_factory=Counter)
    """Kept with fewer tokens: `prompt`, or the `chosen` or `rejected` response."""
    notes: Counter[str] = field(default_factory=Counter)
    """Kept, with something worth knowing: `boundary_merged`, `double_bos`, `special_token_in_content`."""

    @property
    def dropped(self) -> Counter[str]:
        """Every dropped row, by reason."""
        return self.flawed + self.overlong

    def line(self) -> str:
        """`5732 rows, 5700 kept; dropped: 30 overlong, 2 empty_response`."""
        parts = [f"{self.rows} rows, {self.kept} kept"]
        for title, counts in (("dropped", self.dropped), ("cut", self.cut), ("note", self.notes)):
            if counts:
                parts.append(f"{title}: {listing(counts)}")
        return "; ".join(parts)


@dataclass
class DataReport:
    """The rows of every source, counted, by the source's name."""

    sources: dict[str, SourceReport] = field(default_factory=dict)

    @property
    def kept(self) -> int:
        """The number of pairs that came out."""
        return sum(source.kept for source in self.sources.values())

    def lines(self) -> list[str]:
        """One line per source for people to read."""
        return [f"{name}: {source.line()}" for name, source in self.sources.items()]


def listing(counts: Counter[str]) -> str:
    """`7 empty_response, 2 wrong_type`, the most frequent first."""
    return ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
