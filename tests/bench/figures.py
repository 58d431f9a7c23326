"""Samples, rows and the table they are printed in."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import ceil


class Statistic(StrEnum):
    """What of two samples is compared."""

    P50 = "p50"
    P99 = "p99"


@dataclass(frozen=True, slots=True)
class Samples:
    """Measured values of one kind, in the unit that their row names."""

    values: tuple[float, ...]

    def at(self, statistic: Statistic) -> float:
        """The smallest value that so many of a hundred do not exceed (nearest rank)."""
        percent, ranked = int(statistic[1:]), sorted(self.values)
        return ranked[ceil(percent * len(ranked) / 100) - 1]

    def __str__(self) -> str:
        if len(self.values) == 1:
            return number(self.values[0])
        figures = (self.at(Statistic.P50), self.at(Statistic.P99), max(self.values))
        return " / ".join(map(number, figures))


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: what gated needs, what the floor needs, and how far apart they may be."""

    metric: str
    unit: str
    floor_is: str
    floor: Samples | None
    ours: Samples
    compared: float
    """The ratio, or the difference, or the bare figure where there is no floor: see ``how``."""
    how: str
    most: float | None
    """The target; None for what is only told."""

    @property
    def met(self) -> bool:
        """Whether the target is met."""
        return self.most is None or self.compared <= self.most


def ratio(  # noqa: PLR0917 - in the order of the table's columns
    metric: str,
    unit: str,
    floor_is: str,
    floor: Samples,
    ours: Samples,
    most: float | None,
    statistic: Statistic = Statistic.P50,
) -> Row:
    """A row that compares one statistic of both."""
    how = f"x {statistic}" if len(ours.values) > 1 else "x"
    return Row(metric, unit, floor_is, floor, ours, ours.at(statistic) / floor.at(statistic), how, most)


def one(value: float) -> Samples:
    """A figure that was taken once."""
    return Samples((value,))


def number(value: float) -> str:
    """Three digits that count, no more."""
    if value >= 100 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.2f}" if value >= 1 else f"{value:.3f}"


_HEADS = ("metric", "unit", "n", "floor", "floor p50/p99/max", "gated p50/p99/max", "ratio", "target", "")


def table(rows: Sequence[Row]) -> str:
    """All rows, in columns as wide as they need."""
    lines = [_HEADS, *map(_cells, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADS))]
    written = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines
    ]
    written.insert(1, "─" * len(written[0]))
    return "\n".join(line.rstrip() for line in written)


def _cells(row: Row) -> tuple[str, ...]:
    count = len(row.ours.values)
    return (
        row.metric,
        row.unit,
        str(count) if count > 1 else "",
        row.floor_is,
        str(row.floor) if row.floor else "",
        str(row.ours),
        f"{row.compared:.2f} {row.how}",
        "" if row.most is None else f"≤ {row.most:g}",
        "" if row.most is None else "met" if row.met else "NOT MET",
    )
