"""The damage model and the ridge against what was planted, and the controls against their own formulas."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine.analysis.controls import CONTROLS, fit_bits, fit_error, log_error
from engine.analysis.damage import curved
from engine.analysis.damage_fit import Posterior, Prior, _terms, fit_expected, fit_member, fit_with
from engine.analysis.planted import Truth, measure
from engine.analysis.ranking import spearman, spearman_in_bins
from engine.analysis.ridge import fit_additive, fit_ridge, one_hot
from engine.analysis.trials import TrialTable, folds, subset, trial_table


def test_the_curve_runs_from_logarithm_to_line() -> None:
    log = np.linspace(-3, 3, 25)
    assert curved(log, 0.0)[0] == pytest.approx(log)
    assert curved(log, 1e-7)[0] == pytest.approx(log, abs=1e-5)
    assert curved(log, 0.5)[0] == pytest.approx(2 * (np.exp(log / 2) - 1))
    assert curved(log, 1.0)[0] == pytest.approx(np.exp(log) - 1)


@pytest.mark.parametrize("exponent", [-0.7, -1e-5, 0.0, 1e-5, 0.4])
def test_derivatives_of_the_curve(exponent: float) -> None:
    log, step = np.linspace(-3, 3, 25), 1e-6
    _, by_log, by_exponent = curved(log, exponent)
    assert by_log == pytest.approx((curved(log + step, exponent)[0] - curved(log - step, exponent)[0]) / (2 * step),
                                   abs=1e-6)
    step = 1e-4
    numeric = (curved(log, exponent + step)[0] - curved(log, exponent - step)[0]) / (2 * step)
    assert by_exponent == pytest.approx(numeric, abs=1e-4)


def test_gradient_of_the_posterior(table: TrialTable) -> None:
    y = (table.target - table.target.mean()) / table.target.std()
    posterior = Posterior(table.subject, table.picks, y, Prior(power=0.3))
    rng = np.random.default_rng(0)
    at = posterior.start() + 0.1 * rng.normal(size=len(posterior.start()))
    value, gradient = posterior(at)
    for _ in range(5):
        toward = rng.normal(size=len(at))
        step = 1e-6
        numeric = (posterior(at + step * toward)[0] - posterior(at - step * toward)[0]) / (2 * step)
        assert gradient @ toward == pytest.approx(numeric, rel=1e-4, abs=1e-3)
    assert np.isfinite(value)


def test_variance_is_the_posteriors(tiny: TrialTable) -> None:
    """Against the inverse of the whole Gauss-Newton Hessian, made by finite differences."""
    y = (tiny.target - tiny.target.mean()) / tiny.target.std()
    prior = Prior(noise=0.3, detail=0.4)
    posterior = Posterior(tiny.subject, tiny.picks, y, prior)
    at = posterior.start()
    at[:-3] += 0.3 * np.random.default_rng(0).normal(size=len(at) - 3)
    columns = []
    for i in range(len(at) - 3):  # the residuals are the only place where labels enter: differentiate by them
        step = np.zeros(len(at))
        step[i] = 1e-5
        columns.append((values(posterior, at + step, tiny) - values(posterior, at - step, tiny)) / 2e-5)
    jacobian = np.stack(columns, 1)
    covariance = np.linalg.inv(np.eye(len(at) - 3) + jacobian.T @ jacobian / prior.noise**2)
    held = np.unique(tiny.picks + np.arange(tiny.picks.shape[1]) * len(tiny.subject.space.options))
    terms = _terms(tiny.subject, held, prior).toarray()
    expected = np.einsum("ij,jk,ik->i", terms, covariance, terms).reshape(tiny.subject.space.offered.shape)
    seen = np.zeros(expected.shape, bool)
    np.put_along_axis(seen, tiny.picks.T, True, 1)
    found = posterior.variance(at)
    assert found[seen] == pytest.approx(expected[seen], rel=1e-3)
    assert found[~seen] == pytest.approx(expected[~seen] + prior.detail**2, rel=1e-3)


def values(posterior: Posterior, at: np.ndarray, table: TrialTable) -> np.ndarray:
    """Predictions of the standardised target, the curve's own centring included."""
    damage, (offset, slope, exponent) = posterior.table(at)
    log = np.log(damage[np.arange(table.picks.shape[1]), table.picks].sum(-1))
    return offset - slope * curved(log - log.mean(), exponent)[0]


def test_expected_damages_charge_for_doubt(table: TrialTable) -> None:
    probable, expected = fit_with(table, Prior()), fit_expected(table, Prior())
    offered = table.subject.space.offered & (probable.damage > 0)
    ratio = expected.damage / np.where(offered, probable.damage, 1.0)
    seen = np.zeros(offered.shape, bool)
    np.put_along_axis(seen, table.picks.T, True, 1)
    assert ratio[offered & ~seen].mean() > ratio[offered & seen].mean()
    assert np.abs(expected.predict(table.picks) - table.target).mean() < 2 * np.abs(
        probable.predict(table.picks) - table.target).mean()


def test_planted_damage_is_recovered(table: TrialTable, truth: Truth) -> None:
    model = fit_with(table, Prior(noise=0.1))
    column = table.subject.space.options.index(next(o for o in table.subject.space.options if str(o) == "uaq-3"))
    names = table.subject.graph.choices
    planted = np.array([truth.damage[n]["uaq-3"] for n in names])
    assert spearman(model.damage[:, column], planted) > 0.85
    assert (model.damage[:, -1] == 0).all()  # untouched
    more = model.predict(np.full((1, len(names)), column)) < model.predict(np.full((1, len(names)), -1))
    assert more.all()


def test_it_ranks_unseen_recipes_better_than_every_control(table: TrialTable) -> None:
    train, test = folds(len(table))[0]
    part = subset(table, train)
    error = {name: float(np.abs(fit(part, 0).predict(table.picks[test]) - table.target[test]).mean())
             for name, fit in CONTROLS.items()}
    ours = float(np.abs(fit_member(part).predict(table.picks[test]) - table.target[test]).mean())
    assert ours < 0.8 * min(error.values())


def test_a_price_of_bits_changes_nothing_but_the_price(truth: Truth, table: TrialTable) -> None:
    trials = measure(truth, 60, 5)
    plain, priced = (fit_member(trial_table(table.subject, trials, f)) for f in ("psnr", "psnr - 3*bits"))
    picks = table.picks[:7]
    gap = plain.predict(picks) - priced.predict(picks)
    assert np.diff(gap) == pytest.approx(3 * np.diff(table.bits[:7]), abs=0.02)


def test_damage_of_options_that_no_trial_held_follows_weight_error(table: TrialTable) -> None:
    model = fit_with(table, Prior())
    space = table.subject.space
    seen = np.zeros(space.offered.shape, bool)
    np.put_along_axis(seen, table.picks.T, True, 1)
    for c, k in zip(*np.nonzero(space.offered & ~seen), strict=True):
        known = np.flatnonzero(seen[c])
        nearest = known[np.abs(np.log(space.errors[c, known] / max(space.errors[c, k], 1e-9))).argmin()]
        if space.errors[c, k] > 0:
            assert model.damage[c, k] == pytest.approx(
                model.damage[c, nearest] * space.errors[c, k] / space.errors[c, nearest], rel=1.0)


def test_ridge_is_least_squares_where_it_is_weak() -> None:
    rng = np.random.default_rng(1)
    picks = rng.integers(0, 3, size=(200, 5))
    truth = rng.normal(size=(5, 3))
    target = 2 + truth[np.arange(5), picks].sum(-1)
    weights, offset, _ = fit_additive(picks, target, 3, strengths=np.array([1e-9]))
    assert offset + weights[np.arange(5), picks].sum(-1) == pytest.approx(target, abs=1e-6)
    x = one_hot(picks, 3)
    strong = 7.0
    weights, offset, _ = fit_additive(picks, target, 3, strengths=np.array([strong]))
    z = x - x.mean(0)
    primal = np.linalg.solve(z.T @ z + strong * np.eye(15), z.T @ (target - target.mean()))
    assert weights.ravel() == pytest.approx(primal)


def test_ridge_chooses_its_strength_by_what_was_held_back(table: TrialTable) -> None:
    noise = np.random.default_rng(2).normal(size=len(table))
    assert fit_ridge(replace(table, target=noise)).strength > fit_ridge(table).strength


def test_controls_are_curves_over_one_number(table: TrialTable) -> None:
    squares = replace(table, target=3 - (table.bits - 3.5) ** 2)
    assert fit_bits(squares).predict(table.picks) == pytest.approx(squares.target)
    column = log_error(table.subject.space, table.picks)
    lines = replace(table, target=1 - 2 * column)
    assert fit_error(lines).predict(table.picks) == pytest.approx(lines.target)
    assert spearman_in_bins(fit_bits(table).predict(table.picks), table.target, table.bits)[1] >= 1
