"""Equivalent scaling changes no output, folds into weights and steps, and its control behaves on dead channels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from engine.core.errors import OptionError
from engine.core.option import FP16, Option
from engine.quant.activation import CHANNEL_AXIS
from engine.quant.qweight import TAU
from engine.quant.scaling import (
    LIMIT,
    channel_peaks,
    fold,
    outlier_score,
    per_input,
    smooth_tau,
    stored_tau,
    tau_of,
    unfold,
    weight_peaks,
)
from engine.quant.table import quantize, quantize_scaled, relative_error

CASES = [
    ("linear", (12, 20), {}, (5, 7, 20)),
    ("linear", (12, 20), {}, (5, 20)),
    ("conv1d", (6, 8, 3), {"padding": 1}, (2, 8, 11)),
    ("conv2d", (6, 8, 3, 3), {"padding": 1, "stride": 2}, (2, 8, 9, 9)),
    ("conv2d", (8, 2, 3, 3), {"padding": 1, "groups": 4}, (2, 8, 6, 6)),
    ("conv2d", (6, 8, 1, 1), {}, (2, 8, 5, 5)),
]


def layer(x: Tensor, weight: Tensor, kind: str, **how: int) -> Tensor:
    if kind == "linear":
        return F.linear(x, weight)
    found: Tensor = {"conv1d": F.conv1d, "conv2d": F.conv2d}[kind](x, weight, **how)
    return found


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


@pytest.mark.parametrize(("kind", "shape", "how", "inputs"), CASES)
def test_scaling_leaves_the_output(kind: str, shape: tuple[int, ...], how: dict[str, int],
                                   inputs: tuple[int, ...]) -> None:
    x, weight, axis = drawn(*inputs), drawn(*shape), CHANNEL_AXIS[kind]
    tau = tau_of(drawn(x.shape[axis]) * 3)
    expected = layer(x, weight, kind, **how)
    found = layer(x / per_input(tau, x.ndim, axis), fold(weight, tau), kind, **how)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    # folded into the weights alone: what the simulation holds
    alone = layer(x, unfold(fold(weight, tau), tau), kind, **how)
    assert (alone - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_tau_is_positive_and_bounded() -> None:
    tau = tau_of(torch.tensor([-1e4, -1.0, 0.0, 1.0, 1e4]))
    assert tau.tolist() == pytest.approx([1 / LIMIT, 0.36788, 1, 2.71828, LIMIT], rel=1e-4)
    assert stored_tau(tau, 16).half().float().tolist() == stored_tau(tau, 16).tolist()


def test_a_scaling_of_another_size_is_refused() -> None:
    with pytest.raises(OptionError, match="one factor per input channel"):
        fold(drawn(4, 6), torch.ones(5))


@pytest.mark.parametrize("option", ["uaq-4", "kmeans_c-3", "kmeans_a-4", "rtn_g64-4", "nf4", "int8"])
@pytest.mark.parametrize("precision_bits", [16, 32])
def test_a_scaled_weight_is_the_quantized_one_divided(option: str, precision_bits: int) -> None:
    from engine.core.option import parse_option

    weight, tau = drawn(8, 64), tau_of(drawn(64) / 2)
    made = quantize_scaled(weight, parse_option(option), tau, precision_bits)
    kept = stored_tau(tau, precision_bits)
    plain = quantize(fold(weight, kept), parse_option(option), precision_bits)
    assert torch.equal(made.dequantize(), plain.dequantize() / kept)
    assert made.size_bytes == plain.size_bytes + 64 * precision_bits // 8
    assert made.tensors[TAU].dtype == (torch.float16 if precision_bits == 16 else torch.float32)
    assert relative_error(weight, made) > 0


def test_a_scaled_weight_goes_into_a_slice_of_a_convolution() -> None:
    whole = torch.zeros(6, 10, 3, 3)
    made = quantize_scaled(drawn(6, 4, 3, 3), Option("uaq", 4), tau_of(drawn(4)))
    made.dequantize_into(whole[:, 3:7])
    assert torch.equal(whole[:, 3:7], made.dequantize()) and not whole[:, :3].any() and not whole[:, 7:].any()


def test_untouched_layers_take_no_scaling() -> None:
    with pytest.raises(OptionError, match="takes no scaling"):
        quantize_scaled(drawn(4, 4), FP16, torch.ones(4))
    assert TAU not in quantize_scaled(drawn(4, 4), FP16, None).tensors


def test_scaling_rescues_a_weight_column_of_outliers() -> None:
    weight = drawn(32, 64)
    weight[:, 7] *= 40
    tau = torch.ones(64)
    tau[7] = 1 / 40
    plain = quantize(weight, Option("uaq", 4)).dequantize()
    scaled = quantize_scaled(weight, Option("uaq", 4), tau).dequantize()
    others = torch.arange(64) != 7
    assert (scaled - weight)[:, others].square().sum() < 0.1 * (plain - weight)[:, others].square().sum()


def test_peaks_and_the_outlier_score() -> None:
    x = torch.zeros(3, 4, 2, 2)
    x[0, 0, 1, 1], x[1, 1], x[2, 2] = -8, 1, 2
    peaks = channel_peaks(x, 1)
    assert peaks.tolist() == [8, 1, 2, 0]
    assert outlier_score(peaks) == 4  # the dead channel does not count
    assert outlier_score(torch.zeros(3)) == 1
    assert channel_peaks(x.movedim(1, -1), -1).tolist() == [8, 1, 2, 0]
    grouped = torch.arange(8.0).reshape(4, 2, 1, 1)  # two groups of two outputs
    assert weight_peaks(grouped, 4).tolist() == [2, 3, 6, 7]


def test_the_heuristic_control() -> None:
    tau = smooth_tau(torch.tensor([16.0, 1.0, 0.0, 1.0]), torch.tensor([1.0, 1.0, 1.0, 0.0]))
    assert tau[2:].tolist() == [1, 1]  # dead channels
    assert tau[0] / tau[1] == pytest.approx(4)
    assert smooth_tau(torch.zeros(3), torch.ones(3)).tolist() == [1, 1, 1]
