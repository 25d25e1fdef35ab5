"""One contract for every quantizer: every option of the table on every kind of shape."""

from __future__ import annotations

import functools
import itertools
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load, save

from engine.core.errors import OptionError
from engine.core.layer import Layer, Role
from engine.core.option import ALL_OPTIONS, METHODS, Option, options_for
from engine.core.sizes import overhead_bits, stored_bytes
from engine.quant.packing import unpack
from engine.quant.qweight import QuantizedWeight
from engine.quant.table import quantize, quantize_all, relative_error

KINDS = {2: "linear", 3: "conv1d", 4: "conv2d"}
SHAPES = [(16, 256), (5, 37), (1, 1), (1, 9), (7, 1), (3, 130), (3, 20, 5), (4, 64, 3, 3), (4, 96, 1, 1)]
PER_CHANNEL = ("uaq", "kmeans_c", "rtn_g64", "int8", "fp16")
CASES = [(o, s) for s in SHAPES for o in options_for(KINDS[len(s)])]
MAIN = (16, 256)


@functools.cache
def weight(shape: tuple[int, ...]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    values = torch.randn(shape, generator=generator) * torch.rand(shape, generator=generator) * 0.1
    return values.half().float()


@functools.cache
def quantized(shape: tuple[int, ...], precision_bits: int) -> dict[Option, QuantizedWeight]:
    return quantize_all(weight(shape), options_for(KINDS[len(shape)]), precision_bits)


@pytest.mark.parametrize("precision_bits", [16, 32])
@pytest.mark.parametrize(("option", "shape"), CASES, ids=str)
def test_stored_tensors_are_everything_and_have_the_stated_size(
        option: Option, shape: tuple[int, ...], precision_bits: int) -> None:
    made = quantized(shape, precision_bits)[option]
    plain = made.dequantize()
    assert plain.dtype == torch.float32 and plain.shape == shape and plain.isfinite().all()
    rebuilt = QuantizedWeight(option, shape, load(save(dict(made.tensors))))
    assert torch.equal(rebuilt.dequantize(), plain)
    layer = Layer("x", "x", KINDS[len(shape)], shape, 0, shape[1], Role.OTHER, "")
    partial_byte = layer.weights * option.bits % 8 > 0
    assert made.size_bytes == stored_bytes(layer, option, precision_bits) + partial_byte
    if not option.is_untouched:
        parameters = sum(t.nbytes for name, t in made.tensors.items() if name != "codes")
        assert parameters * 8 == overhead_bits(shape, option, precision_bits)


@pytest.mark.parametrize("option", options_for("linear"), ids=str)
def test_result_depends_on_nothing_but_the_weight(option: Option) -> None:
    expected = quantized(MAIN, 16)[option].tensors
    alone = quantize(weight(MAIN).double().requires_grad_(), option).tensors
    assert expected.keys() == alone.keys()
    assert all(torch.equal(alone[name], expected[name]) for name in expected)


@pytest.mark.parametrize("option", [Option(m, 3) for m in ("uaq", "kmeans_c", "kmeans_a", "rtn_g64")], ids=str)
def test_large_weights_in_blocks_and_threads(option: Option) -> None:
    generator = torch.Generator().manual_seed(0)
    large = torch.randn(700, 900, generator=generator) * torch.rand(700, 1, generator=generator)
    threads = torch.get_num_threads()
    results = []
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            results.append(quantize(large, option).dequantize())
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)
    if option.method in PER_CHANNEL:
        for row in (0, 71, 72, 73, 350, 699):  # blocks are 72 rows high
            assert torch.equal(results[0][row], quantize(large[row:row + 1], option).dequantize()[0])


@pytest.mark.parametrize("method", PER_CHANNEL)
def test_permuting_channels_permutes_the_result(method: str) -> None:
    option = Option(method, METHODS[method].bits[0])
    order = torch.randperm(MAIN[0], generator=torch.Generator().manual_seed(0))
    permuted = quantize(weight(MAIN)[order], option).dequantize()
    assert torch.equal(permuted, quantized(MAIN, 16)[option].dequantize()[order])


@pytest.mark.parametrize("method", [m for m, row in METHODS.items() if len(row.bits) > 1])
@pytest.mark.parametrize("shape", [s for s in SHAPES if s[0] * s[1] > 100], ids=str)
def test_error_falls_with_every_bit_width(method: str, shape: tuple[int, ...]) -> None:
    errors = [relative_error(weight(shape), quantized(shape, 32)[Option(method, b)]) for b in METHODS[method].bits]
    assert all(worse > better for worse, better in itertools.pairwise(errors) if worse > 1e-12)
    assert errors[0] < 0.7 and errors[-1] < 1e-3


@pytest.mark.parametrize("option", options_for("linear"), ids=str)
def test_a_weight_on_the_grid_comes_back_as_it_was(option: Option) -> None:
    first = quantized(MAIN, 16)[option]
    grid = first.dequantize()
    if option.method == "uaq":  # channels that use the whole grid; others may find a smaller one
        codes = unpack(first.tensors["codes"], option.bits, grid.numel()).view(MAIN)
        grid = grid[(codes.amin(1) == 0) & (codes.amax(1) == 2**option.bits - 1)]
    assert len(grid) > 8
    again = quantize(grid, option).dequantize()
    assert (again - grid).abs().max() <= 2e-7 * grid.abs().max()
    if option.method in ("uaq", "kmeans_c", "kmeans_a", "fp16"):
        assert torch.equal(again, grid)


@pytest.mark.parametrize("option", options_for("linear"), ids=str)
def test_channels_of_one_value(option: Option) -> None:
    values = weight(MAIN).clone()
    values[0], values[1], values[2] = 0, 0.375, -2.5
    result = quantize(values, option).dequantize()
    assert result.isfinite().all()
    if option.method != "kmeans_a":
        assert (result[0] == 0).all()
    if option.method in ("uaq", "kmeans_c", "rtn_g64", "fp16"):
        assert torch.allclose(result[1:3], values[1:3], rtol=1e-6, atol=0)
    nothing = quantize(torch.zeros(3, 70), option)
    assert (nothing.dequantize() == 0).all() and relative_error(torch.zeros(3, 70), nothing) == 0


@pytest.mark.parametrize(("option", "shape"), [c for c in CASES if c[1] in (MAIN, (4, 64, 3, 3), (3, 20, 5))], ids=str)
def test_dequantize_into_whatever_the_model_has(option: Option, shape: tuple[int, ...]) -> None:
    made = quantized(shape, 16)[option]
    expected = made.dequantize()
    whole = torch.full((shape[0], shape[1] + 3, *shape[2:]), 7.0)
    half = whole[:, 2:2 + shape[1]]
    assert made.dequantize_into(half) is half and torch.equal(half, expected)
    assert (whole[:, :2] == 7).all() and (whole[:, -1] == 7).all()
    for dtype in (torch.float16, torch.bfloat16):
        assert torch.equal(made.dequantize_into(torch.empty(shape, dtype=dtype)), expected.to(dtype))
    parameter = torch.nn.Parameter(torch.empty(expected.transpose(0, 1).shape)).transpose(0, 1)
    assert torch.equal(made.dequantize_into(parameter), expected)
    with pytest.raises(OptionError, match="shape"):
        made.dequantize_into(torch.empty(shape[0] + 1, *shape[1:]))


def test_untouched_keeps_the_checkpoint_s_values() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        source = weight(MAIN).to(dtype)
        stored = quantize(source, Option("fp16", 16)).tensors["weight"]
        assert stored.dtype == dtype and torch.equal(stored, source) and stored.data_ptr() != source.data_ptr()


@pytest.mark.parametrize("option", ALL_OPTIONS, ids=str)
def test_broken_weights_are_refused(option: Option) -> None:
    values = weight(MAIN).clone()
    values[3, 4], values[5, 6] = float("nan"), float("-inf")
    with pytest.raises(OptionError, match="2 of 4096 weights are NaN or infinite"):
        quantize(values, option)
    for shape in ((4,), (0, 3), (3, 0)):
        with pytest.raises(OptionError, match="expected"):
            quantize(torch.zeros(shape), option)
    with pytest.raises(OptionError, match="16 or 32"):
        quantize(weight(MAIN), option, precision_bits=8)


def test_relative_error_is_squared_error_over_power() -> None:
    made = quantized(MAIN, 16)[Option("uaq", 3)]
    difference = (weight(MAIN) - made.dequantize()).double()
    expected = difference.square().sum() / weight(MAIN).double().square().sum()
    assert relative_error(weight(MAIN), made) == pytest.approx(expected.item(), rel=1e-6)


def test_the_engine_imports_without_torch_and_numba() -> None:
    code = "import sys, engine, engine.core.sizes; sys.exit('torch' in sys.modules or 'numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
