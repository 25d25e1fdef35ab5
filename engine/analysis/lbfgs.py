"""L-BFGS for smooth functions of a few thousand numbers (Nocedal and Wright 2006, algorithms 7.4 and 7.5).

Scipy's spends most of its time in threaded LAPACK calls on matrices of a dozen rows, which on a busy machine take ten
times as long as evaluating the function; vectors alone need no threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
MEMORY = 20
DECREASE, CURVATURE = 1e-4, 0.9  # of the Wolfe conditions
TRIES = 25

_Pair = tuple[Floats, Floats, float]  # step, change of the gradient, their product


def minimise(function: Callable[[Floats], tuple[float, Floats]], start: Floats, steps: int,
             tolerance: float = 1e-9) -> Floats:
    """The point of least value that was found.

    Args:
        function: point -> value and gradient.
        start: where to begin.
        steps: at most so many.
        tolerance: stop when a step lowers the value by less than this share of it.
    """
    at = start
    value, gradient = function(at)
    pairs: deque[_Pair] = deque(maxlen=MEMORY)
    for _ in range(steps):
        toward = _direction(gradient, pairs)
        if toward @ gradient >= 0:  # rounding has turned it uphill
            pairs.clear()
            toward = -gradient
        first = 1.0 if pairs else min(1.0, 1.0 / float(np.abs(gradient).sum() or 1.0))
        found = _search(function, at, value, gradient, toward, first)
        if found is None:
            break
        after, lower, slope = found
        move, change = after - at, slope - gradient
        bend = float(move @ change)
        if bend > 1e-12 * float(change @ change):
            pairs.append((move, change, bend))
        done = value - lower <= tolerance * max(abs(value), abs(lower), 1.0)
        at, value, gradient = after, lower, slope
        if done:
            break
    return at


def _direction(gradient: Floats, pairs: deque[_Pair]) -> Floats:
    """- (inverse Hessian) gradient by the two-loop recursion."""
    found = -gradient
    weights = []
    for move, change, bend in reversed(pairs):
        weight = float(move @ found) / bend
        weights.append(weight)
        found -= weight * change
    if pairs:
        _, change, bend = pairs[-1]
        found *= bend / float(change @ change)
    for (move, change, bend), weight in zip(pairs, reversed(weights), strict=True):
        found += (weight - float(change @ found) / bend) * move
    return found


def _search(function: Callable[[Floats], tuple[float, Floats]], at: Floats, value: float, gradient: Floats,
            toward: Floats, step: float) -> tuple[Floats, float, Floats] | None:
    """A step that meets the weak Wolfe conditions, by bisection (Lewis and Overton 2013); None if none is lower."""
    slope = float(toward @ gradient)
    low, high = 0.0, np.inf
    best: tuple[Floats, float, Floats] | None = None
    for _ in range(TRIES):
        after = at + step * toward
        found, descent = function(after)
        if not np.isfinite(found) or found > value + DECREASE * step * slope:
            high = step
        elif toward @ descent < CURVATURE * slope:
            best, low = (after, found, descent), step
        else:
            return after, found, descent
        step = (low + high) / 2 if np.isfinite(high) else 2 * low
    return best
