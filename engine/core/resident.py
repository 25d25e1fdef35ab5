"""What the system says of a process's memory."""

from __future__ import annotations

import contextlib
import ctypes
import gc
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
    return memory_of("self").get("VmHWM", 0) or _largest()


def resident_bytes() -> int:
    """Resident memory of this process, after giving back what is free."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return memory_of("self").get("VmRSS", 0) or _largest()


def forget_peak() -> None:
    """Have the peak begin at what is resident now; does nothing where the system has no such thing."""
    with contextlib.suppress(OSError):
        (_SYSTEM / "self" / "clear_refs").write_text(_FORGET_PEAK)


def _largest() -> int:
    """What every system knows of this process: its peak, in bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
