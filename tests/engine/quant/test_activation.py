"""Quantized inputs: the simulation equals its codes, an integer product equals the simulated one, grids hold zero."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from engine.core.activation import ACTIVATION_BITS
from engine.core.errors import OptionError
from engine.quant.activation import (
    MAX_ZERO,
    StaticTable,
    affine,
    encode,
    online_parameters,
    quantize_online,
    simulate,
    static_parameters,
)

SHAPES = {"linear": (3, 5, 16), "conv1d": (3, 8, 11), "conv2d": (3, 8, 6, 5)}


def draw(kind: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(len(kind))
    shape = SHAPES[kind]
    spread = torch.exp2(torch.randn(shape[1] if kind != "linear" else shape[-1], generator=generator))
    x = torch.randn(shape, generator=generator, dtype=dtype)
    return x * (spread if kind == "linear" else spread.reshape(-1, *[1] * (len(shape) - 2)))


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("bits", ACTIVATION_BITS)
def test_simulation_equals_codes_and_errors_stay_within_half_a_step(kind: str, bits: int) -> None:
    x = draw(kind)
    step, zero = online_parameters(x, bits, kind)
    quantized = encode(x, step, zero, bits)
    assert quantized.codes.min() == 0 and quantized.codes.max() == (1 << bits) - 1
    assert torch.equal(quantized.dequantize(), simulate(x, step, zero, bits))
    assert torch.equal(quantize_online(x, bits, kind), quantized.dequantize())
    # one more half step at the top end, where the rounded zero point can cut
    assert bool(((quantized.dequantize() - x).abs() <= step * (1 + 1e-4)).all())
    assert bool((quantized.dequantize() - x).abs().mean() <= step.mean() / 3)


@pytest.mark.parametrize(("kind", "ranges"), [("linear", (3, 5, 1)), ("conv1d", (3, 8, 1)), ("conv2d", (3, 8, 1, 1))])
def test_online_ranges_are_per_token_or_per_channel(kind: str, ranges: tuple[int, ...]) -> None:
    assert online_parameters(draw(kind), 8, kind)[0].shape == ranges


@pytest.mark.parametrize("value", [0.0, 3.5, -1e-6, 1e6])
def test_constant_ranges_are_guarded(value: float) -> None:
    x = torch.full((2, 3, 4), value)
    out = quantize_online(x, 4, "linear")
    assert torch.isfinite(out).all()
    assert torch.allclose(out, x, rtol=1 / MAX_ZERO, atol=0)


def test_zero_points_of_narrow_far_ranges_fit_16_bits() -> None:
    step, zero = affine(torch.tensor([1000.0]), torch.tensor([1000.001]), 8)
    assert abs(int(zero)) <= MAX_ZERO
    assert torch.allclose(simulate(torch.tensor([1000.0]), step, zero, 8), torch.tensor([1000.0]), rtol=1e-4)


def table(kind: str, channels: int, **parts: torch.Tensor) -> StaticTable:
    return StaticTable(torch.tensor([-2.0, -1.0, 0.5]), torch.tensor([3.0, 2.0, 1.0]), **parts)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("bits", [4, 6, 8])
@pytest.mark.parametrize("parts", ["plain", "scaled", "shifted", "both"])
def test_an_integer_product_equals_the_simulated_one(kind: str, bits: int, parts: str) -> None:
    """In float64: sum over channels of step_c * (code - zero) * (qw - zw) is the layer of the dequantized input."""
    x = draw(kind, torch.float64)
    channels = x.shape[-1] if kind == "linear" else x.shape[1]
    generator = torch.Generator().manual_seed(1)
    given: dict[str, torch.Tensor] = {}
    if parts in ("scaled", "both"):
        given["tau"] = torch.exp2(torch.randn(channels, generator=generator))
    if parts in ("shifted", "both"):
        given["shifts"] = torch.randint(0, 4, (3, channels), generator=generator, dtype=torch.uint8)
    step, zero = (t.double() for t in table(kind, channels, **given).parameters(bits))
    step, zero = static_parameters(step, zero, 1, x, kind)
    quantized = encode(x, step, zero, bits)
    codes = torch.randint(-8, 8, (7, channels, *[3] * (x.ndim - 2 if kind != "linear" else 0)), generator=generator)
    layer = {"linear": functional.linear, "conv1d": functional.conv1d, "conv2d": functional.conv2d}[kind]
    padding = {} if kind == "linear" else {"padding": 1}
    simulated = layer(quantized.dequantize(), codes.double() * 0.01, **padding)
    total = torch.zeros_like(simulated)
    per_channel = step.expand(1, *[1] * (x.ndim - 2), channels).flatten() if kind == "linear" else \
        step.expand(1, channels, *[1] * (x.ndim - 2)).flatten()
    for c in range(channels):
        part = quantized.centred[..., c:c + 1] if kind == "linear" else quantized.centred[:, c:c + 1]
        total += per_channel[c] * 0.01 * layer(part.double(), codes[:, c:c + 1].double(), **padding)
    assert float((total - simulated).abs().max()) <= 1e-6 * float(simulated.abs().max())


def test_static_parameters_follow_each_samples_group() -> None:
    x = draw("conv2d")
    step, zero = table("conv2d", 8, shifts=torch.randint(0, 4, (3, 8), dtype=torch.uint8)).parameters(8)
    mixed = simulate(x, *static_parameters(step, zero, torch.tensor([2, 0, 1]), x, "conv2d"), 8)
    for row, group in enumerate((2, 0, 1)):
        alone = simulate(x[row:row + 1], *static_parameters(step, zero, group, x, "conv2d"), 8)
        assert torch.equal(mixed[row:row + 1], alone)
    folded = torch.randn(6, 4, 16)  # two rows per sample
    step, zero = table("linear", 16).parameters(8)
    found, _ = static_parameters(step, zero, torch.tensor([0, 1, 2]), folded, "linear")
    assert found.flatten().tolist() == [float(step[g]) for g in (0, 0, 1, 1, 2, 2)]
    with pytest.raises(OptionError, match="7 rows cannot be dealt to 3"):
        static_parameters(step, zero, torch.tensor([0, 1, 2]), torch.randn(7, 16), "linear")


def test_static_grids_represent_zero_exactly() -> None:
    """Padding and dead channels must stay zero, also where a calibrated range does not hold it."""
    step, zero = table("linear", 4).parameters(4)
    for group in range(3):
        out = simulate(torch.zeros(1, 4), *static_parameters(step, zero, group, torch.zeros(1, 4), "linear"), 4)
        assert torch.equal(out, torch.zeros(1, 4))


def test_half_precision_is_computed_in_float32() -> None:
    x = draw("linear").half()
    assert torch.equal(quantize_online(x, 8, "linear"), quantize_online(x.float(), 8, "linear").half())


@pytest.mark.parametrize("broken", [
    {"low": torch.tensor([1.0]), "high": torch.tensor([0.0])},
    {"low": torch.tensor([0.0]), "high": torch.tensor([float("nan")])},
    {"low": torch.tensor([0.0]), "high": torch.tensor([1.0, 2.0])},
    {"low": torch.tensor([0.0]), "high": torch.tensor([1.0]), "tau": torch.tensor([1.0, 0.0])},
    {"low": torch.tensor([0.0]), "high": torch.tensor([1.0]), "shifts": torch.tensor([[4]], dtype=torch.uint8)},
])
def test_broken_tables_are_refused(broken: dict[str, torch.Tensor]) -> None:
    with pytest.raises(OptionError, match="finite ranges"):
        StaticTable(**broken)
