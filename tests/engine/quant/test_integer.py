"""The integer path equals the simulated one, and its operands fit the registers they are meant for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from engine.core.errors import OptionError
from engine.core.option import Option, parse_option
from engine.quant.activation import CHANNEL_AXIS, StaticTable, simulate, static_parameters
from engine.quant.integer import integer_input, integer_layer, simulated_layer
from engine.quant.scaling import tau_of
from engine.quant.table import quantize_scaled

CASES = [
    ("linear", (12, 20), {}, (5, 7, 20)),
    ("conv1d", (6, 8, 3), {"padding": 1}, (2, 8, 11)),
    ("conv2d", (6, 8, 3, 3), {"padding": 1, "stride": 2}, (2, 8, 9, 9)),
    ("conv2d", (8, 2, 3, 3), {"padding": 1, "groups": 4}, (2, 8, 6, 6)),
]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("kind", "shape", "how", "inputs"), CASES)
@pytest.mark.parametrize(("weight_bits", "bits"), [(8, 8), (4, 8), (4, 6)])
@pytest.mark.parametrize("scaled", [False, True])
def test_integers_equal_the_simulation(kind: str, shape: tuple[int, ...], how: dict[str, int], inputs: tuple[int, ...],
                                       weight_bits: int, bits: int, scaled: bool) -> None:
    x, axis = drawn(*inputs), CHANNEL_AXIS[kind]
    channels = x.shape[axis]
    tau = tau_of(drawn(channels, seed=1)).half().double() if scaled else None
    shifts = torch.randint(0, 4, (2, channels), generator=torch.Generator().manual_seed(2)).to(torch.uint8)
    table = StaticTable(torch.tensor([-2.0, -2.5]).double(), torch.tensor([3.0, 2.0]).double(), tau, shifts, bits)
    weight = quantize_scaled(drawn(*shape).float(), Option("uaq", weight_bits), tau, 16)
    bias = drawn(shape[0], seed=3)
    group = 1
    seen = simulate(x, *static_parameters(*table.parameters(bits), group, x, kind), bits)
    # W' in float64: codes and parameters as stored, divided by tau
    dense = replace(weight, tensors={k: v for k, v in weight.tensors.items() if k != "tau"}).dequantize().double()
    if tau is not None:
        from engine.quant.scaling import unfold

        dense = unfold(dense, tau)
    expected = simulated_layer(seen, dense, kind, bias, **how)
    found = integer_layer(integer_input(x, table, group, bits, kind), weight, bias, **how)
    assert (found.values - expected).abs().max() <= 1e-6 * expected.abs().max()
    assert found.accumulator < 2**31


@pytest.mark.parametrize("deepest", [0, 1, 2, 3])
def test_shifted_four_bit_weights_fit_eight_bits(deepest: int) -> None:
    table = StaticTable(torch.tensor([-1.0]), torch.tensor([1.0]),
                        shifts=torch.tensor([[0, deepest] * 8], dtype=torch.uint8))
    weight = quantize_scaled(drawn(9, 16).float(), Option("uaq", 4), None)
    found = integer_layer(integer_input(drawn(3, 16).float(), table, 0, 8, "linear"), weight)
    assert found.operand <= 15 << deepest < 2**7


def test_codebooks_have_no_integer_product() -> None:
    table = StaticTable(torch.tensor([-1.0]), torch.tensor([1.0]))
    weight = quantize_scaled(drawn(4, 8).float(), parse_option("kmeans_c-4"), None)
    with pytest.raises(OptionError, match="affine grid"):
        integer_layer(integer_input(drawn(2, 8), table, 0, 8, "linear"), weight)
