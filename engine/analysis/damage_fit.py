"""Fitting damage models: maximum a posteriori by L-BFGS, the prior chosen by inner cross-validation.

Per layer and option
    log damage = layer + block + role + option + detail(layer, option) + log weight error,
every term with a Gaussian prior around 0. The same number of trials goes further than in a ridge on one-hot options:
one sensitivity per layer explains all its options, and layers lend to their block and role.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from engine.analysis.damage import STEEPEST, DamageMember, DamageModel, curved
from engine.analysis.features import ERROR_FLOOR
from engine.analysis.trials import Ints, Subject, TrialTable, folds, subset

STEPS = 150
INNER_STEPS = 60
INNER_FOLDS = 3


@dataclass(frozen=True, slots=True)
class Prior:
    """Deviations that are assumed before any trial is seen.

    Attributes:
        layer, block, role: of the log sensitivity each adds.
        option: of the log damage an option adds beyond its weight error, in all layers.
        detail: the same in one layer.
        noise: of the label around the curve, in deviations of the label.
        power: where the curve's exponent is expected: 0 = logarithm, 1 = straight line.
        exponent: deviation of the exponent around it.
    """

    layer: float = 1.0
    block: float = 0.7
    role: float = 0.7
    option: float = 0.3
    detail: float = 0.2
    noise: float = 0.2
    power: float = 0.0
    exponent: float = 0.1


def fit_member(train: TrialTable, seed: int = 0) -> DamageMember:
    """A damage model of the trials' quality."""
    quality = train.quality
    plain = train if quality is None else replace(train, target=quality)
    return DamageMember(fit_damage(plain, seed), train.subject.space, train.term)


def fit_damage(train: TrialTable, seed: int = 0) -> DamageModel:
    """Maximum a posteriori on all trials; noise, then curve, then detail of the prior by inner cross-validation."""
    splits = [(subset(train, fit), subset(train, held)) for fit, held in folds(len(train), seed + 1, INNER_FOLDS)]
    prior = Prior()
    prior = _best(splits, [replace(prior, noise=n) for n in (0.1, 0.2, 0.4, 0.8)])
    prior = _best(splits, [replace(prior, power=p) for p in (0.0, 0.5, 1.0)])
    prior = _best(splits, [replace(prior, detail=d) for d in (0.2, 0.5)])
    return fit_with(train, prior)


def _best(splits: Sequence[tuple[TrialTable, TrialTable]], priors: Sequence[Prior]) -> Prior:
    """The prior of least absolute error on held-back trials; of equals the first."""
    def loss(prior: Prior) -> float:
        return sum(float(np.abs(fit_with(fit, prior, INNER_STEPS).predict(held.picks) - held.target).sum())
                   for fit, held in splits)

    return min(priors, key=loss)


def fit_with(train: TrialTable, prior: Prior, steps: int = STEPS) -> DamageModel:
    """Fit under a given prior, by L-BFGS on all trials at once."""
    fixed = _fixed(train.subject, train.picks)
    centre, spread = float(train.target.mean()), float(train.target.std()) or 1.0
    y = torch.from_numpy((train.target - centre) / spread)
    values = _start(fixed, prior)
    optimiser = torch.optim.LBFGS(list(values.values()), max_iter=steps, line_search_fn="strong_wolfe",
                                  tolerance_grad=1e-6, tolerance_change=1e-9)

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = _posterior(values, fixed, y, prior)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        return _finished(values, fixed, train, centre, spread)


@dataclass(frozen=True, slots=True)
class _Fixed:
    """What does not change while fitting.

    Attributes:
        log_error: [C, K] log weight error, -inf where untouched.
        block_of, role_of: [C].
        columns: [X] the entries of the [C, K] table, flattened, that occur in the trials.
        holds: [T, X] 1 where a trial holds that entry; summed damage is this matrix times the damages.
    """

    log_error: Tensor
    block_of: Tensor
    role_of: Tensor
    columns: Tensor
    holds: Tensor


def _fixed(subject: Subject, picks: Ints) -> _Fixed:
    graph = subject.graph
    first = [int(np.flatnonzero(graph.choice_of == c)[0]) for c in range(len(graph.choices))]
    block_of, role_of = (np.unique(graph.codes[first, column], return_inverse=True)[1] for column in (1, 3))
    errors = np.where(subject.space.offered, subject.space.errors, 1.0)
    log_error = np.where(errors > 0, np.log(errors + ERROR_FLOOR), -np.inf)
    flat = picks + np.arange(picks.shape[1]) * log_error.shape[1]
    columns, place = np.unique(flat, return_inverse=True)
    holds = np.zeros((len(picks), len(columns)))
    np.put_along_axis(holds, place.reshape(flat.shape), 1.0, 1)
    return _Fixed(torch.from_numpy(log_error), torch.from_numpy(block_of.astype(np.int64)),
                  torch.from_numpy(role_of.astype(np.int64)), torch.from_numpy(columns), torch.from_numpy(holds))


def _start(fixed: _Fixed, prior: Prior) -> dict[str, Tensor]:
    """All sensitivities equal; `curve` is (offset, slope, exponent)."""
    layers, options = fixed.log_error.shape
    shapes: dict[str, tuple[int, ...]] = {
        "layer": (layers,), "block": (int(fixed.block_of.max()) + 1,), "role": (int(fixed.role_of.max()) + 1,),
        "option": (options,), "detail": (layers, options),
    }
    values = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes.items()}
    values["curve"] = torch.tensor([0.0, 1.0, prior.power], dtype=torch.float64)
    return {name: value.requires_grad_() for name, value in values.items()}


def _log_damage(values: dict[str, Tensor], fixed: _Fixed) -> Tensor:
    """[C, K]"""
    each = values["layer"] + values["block"][fixed.block_of] + values["role"][fixed.role_of]
    return each[:, None] + values["option"] + values["detail"] + fixed.log_error


def _log_sums(values: dict[str, Tensor], fixed: _Fixed) -> tuple[Tensor, Tensor]:
    """Log of the summed damage [T], less its mean, and that mean."""
    each = _log_damage(values, fixed).flatten()[fixed.columns].clamp(max=STEEPEST).exp()
    log = (fixed.holds @ each + ERROR_FLOOR).log()
    return log - log.mean(), log.mean()


def _posterior(values: dict[str, Tensor], fixed: _Fixed, y: Tensor, prior: Prior) -> Tensor:
    """Negative log posterior."""
    log, _ = _log_sums(values, fixed)
    offset, slope, exponent = values["curve"]
    residual = offset - slope * curved(log, exponent) - y
    widths = {"layer": prior.layer, "block": prior.block, "role": prior.role, "option": prior.option,
              "detail": prior.detail}
    penalty: Tensor = sum((((values[name] / width) ** 2).sum() for name, width in widths.items()),
                          ((exponent - prior.power) / prior.exponent) ** 2)
    posterior: Tensor = (residual / prior.noise).square().sum() / 2 + penalty / 2
    return posterior


def _finished(values: dict[str, Tensor], fixed: _Fixed, train: TrialTable, centre: float,
              spread: float) -> DamageModel:
    _, mean = _log_sums(values, fixed)
    damage = torch.exp(_log_damage(values, fixed) - mean).numpy()
    damage = np.where(train.subject.space.offered, damage, np.nan)
    curve = values["curve"].numpy() * np.array([spread, spread, 1.0]) + np.array([centre, 0.0, 0.0])
    model = DamageModel(damage, curve, 0.0)
    return replace(model, noise=float(np.sqrt(((model.predict(train.picks) - train.target) ** 2).mean())))
