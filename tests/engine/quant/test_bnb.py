"""bitsandbytes' options against the library itself: same weights, exact bytes, and execution that restores."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from engine.core.errors import OptionError
from engine.core.layer import Layer, Role
from engine.core.option import parse_option
from engine.core.sizes import stored_bytes
from engine.quant.activation import quantize_online
from engine.quant.bnb import FP4, NF4, executed, packed_linear
from engine.quant.table import quantize, relative_error

METHODS = ("nf4", "fp4", "int8")
SHAPES = [(64, 128), (33, 70), (10, 8), (7, 1), (24, 97), (8, 96)]
# The library's own CPU kernel is wrong for rows of 16, 32, 48, 80, 96 ... inputs, and compiles itself for odd ones.
SOUND = [(64, 128), (33, 70), (10, 8), (16, 192)]


def weight(shape: tuple[int, ...]) -> torch.Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
    values[0] = 0  # a channel (and perhaps a block) without a scale
    return values


def library_dequantized(values: torch.Tensor, method: str) -> torch.Tensor:
    import bitsandbytes.functional as library

    if method == "int8":
        codes, absmax, _ = library.int8_vectorwise_quant(values.half())
        return library.int8_vectorwise_dequant(codes, absmax)
    codes, state = library.quantize_4bit(values, blocksize=64, compress_statistics=False, quant_type=method)
    return library.dequantize_4bit(codes, state)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", SOUND)
def test_weights_are_those_of_the_library_bit_for_bit(method: str, shape: tuple[int, ...]) -> None:
    values = weight(shape)
    assert torch.equal(quantize(values, parse_option(method)).dequantize(), library_dequantized(values, method))


def test_tables_are_those_of_the_library() -> None:
    from bitsandbytes.functional import get_4bit_type

    for name, table in (("nf4", NF4), ("fp4", FP4)):
        assert torch.equal(torch.tensor(table), get_4bit_type(name, device="cpu"))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", SHAPES)
def test_stored_bytes_are_counted_exactly(method: str, shape: tuple[int, ...]) -> None:
    option = parse_option(method)
    found = quantize(weight(shape), option)
    layer = Layer("a", "a", "linear", shape, 0, shape[1], Role.OTHER, "")
    odd = math.prod(shape) * option.bits % 8 > 0
    assert found.size_bytes == stored_bytes(layer, option, 16) + odd


@pytest.mark.parametrize("method", METHODS)
def test_dequantizing_into_a_slice_touches_nothing_else(method: str) -> None:
    whole = torch.full((33, 90), 5.0)
    found = quantize(weight((33, 70)), parse_option(method))
    found.dequantize_into(whole[:, 20:])
    assert torch.equal(whole[:, 20:], found.dequantize())
    assert bool((whole[:, :20] == 5).all())


def test_more_bits_lose_less() -> None:
    values = weight((64, 128))[1:]
    error = {m: relative_error(values, quantize(values, parse_option(m))) for m in METHODS}
    assert error["int8"] < error["nf4"] / 20 < error["fp4"] / 20
    assert error["nf4"] < 0.012


@pytest.mark.parametrize("method", METHODS)
def test_convolutions_are_refused_in_one_sentence(method: str) -> None:
    with pytest.raises(OptionError, match="Linear layers"):
        quantize(torch.randn(4, 4, 3, 3), parse_option(method))


def test_weights_beyond_float16_are_refused_by_int8_alone() -> None:
    values = weight((8, 64)) * 1e6
    with pytest.raises(OptionError, match="float16"):
        quantize(values, parse_option("int8"))
    assert relative_error(values, quantize(values, parse_option("nf4"))) < 0.02


def model() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(70, 33), nn.GELU(), nn.Sequential(nn.Linear(33, 64, bias=False)), nn.Linear(64, 10))


# LLM.int8() rounds activations to 8 bits as well, so what it executes differs from its weights alone.
TOLERANCE = {"nf4": 1e-5, "fp4": 1e-5, "int8": 0.03}


@pytest.mark.parametrize("method", METHODS)
def test_execution_agrees_with_simulation_and_is_undone_bit_for_bit(method: str) -> None:
    net = model()
    names = ("0", "2.0", "3")
    weights = {n: quantize(net.get_submodule(n).weight, parse_option(method)) for n in names}
    x = torch.randn(2, 3, 5, 70, generator=torch.Generator().manual_seed(2))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    modules = dict(net.named_modules())
    with torch.no_grad():
        with executed(net, weights):
            found = net(x)
            assert not any(net.get_submodule(n) is modules[n] for n in names)
        plain = net(x)
        for name in names:
            weights[name].dequantize_into(net.get_submodule(name).weight)
        simulated = net(x)
        for name in names:
            net.get_submodule(name).weight.copy_(before[f"{name}.weight"])
    assert float((found - simulated).norm() / simulated.norm()) < TOLERANCE[method]
    assert float((found - plain).norm() / plain.norm()) > 1e-3
    assert dict(net.named_modules()) == modules
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("method", ["nf4", "fp4"])
@pytest.mark.parametrize("shape", [(32, 64), (64, 96), (40, 160), (9, 33), (3, 16), (64, 320)])
def test_execution_is_right_at_every_width(method: str, shape: tuple[int, ...]) -> None:
    found = quantize(weight(shape), parse_option(method))
    bias = torch.arange(float(shape[0]))
    x = torch.randn(5, shape[1], generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        ours = packed_linear(found, bias)(x)
    torch.testing.assert_close(ours, nn.functional.linear(x, found.dequantize(), bias), rtol=1e-5, atol=1e-4)


def test_packed_layers_hold_about_their_stored_bytes() -> None:
    found = quantize(weight((128, 192)), parse_option("nf4"))
    layer = packed_linear(found, None)
    assert layer.weight.data.nbytes + layer.weight.quant_state.absmax.nbytes == found.size_bytes


def test_originals_can_be_released_and_come_back() -> None:
    net = model()
    copy = net[0].weight.detach().clone()
    pointer = net[0].weight
    with pytest.raises(RuntimeError, match="stop"), executed(
            net, {"0": quantize(copy, parse_option("nf4"))}, reload=lambda name: copy):
        assert pointer.numel() == 0
        raise RuntimeError("stop")
    assert net[0].weight is pointer
    assert torch.equal(net[0].weight, copy)


def test_what_cannot_be_executed_is_named_and_nothing_is_swapped() -> None:
    net = model()
    modules = dict(net.named_modules())
    good = quantize(net[0].weight, parse_option("nf4"))
    with pytest.raises(OptionError, match="1 is no Linear"), executed(net, {"0": good, "1": good}):
        pass
    with pytest.raises(OptionError, match="no kernel"):
        packed_linear(quantize(net[0].weight, parse_option("uaq-4")), None)
    assert dict(net.named_modules()) == modules


@pytest.mark.parametrize("method", METHODS)
def test_quantized_inputs_stay_quantized_while_packed_weights_execute(method: str) -> None:
    net = nn.Sequential(nn.Linear(70, 64))
    packed = quantize(net[0].weight.detach(), parse_option(method))
    x = torch.randn(5, 70, generator=torch.Generator().manual_seed(1))
    handle = net[0].register_forward_pre_hook(lambda _, args: (quantize_online(args[0], 4, "linear"),))
    with torch.no_grad():
        plain = nn.functional.linear(quantize_online(x, 4, "linear"), packed.dequantize(), net[0].bias)
    with torch.no_grad(), executed(net, {"0": packed}):
        within = net(x)
        handle.remove()
        without = net(x)
    tolerance = 0.02 if method == "int8" else 1e-5  # int8 rounds its inputs to 8 bits itself
    assert float((within - plain).abs().max() / plain.abs().max()) < tolerance
    assert float((without - within).abs().max() / plain.abs().max()) > 0.02
    with torch.no_grad():
        assert torch.equal(net(x), nn.functional.linear(x, net[0].weight, net[0].bias)), "removed from both"
