"""Asking long work to stop: any object with `is_set()`, such as `threading.Event`."""

from __future__ import annotations

from typing import Protocol

from engine.core.errors import Cancelled


class Cancel(Protocol):
    """Set by the caller, read by the work at every step."""

    def is_set(self) -> bool:
        """Whether to stop."""


def check_cancel(cancel: Cancel | None) -> None:
    """Stop here if the caller asked for it.

    Raises:
        Cancelled: it did.
    """
    if cancel is not None and cancel.is_set():
        raise Cancelled("Cancelled; everything finished before is kept.")
