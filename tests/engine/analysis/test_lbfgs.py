"""L-BFGS against known minima and against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize, rosen, rosen_der

from engine.analysis.lbfgs import minimise


def test_a_quadratic_is_solved() -> None:
    rng = np.random.default_rng(0)
    root = rng.normal(size=(30, 30))
    matrix, target = root @ root.T + 0.1 * np.eye(30), rng.normal(size=30)
    found = minimise(lambda x: (x @ matrix @ x / 2 - target @ x, matrix @ x - target), np.zeros(30), 400, 1e-15)
    assert found == pytest.approx(np.linalg.solve(matrix, target), abs=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_rosenbrocks_valley_as_far_as_scipy(seed: int) -> None:
    start = np.random.default_rng(seed).uniform(-2, 2, size=8)
    ours = minimise(lambda x: (float(rosen(x)), rosen_der(x)), start, 500, 1e-14)
    theirs = minimize(rosen, start, jac=rosen_der, method="L-BFGS-B", options={"maxiter": 500})
    assert rosen(ours) <= theirs.fun + 1e-4


def test_it_never_goes_up_and_stops_at_a_minimum() -> None:
    seen: list[float] = []

    def bowl(x: np.ndarray) -> tuple[float, np.ndarray]:
        seen.append(float((x**4).sum()))
        return seen[-1], 4 * x**3

    found = minimise(bowl, np.ones(3), 3)
    assert (found**4).sum() <= 3
    assert (minimise(bowl, np.zeros(3), 10) == 0).all()


def test_a_wall_of_infinities_is_backed_away_from() -> None:
    def guarded(x: np.ndarray) -> tuple[float, np.ndarray]:
        with np.errstate(all="ignore"):
            return float((x - np.log(x)).sum()), 1 - 1 / x

    assert minimise(guarded, np.full(2, 30.0), 200, 1e-15) == pytest.approx(np.ones(2), abs=1e-3)
