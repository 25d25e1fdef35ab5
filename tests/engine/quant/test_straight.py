"""Quantizers inside autograd: the values of the plain ones, and gradients that pass rounding and ranges."""

from __future__ import annotations

import pytest
import torch

from engine.quant.activation import affine, quantize_online, simulate
from engine.quant.straight import fake_quantize, online, round_through, weight_rows, whole_tensor


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_values_are_those_of_the_plain_quantizers(bits: int) -> None:
    x = drawn(4, 6, 5, 5)
    step, zero = affine(x.amin(), x.amax(), bits)
    assert torch.equal(whole_tensor(x, bits), simulate(x, step, zero, bits))
    assert torch.equal(online(x, bits, "conv2d"), quantize_online(x, bits, "conv2d"))
    assert torch.equal(online(x, bits, "linear"), quantize_online(x, bits, "linear"))
    rows = weight_rows(x, bits)
    assert len({float(v) for v in rows[0].flatten()}) <= 2**bits
    assert (rows - x).abs().max() <= (x.flatten(1).amax(1) - x.flatten(1).amin(1)).max() / (2**bits - 1)


def test_zero_is_always_on_the_grid_of_a_tensor() -> None:
    x = drawn(50).abs() + 3
    x[0] = 0
    assert whole_tensor(x, 4)[0] == 0
    assert whole_tensor(drawn(50).abs() + 3, 4).min() >= 0


def test_rounding_passes_the_gradient() -> None:
    x = torch.tensor([0.2, 1.7, -3.4], requires_grad=True)
    round_through(x).sum().backward()
    assert round_through(x).tolist() == [0, 2, -3] and x.grad is not None and x.grad.tolist() == [1, 1, 1]


def test_steps_carry_gradient_and_zero_points_do_not() -> None:
    scale = torch.tensor(1.0, requires_grad=True)
    x = drawn(64)
    whole_tensor(x * scale, 3).square().sum().backward()
    assert scale.grad is not None and scale.grad > 0  # a larger input is a larger output
    zero = torch.tensor(3.0, requires_grad=True)
    step = torch.tensor(0.5, requires_grad=True)
    fake_quantize(x, step, zero, 3).sum().backward()
    assert zero.grad is None and step.grad is not None
