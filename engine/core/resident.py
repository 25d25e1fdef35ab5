"""What the system says of a process's memory."""

from __future__ import annotations

import contextlib
from pathlib import Path

_SYSTEM = Path("/proc")
_FORGET_PEAK = "5"  # what Linux's clear_refs calls it


def memory_of(process: int | str) -> dict[str, int]:
    """What Linux says of a process's memory, in bytes by its own names; empty on other systems or after its end."""
    try:
        lines = (_SYSTEM / str(process) / "status").read_text().splitlines()
        pairs = [line.split() for line in lines if line.endswith(" kB")]
        return {words[0].rstrip(":"): int(words[1]) * 1024 for words in pairs}
    except (OSError, ValueError, IndexError):
        return {}


def peak_memory() -> int:
    """Resident memory of this process at its peak, in bytes, mapped files included.

    Since `forget_peak` where the system can forget, else since the process began. The resource usage that the system
    keeps would count what a parent held before this program began.
    """
    found = memory_of("self").get("VmHWM", 0)
    if found:
        return found
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def forget_peak() -> None:
    """Have the peak begin at what is resident now; does nothing where the system has no such thing."""
    with contextlib.suppress(OSError):
        (_SYSTEM / "self" / "clear_refs").write_text(_FORGET_PEAK)
