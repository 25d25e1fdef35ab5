"""Compiled loops: how this package's kernels are compiled, and how they spread over threads.

Constraints this answers:
* Kernels release the interpreter lock and are spread by ordinary threads over row ranges. numba's own parallel
  loops are not used: one of their thread layers ends the process when two threads enter it at once, which an
  explorer that quantizes while it generates would do.
* The thread count is torch's, so one setting holds for the whole program.
* Compiled code is cached on disk; only the first use on a machine pays for compiling. The cache knows a function by
  its own file alone, so a compiled function calls none of another file.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

import numba
import torch

F = TypeVar("F", bound=Callable[..., Any])

_WORTH_THREADS_NS = 500_000.0  # starting them takes about a fifth of this
_CHUNKS_PER_THREAD = 4
# What lets sums and maxima vectorise; divisions and roundings stay as written.
_LOOSE_SUMS = {"reassoc", "nnan", "ninf", "nsz", "contract"}


def jit(function: F) -> F:
    """Compile with arithmetic exactly as written."""
    return _compiled(function, set())


def jit_fused(function: F) -> F:
    """Compile with a * b + c rounded once, as torch's own kernels do."""
    return _compiled(function, {"contract"})


def jit_loose(function: F) -> F:
    """Compile allowing sums to be reordered; for searches, never for values that are stored."""
    return _compiled(function, _LOOSE_SUMS)


def _compiled(function: F, liberties: set[str]) -> F:
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": liberties}
    try:
        return cast(F, numba.njit(cache=True, **options)(function))
    except RuntimeError:  # no directory to keep compiled code in: compile in every process
        return cast(F, numba.njit(**options)(function))


def over_rows(work: Callable[[int, int], object], rows: int, nanoseconds: float) -> None:
    """Call `work(start, stop)` on ranges that cover all rows, on torch's number of threads.

    `nanoseconds` is about what all of it takes on one; threads are started where they pay.
    """
    threads = min(torch.get_num_threads(), rows)
    if threads < 2 or nanoseconds < _WORTH_THREADS_NS:
        work(0, rows)
        return
    step = -(-rows // (threads * _CHUNKS_PER_THREAD))
    with ThreadPoolExecutor(threads) as pool:
        tasks = [pool.submit(work, start, min(start + step, rows)) for start in range(0, rows, step)]
        for task in tasks:
            task.result()
