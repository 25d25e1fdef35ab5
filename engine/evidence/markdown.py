"""Tables, numbers, intervals and goals as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

Row = Sequence[object]


def table(head: Row, rows: Sequence[Row]) -> str:
    """A Markdown table; the first column to the left, the others to the right."""
    lines = ["| " + " | ".join(map(str, head)) + " |", "|" + "|".join([" --- ", *[" ---: "] * (len(head) - 1)]) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def goal(what: str, value: float, least: float) -> str:
    """A goal, and whether it was met."""
    return f"Goal {what} at least {least:g}: {value:.3f}, {'met' if value >= least else '**missed**'}."


def number(value: float | None) -> str:
    """Three digits, "-" for what is not known."""
    return "-" if value is None else f"{value:.3f}"


def interval(value: Sequence[float] | None) -> str:
    """(mean, low, high) in one cell."""
    if value is None:
        return "-"
    digits = 2 if abs(value[0]) >= 1 else 4
    return f"{value[0]:.{digits}f} ({value[1]:.{digits}f} to {value[2]:.{digits}f})"
