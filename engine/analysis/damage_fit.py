"""Fitting damage models: maximum a posteriori by L-BFGS, the prior chosen by inner cross-validation.

Per layer and option
    log damage = layer + block + role + option + detail(layer, option) + log weight error,
every term with a Gaussian prior around 0; anchored models have the log of the damage measured one layer at a time in
place of the weight error. The same number of trials goes further than in a ridge on one-hot options:
one sensitivity per layer explains all its options, and layers lend to their block and role.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_array, hstack

from engine.analysis.damage import STEEPEST, DamageMember, DamageModel, curved
from engine.analysis.features import ERROR_FLOOR
from engine.analysis.lbfgs import minimise
from engine.analysis.trials import Floats, Ints, Subject, TrialTable, folds, subset

STEPS = 150
INNER_STEPS = 40
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
        anchored: damages are expected where the subject's anchor has them, not where weight errors are.
    """

    layer: float = 1.0
    block: float = 0.7
    role: float = 0.7
    option: float = 0.3
    detail: float = 0.2
    noise: float = 0.2
    power: float = 0.0
    exponent: float = 0.1
    anchored: bool = False


# What a layer did alone says more of it than its weight error does, so its sensitivity needs less correcting.
ANCHORED = Prior(layer=0.3, block=0.2, role=0.2, detail=0.5, anchored=True)


def fit_member(train: TrialTable, seed: int = 0, prior: Prior | None = None) -> DamageMember:
    """A damage model of the trials' quality; the prior is chosen by inner cross-validation unless given."""
    found = fit_with(_plain(train), prior or choose_prior(train, seed))
    return DamageMember(found, train.subject.space, train.term)


def choose_prior(train: TrialTable, seed: int = 0, *, anchored: bool = False) -> Prior:
    """Noise, then curve, then detail of the prior, by inner cross-validation."""
    train = _plain(train)
    splits = [(subset(train, fit), subset(train, held)) for fit, held in folds(len(train), seed + 1, INNER_FOLDS)]
    losses: dict[Prior, float] = {}

    def best(priors: list[Prior]) -> Prior:
        losses.update({p: _loss(splits, p) for p in priors if p not in losses})
        return min(priors, key=losses.__getitem__)

    start = ANCHORED if anchored else Prior()
    prior = best([replace(start, noise=n) for n in (0.1, 0.2, 0.4, 0.8)])
    prior = best([replace(prior, power=p) for p in (0.0, 0.5, 1.0)])
    return best([replace(prior, detail=d) for d in (0.2, 0.5)])


def _plain(train: TrialTable) -> TrialTable:
    """The trials with their quality as the target, so that bits are no part of it."""
    quality = train.quality
    return train if quality is None else replace(train, target=quality, term=None)


def _loss(splits: Sequence[tuple[TrialTable, TrialTable]], prior: Prior) -> float:
    """Squared error on what was held back."""
    return sum(float(((fit_with(fit, prior, INNER_STEPS).predict(held.picks) - held.target) ** 2).sum())
               for fit, held in splits)


def fit_expected(train: TrialTable, prior: Prior) -> DamageModel:
    """The model of expected damages of the trials' quality, for choosing options by.

    The most probable damage of an option that few trials held is as often too low as too high, and whoever picks the
    lowest of many picks those that are too low; the mean of a log-normal, exp(mu + variance / 2), charges for doubt.
    """
    return fit_with(_plain(train), prior, expected=True)


def fit_with(train: TrialTable, prior: Prior, steps: int = STEPS, *, expected: bool = False) -> DamageModel:
    """Fit under a given prior, by L-BFGS on all trials at once; most probable damages, or expected ones."""
    centre, spread = float(train.target.mean()), float(train.target.std()) or 1.0
    posterior = Posterior(train.subject, train.picks, (train.target - centre) / spread, prior)
    found = minimise(posterior, posterior.start(), steps)
    damage, curve = posterior.table(found)
    model = DamageModel(damage, curve * np.array([spread, spread, 1.0]) + np.array([centre, 0.0, 0.0]), 0.0)
    if expected:
        model = _recurved(replace(model, damage=damage * np.exp(posterior.variance(found) / 2)), train)
    return replace(model, noise=float(np.sqrt(((model.predict(train.picks) - train.target) ** 2).mean())))


def _recurved(model: DamageModel, train: TrialTable) -> DamageModel:
    """The same damages, again in units of the mean recipe's sum, under the line of least squared error over their
    curve, exponent kept."""
    exponent = float(model.curve[2])
    log = np.log(model.total(train.picks) + ERROR_FLOOR)
    line = np.polyfit(curved(log - log.mean(), exponent)[0], train.target, 1)
    return replace(model, damage=model.damage / np.exp(log.mean()), curve=np.array([line[1], -line[0], exponent]))


class Posterior:
    """The negative log posterior of a standardised target, with its gradient.

    Parameters are a vector: one number per layer, block, role and option and per (layer, option) that occurs in the
    trials, each in deviations of its prior, then the curve's offset, slope and exponent.
    """

    def __init__(self, subject: Subject, picks: Ints, y: Floats, prior: Prior) -> None:
        """y: [T] standardised target of recipes [T, C]."""
        self._y, self._prior, self._offered = y, prior, subject.space.offered
        layers, options = self._offered.shape
        known = subject.anchor if prior.anchored else subject.space.errors
        assert known is not None, "an anchored model needs a subject with an anchor"
        errors = np.where(self._offered, known, 1.0)
        self._log_error = np.where(errors > 0, np.log(errors + ERROR_FLOOR), -np.inf).ravel()
        flat = picks + np.arange(layers) * options
        self._columns, place = np.unique(flat, return_inverse=True)
        rows = np.repeat(np.arange(len(picks)), layers)
        self._holds = csr_array((np.ones(flat.size), (rows, place.ravel())), shape=(len(picks), len(self._columns)))
        self._held = csr_array(self._holds.T)
        self._terms = _terms(subject, self._columns, prior)
        self._seen = csr_array(self._terms[self._columns])
        self._heard = csr_array(self._seen.T)

    def start(self) -> Floats:
        """All sensitivities equal."""
        return np.concatenate([np.zeros(self._terms.shape[1]), [0.0, 1.0, self._prior.power]])

    def __call__(self, parameters: Floats) -> tuple[float, Floats]:
        """Value and gradient."""
        prior, terms = self._prior, parameters[:-3]
        offset, slope, exponent = parameters[-3:]
        each = np.exp(np.minimum(self._log_error[self._columns] + self._seen @ terms, STEEPEST))
        total = self._holds @ each + ERROR_FLOOR
        log = np.log(total)
        value, by_log, by_exponent = curved(log - log.mean(), exponent)
        residual = (offset - slope * value - self._y) / prior.noise**2
        away = (exponent - prior.power) / prior.exponent
        loss = prior.noise**2 * (residual @ residual) / 2 + terms @ terms / 2 + away**2 / 2
        pull = -slope * residual * by_log
        damage = each * (self._held @ ((pull - pull.mean()) / total))
        curve = [residual.sum(), -(residual @ value), -slope * (residual @ by_exponent) + away / prior.exponent]
        return float(loss), np.concatenate([self._heard @ damage + terms, curve])

    def table(self, parameters: Floats) -> tuple[Floats, Floats]:
        """(damage [C, K] in units of the mean recipe's sum, curve of the standardised target)."""
        log = self._log_error + self._terms @ parameters[:-3]
        sums = np.log(self._holds @ np.exp(np.minimum(log[self._columns], STEEPEST)) + ERROR_FLOOR)
        damage = np.exp(log - sums.mean()).reshape(self._offered.shape)
        return np.where(self._offered, damage, np.nan), parameters[-3:].copy()


    def variance(self, parameters: Floats) -> Floats:
        """[C, K] posterior variance of the log damages, by Laplace's approximation with the Gauss-Newton Hessian.

        The covariance of the terms is (I + J'J / noise^2)^-1, J the Jacobian of the prediction; it is applied through
        the inverse of a matrix as large as there are trials (Woodbury). What no trial held keeps its prior detail.
        """
        slope, exponent = parameters[-2:]
        each = np.exp(np.minimum(self._log_error[self._columns] + self._seen @ parameters[:-3], STEEPEST))
        total = self._holds @ each + ERROR_FLOOR
        shares = (self._holds.multiply(each[None]).multiply(1 / total[:, None])).toarray()
        by_log = curved(np.log(total) - np.log(total).mean(), exponent)[1]
        jacobian = (slope * by_log)[:, None] * ((shares - shares.mean(0)) @ self._seen)
        across = np.asarray((self._terms @ jacobian.T).T)
        inner = jacobian @ jacobian.T + self._prior.noise**2 * np.eye(len(total))
        known = np.asarray(self._terms.multiply(self._terms).sum(1)).ravel()
        known -= (across * np.linalg.solve(inner, across)).sum(0)
        unheld = np.ones(len(known), bool)
        unheld[self._columns] = False
        found: Floats = (known + self._prior.detail**2 * unheld).reshape(self._offered.shape)
        return found


def _terms(subject: Subject, columns: Ints, prior: Prior) -> csr_array:
    """[C * K, parameters] what each adds to the log damage of each layer and option."""
    graph, (layers, options) = subject.graph, subject.space.offered.shape
    first = [int(np.flatnonzero(graph.choice_of == c)[0]) for c in range(layers)]
    block, role = (np.unique(graph.codes[first, column], return_inverse=True)[1] for column in (1, 3))
    layer, option = np.divmod(np.arange(layers * options), options)
    parts = [(layer, layers, prior.layer), (block[layer], int(block.max()) + 1, prior.block),
             (role[layer], int(role.max()) + 1, prior.role), (option, options, prior.option)]
    entries = np.arange(layers * options)
    made = [csr_array((np.full(len(entries), width), (entries, index)), shape=(len(entries), count))
            for index, count, width in parts]
    detail = csr_array((np.full(len(columns), prior.detail), (columns, np.arange(len(columns)))),
                       shape=(len(entries), len(columns)))
    return csr_array(hstack([*made, detail]))
