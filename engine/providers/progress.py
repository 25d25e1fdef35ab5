"""What long work of a provider yields while it runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the work stands.

    Attributes:
        doing: what was done last (a layer, a block, an option).
        index, of: how much is done, of how much.
        seconds_left: estimate, None where there is none yet.
    """

    doing: str
    index: int
    of: int
    seconds_left: float | None = None
