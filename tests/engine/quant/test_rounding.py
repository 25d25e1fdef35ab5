"""Learned rounding: its levels, its sigmoid and schedule, and that it finds the known best rounding."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from engine.core.errors import OptionError
from engine.core.option import Option, parse_option
from engine.quant.packing import unpack
from engine.quant.rounding import (
    ORDERED,
    beta_at,
    changed,
    choice_of,
    first_alpha,
    hardened,
    pulled_weight,
    rectified,
    regulariser,
    soft_weight,
)
from engine.quant.table import quantize, quantize_scaled


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("method", ORDERED)
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("shape", [(6, 130), (4, 8, 3, 3)])
def test_levels_enclose_the_weight(method: str, scaled: bool, shape: tuple[int, ...]) -> None:
    weight = drawn(*shape)
    tau = torch.rand(shape[1], generator=torch.Generator().manual_seed(1)) + 0.5 if scaled else None
    nearest = quantize_scaled(weight, Option(method, 3), tau, 32)
    choice = choice_of(weight, nearest)
    assert (choice.low <= choice.high).all()
    inside = (choice.low <= weight) & (weight <= choice.high)
    beyond = choice.low == choice.high  # the last level, which clips what is further out
    assert (inside | beyond).all() and inside.double().mean() > 0.8
    start = soft_weight(choice, first_alpha(choice))
    assert torch.allclose(start[inside & ~beyond], weight[inside & ~beyond], atol=2e-3)
    back = hardened(choice, first_alpha(choice))
    assert back.tensors.keys() == nearest.tensors.keys() and changed(choice, back) < 0.01


def test_the_rectified_sigmoid_reaches_its_ends() -> None:
    alpha = torch.tensor([-10.0, 0.0, 10.0])
    assert rectified(alpha).tolist() == pytest.approx([0, 0.5, 1])
    assert regulariser(alpha, 20.0) == pytest.approx(1)
    assert regulariser(torch.tensor([-10.0, 10.0]), 2.0) == 0


def test_the_exponent_falls_after_a_warm_up() -> None:
    assert beta_at(19, 100) is None
    assert beta_at(20, 100) == 20
    assert beta_at(60, 100) == 11
    assert beta_at(100, 100) == 2
    values = [b for i in range(100) if (b := beta_at(i, 100)) is not None]
    assert values == sorted(values, reverse=True)


def test_methods_without_order_are_refused() -> None:
    weight = drawn(4, 64)
    for text in ("fp4", "int8", "nf4"):
        with pytest.raises(OptionError, match="round to nearest"):
            choice_of(weight, quantize(weight, parse_option(text)))


def test_learning_comes_close_to_the_best_of_all_roundings() -> None:
    """Sixteen outputs of six weights: each has 64 roundings, all of which are tried."""
    weight = drawn(16, 6, seed=5)
    x = drawn(200, 2, seed=6) @ drawn(2, 6, seed=7) + 0.2 * drawn(200, 6, seed=8)  # correlated: nearest is not best
    nearest = quantize(weight, Option("uaq", 3), 32)
    choice, target = choice_of(weight, nearest), x @ weight.T
    up = torch.tensor(list(itertools.product((False, True), repeat=6)))
    every = torch.where(up[:, None], choice.high, choice.low)  # [64, 16, 6]
    best = (every @ x.T - target.T).square().mean(2).amin(0).sum()
    alpha = first_alpha(choice).requires_grad_()
    adam = torch.optim.Adam([alpha], 0.02)
    for i in range(1500):
        adam.zero_grad()
        loss = (x @ soft_weight(choice, alpha).T - target).square().sum(1).mean()
        beta = beta_at(i, 1500)
        (loss if beta is None else loss + 0.01 * regulariser(alpha, beta)).backward()
        adam.step()
    made = hardened(choice, alpha.detach())
    found, rounded = ((x @ w.dequantize().T - target).square().mean(0).sum() for w in (made, nearest))
    assert best <= found < 0.7 * rounded and found < 2 * best
    start = regulariser(first_alpha(choice), 2.0)
    assert regulariser(alpha.detach(), 2.0) < 0.5 * start


@pytest.mark.parametrize("beta", [None, 20.0, 3.5, 2.0])
def test_the_gradient_written_down_is_the_one_of_the_formula(beta: float | None) -> None:
    weight = drawn(5, 40, seed=3)
    choice = choice_of(weight, quantize(weight, Option("uaq", 3)))
    start = first_alpha(choice)
    start[0, :4] = torch.tensor([-9.0, 9.0, -2.5, 2.5])  # beyond both ends, and just about there
    target = drawn(5, 40, seed=4)
    ours, theirs = start.clone().requires_grad_(), start.clone().requires_grad_()
    found = pulled_weight(choice, choice.high - choice.low, ours, beta, 0.01)
    (found - target).square().sum().backward()
    plain = (soft_weight(choice, theirs) - target).square().sum()
    (plain if beta is None else plain + 0.01 * regulariser(theirs, beta)).backward()
    assert torch.allclose(found, soft_weight(choice, theirs), atol=1e-7)
    assert ours.grad is not None and theirs.grad is not None and theirs.grad.abs().max() > 0.1
    assert torch.allclose(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


def test_codes_stay_in_range() -> None:
    weight = drawn(5, 40) * 3
    choice = choice_of(weight, quantize(weight, Option("uaq", 2)))
    for alpha in (torch.full_like(weight, 9.0), torch.full_like(weight, -9.0)):
        codes = unpack(hardened(choice, alpha).tensors["codes"], 2, 200)
        assert codes.max() <= 3
