"""Recognising that memory ran out, however the libraries say it."""

from __future__ import annotations

import torch

CPU_MEMORY = "can't allocate memory"  # how torch's CPU allocator says it, as a plain RuntimeError


def ran_out(failure: BaseException) -> bool:
    """Whether a failure is that memory ran out, on an accelerator or on the CPU."""
    return isinstance(failure, (MemoryError, torch.OutOfMemoryError)) or CPU_MEMORY in str(failure)
