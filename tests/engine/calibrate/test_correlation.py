"""The orthogonality matrix against its definition in feature space, its invariances, and what it says of noise."""

from __future__ import annotations

import math

import pytest
import torch

from engine.calibrate.correlation import centred, features, gram, off_diagonal_median, orthogonality, sketch
from engine.calibrate.importance import AGGREGATES, Weighting, gammas, importance, tail_means, uniform_steps
from engine.core.errors import InputError


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def grams_of(layers: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack([gram(features(x)) for x in layers])


def related(n: int = 24) -> list[torch.Tensor]:
    """Four layers of which the second repeats half of the first."""
    first = draw(n, 40)
    return [first, torch.cat([first[:, :20], draw(n, 20, seed=1)], 1), draw(n, 9, seed=2), draw(n, 300, seed=3)]


@pytest.mark.parametrize("debiased", [True, False])
def test_the_matrix_is_a_correlation(debiased: bool) -> None:
    matrix = orthogonality(grams_of(related()), debiased=debiased)
    assert torch.equal(matrix, matrix.T)
    assert torch.equal(matrix.diagonal(), torch.ones(4, dtype=torch.float64))
    assert bool((matrix.abs() <= 1 + 1e-12).all())
    assert matrix[0, 1] > max(matrix[0, 2], matrix[1, 2])


def test_gram_path_equals_feature_path() -> None:
    """Biased ORM = |Fi^T Fj|^2 / (|Fi^T Fi| |Fj^T Fj|) with column-centred features."""
    layers = [x.double() - x.double().mean(0) for x in related()]
    matrix = orthogonality(grams_of(related()), debiased=False)
    for i, a in enumerate(layers):
        for j, b in enumerate(layers):
            expected = (a.T @ b).norm() ** 2 / ((a.T @ a).norm() * (b.T @ b).norm())
            assert float(matrix[i, j]) == pytest.approx(float(expected), abs=1e-6)


def test_debiased_equals_the_unbiased_estimate_written_out() -> None:
    """HSIC_1 of Song et al. (2012): [tr(KL) + 1K1 1L1 / ((n-1)(n-2)) - 2/(n-2) 1KL1] / (n(n-3)), zero diagonals."""
    n = 12
    k, other = (gram(draw(n, 30, seed=s)) for s in (4, 5))

    def hsic(a: torch.Tensor, b: torch.Tensor) -> float:
        a, b = a - a.diag().diag(), b - b.diag().diag()
        return float((a @ b).trace() + a.sum() * b.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (a @ b).sum()) / (
            n * (n - 3))

    expected = hsic(k, other) / math.sqrt(hsic(k, k) * hsic(other, other))
    assert float(orthogonality(torch.stack([k, other]))[0, 1]) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("debiased", [True, False])
def test_invariant_to_rotation_scale_and_offset(debiased: bool) -> None:
    layers = related()
    rotation = torch.linalg.qr(draw(40, 40, seed=9)).Q
    moved = [layers[0] @ rotation * 37, layers[1] + 5, layers[2] * 1e-3, layers[3]]
    a, b = (orthogonality(grams_of(x), debiased=debiased) for x in (layers, moved))
    assert torch.allclose(a, b, atol=1e-4)


def test_independent_features_saturate_the_biased_estimate_only() -> None:
    """n = 32 samples of 1,000 independent features: 0.97 biased, about 0 debiased."""
    grams = grams_of([draw(32, 1000, seed=s) for s in range(8)])
    assert off_diagonal_median(orthogonality(grams, debiased=False)) == pytest.approx(0.97, abs=0.01)
    debiased = orthogonality(grams)
    assert abs(float(debiased[~torch.eye(8, dtype=torch.bool)].mean())) < 0.02


def test_chunks_and_sketches_of_features() -> None:
    flat = features(draw(16, 5000))
    whole = gram(flat)
    assert torch.allclose(gram(flat, chunk=700), whole, rtol=1e-5, atol=1e-3)
    folded = sketch(flat, "layer", 512)
    assert torch.equal(torch.cat([sketch(flat[:5], "layer", 512), sketch(flat[5:], "layer", 512)]), folded), \
        "batches fold alike"
    error = (gram(folded) - whole).abs() / torch.outer(whole.diagonal(), whole.diagonal()).sqrt()
    assert float(error.mean()) < 2 / math.sqrt(512)
    assert not torch.equal(sketch(flat, "other", 512), folded)


def test_layers_that_do_not_vary_are_zero_and_too_few_samples_are_refused() -> None:
    constant = torch.full((6, 50), 1 / 3)
    constant[3] += 1e-8  # as batched arithmetic rounds
    matrix = orthogonality(grams_of([draw(6, 10), constant, draw(6, 10, seed=1)]))
    assert matrix[1].tolist() == [0, 0, 0] and matrix[0, 0] == 1
    for n, debiased in ((3, True), (1, False), (1, True)):
        with pytest.raises(InputError, match="at least"):
            centred(torch.ones(2, n, n), debiased=debiased)
    with pytest.raises(InputError, match="NaN"):
        centred(torch.full((1, 6, 6), float("nan")))


def matrices(*gamma: float) -> torch.Tensor:
    """One step of L layers whose off-diagonal similarities are given pair by pair (3 layers)."""
    a, b, c = gamma
    return torch.tensor([[[1, a, b], [a, 1, c], [b, c, 1]]], dtype=torch.float64)


def test_gamma_and_importance_by_hand() -> None:
    one = matrices(0.8, 0.2, -0.1)
    assert gammas(one)[0].tolist() == pytest.approx([0.5, 0.4, 0.1])
    assert gammas(one, summed=True)[0].tolist() == pytest.approx([1.0, 0.8, 0.2])
    theta = importance(one, Weighting(beta=10))
    assert theta.tolist() == pytest.approx([math.exp(-4), math.exp(-3), 1.0])
    assert tail_means(theta).tolist() == pytest.approx([float(theta.mean()), float(theta[1:].mean()), 1.0])
    assert torch.equal(importance(one, Weighting(beta=10, tail=True)), tail_means(theta))


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_importance_does_not_underflow_and_keeps_its_order_under_a_shift(aggregate: str) -> None:
    """OMPQ's exp(-beta * sum) is 1e-36 for a few layers; the least gamma is taken off first, which scales all alike."""
    steps = torch.cat([matrices(0.9, 0.8, 0.85), matrices(0.95, 0.7, 0.9)])
    theta = importance(steps, Weighting(aggregate, beta=200, summed=True))
    assert float(theta.max()) > 1e-3 and bool((theta >= 0).all()) and bool((theta <= 1).all())
    order = gammas(steps, summed=True).mean(0).argsort(descending=True).tolist()
    if aggregate != "exp-then-mean":
        assert theta.argsort().tolist() == order


def test_the_first_step_weighs_most_with_time_exp_and_equals_mean_without_decay() -> None:
    steps = torch.cat([matrices(0.9, 0.1, 0.1), matrices(0.1, 0.1, 0.9)])
    late = importance(steps, Weighting("time-exp", decay=5.0))
    assert late[0] < late[2]
    assert torch.allclose(importance(steps, Weighting("time-exp", decay=0.0)), importance(steps, Weighting()))


def test_silent_layers_take_the_mean_and_nothing_varying_is_refused() -> None:
    one = matrices(0.8, 0.0, 0.0)
    one[0, 2] = one[0, :, 2] = 0  # the third does not vary
    theta = importance(one, Weighting(beta=1))
    assert gammas(one)[0].isnan().tolist() == [False, False, True]
    assert gammas(one)[0, 0] == pytest.approx(0.8), "the silent layer is no partner"
    assert float(theta[2]) == pytest.approx(1.0)
    with pytest.raises(InputError, match="No layer's output varies"):
        importance(torch.zeros(1, 3, 3))


def test_steps_are_evenly_spaced_with_both_ends() -> None:
    assert uniform_steps(20, 10) == (0, 2, 4, 6, 8, 11, 13, 15, 17, 19)
    assert uniform_steps(20, None) == tuple(range(20)) and uniform_steps(7, 1) == (0,) and uniform_steps(1, 1) == (0,)
    for bad in (0, 21, -1):
        with pytest.raises(InputError, match="cannot be profiled"):
            uniform_steps(20, bad)


@pytest.mark.parametrize("bad", [{"aggregate": "sum"}, {"beta": 0.0}, {"beta": math.inf}, {"decay": -1.0}])
def test_bad_weightings_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(InputError):
        Weighting(**bad)  # type: ignore[arg-type]
