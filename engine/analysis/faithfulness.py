"""How far scores can be believed: agreement with measured damage, deletion and insertion curves, planted causes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from engine.analysis.ranking import spearman
from engine.analysis.trials import Floats, Ints
from engine.core.errors import InputError

DRAWS = 1000
LEAST = 4


@dataclass(frozen=True, slots=True)
class Agreement:
    """Rank correlation of a score with measured damage.

    Attributes:
        name: whose scores.
        spearman: over the items both have.
        low, high: 95 % bootstrap interval over the items.
        n: items.
        behind: the leading score's Spearman less this one's, with its 95 % interval over the same resampled items;
            None where no score leads, and of the leading one.
    """

    name: str
    spearman: float
    low: float
    high: float
    n: int
    behind: tuple[float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class QualityCurve:
    """Quality while layers are switched one after another.

    Attributes:
        order: choice columns, first switched first.
        quality: [C + 1], before and after each switch.
        area: mean share of the whole change that has happened, near 1 = nearly all of it comes with the first layers.
    """

    order: tuple[int, ...]
    quality: tuple[float, ...]
    area: float


def agreement(name: str, scores: Mapping[str, float], measured: Mapping[str, float], seed: int = 0) -> Agreement:
    """Spearman over the items that both hold, with a bootstrap interval.

    Args:
        name: whose scores.
        scores, measured: layer or block -> damage at one option.
        seed: of the bootstrap.

    Raises:
        InputError: fewer than four items in common.
    """
    value, draws, n = _drawn(name, scores, measured, seed)
    low, high = np.quantile(draws, [0.025, 0.975])
    return Agreement(name, value, float(low), float(high), n)


def _drawn(name: str, scores: Mapping[str, float], measured: Mapping[str, float],
           seed: int) -> tuple[float, Floats, int]:
    """Spearman, the same of items [DRAWS] drawn with replacement (alike for all scores of the same items), and n."""
    items = [k for k in measured if k in scores]
    if len(items) < LEAST:
        raise InputError(f"{name} and the measured damage have {len(items)} layers in common; at least {LEAST} are "
                         f"needed to compare their order.")
    a, b = np.array([scores[k] for k in items]), np.array([measured[k] for k in items])
    rng = np.random.default_rng(seed)
    draws = np.array([spearman(a[i], b[i]) for i in rng.integers(len(items), size=(DRAWS, len(items)))])
    return spearman(a, b), draws, len(items)


def compared(scores: Mapping[str, Mapping[str, float]], measured: Mapping[str, float],
             seed: int = 0, lead: str = "") -> list[Agreement]:
    """Agreement of several scores with measured damage, over the items that all of them hold, and of a random order.

    Args:
        scores: name -> layer or block -> damage; size-only and weight-error are passed in like any other.
        measured: layer or block -> damage at the same option.
        seed: of the bootstrap and the random order.
        lead: the score that all others are told to be behind of, if it is among them.
    """
    common = [k for k in measured if all(k in s for s in scores.values())]
    rng = np.random.default_rng([seed, 1])
    rows = {**scores, "random": dict(zip(common, rng.permutation(len(common)).astype(float), strict=True))}
    shared = {k: measured[k] for k in common}
    found = [agreement(name, row, shared, seed) for name, row in rows.items()]
    if lead not in rows:
        return found
    value, draws, _ = _drawn(lead, rows[lead], shared, seed)
    return [r if r.name == lead else replace(r, behind=_behind(value, draws, *_drawn(r.name, rows[r.name], shared,
                                                                                     seed)[:2])) for r in found]


def _behind(value: float, draws: Floats, other: float, others: Floats) -> tuple[float, float, float]:
    low, high = np.quantile(draws - others, [0.025, 0.975])
    return value - other, float(low), float(high)


def deletion(damage: Floats, recipe: Ints, reference: Ints, quality: Callable[[Ints], Floats]) -> QualityCurve:
    """Restore layers to the reference, most damaging first: good scores raise quality early, so the area is large.

    Args:
        damage: [C] scores of the recipe's options.
        recipe, reference: [C] option columns.
        quality: recipes [T, C] -> [T]; measured, predicted, or the planted truth.
    """
    order = np.argsort(-damage, kind="stable")
    return _curve(order, recipe, reference, quality)


def insertion(damage: Floats, recipe: Ints, reference: Ints, quality: Callable[[Ints], Floats]) -> QualityCurve:
    """Quantize layers of the reference, most damaging first: good scores take most of the loss early, so the area
    (of the share of the loss taken) is large; arguments as for `deletion`."""
    order = np.argsort(-damage, kind="stable")
    return _curve(order, reference, recipe, quality)


def _curve(order: Ints, start: Ints, end: Ints, quality: Callable[[Ints], Floats]) -> QualityCurve:
    picks = np.repeat(start[None], len(order) + 1, 0)
    for step, c in enumerate(order):
        picks[step + 1:, c] = end[c]
    found = quality(picks)
    span = found[-1] - found[0]
    area = float(((found - found[0]) / span).mean()) if span else 0.5
    return QualityCurve(tuple(map(int, order)), tuple(map(float, found)), area)


def recovered(damage: Mapping[str, float], planted: Sequence[str]) -> float:
    """Share of the planted causes among as many layers of highest damage."""
    top = sorted(damage, key=lambda k: -damage[k])[:len(planted)]
    return len(set(top) & set(planted)) / len(planted)
