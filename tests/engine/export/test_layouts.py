"""SDNQ's and torchao's arithmetic on arranged codes gives our weights back; skip lists are read as diffusers does."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from engine.core.layer import Layer, Role
from engine.core.option import parse_option
from engine.export.bnb_format import is_skipped
from engine.export.sdnq_layout import arranged, layout, layout_bytes
from engine.export.torchao_format import codes_scale_zero
from engine.quant.qweight import QuantizedWeight
from engine.quant.table import quantize

AFFINE = ("uaq-2", "uaq-3", "uaq-8", "rtn_g64-2", "rtn_g64-4", "rtn_g64-5", "rtn_g64-8", "int8")
CODEBOOK = ("kmeans_c-2", "kmeans_c-4", "kmeans_a-3", "kmeans_a-4")
SINGLE = {"linear": (24, 192), "conv2d": (8, 128, 3, 3), "conv1d": (8, 64, 3), "narrow": (16, 40)}
HALVES = {"linear": ((24, 128), (24, 64)), "conv2d": ((8, 192, 3, 3), (8, 64, 3, 3)), "uneven": ((16, 40), (16, 24))}


def layer(name: str, shape: tuple[int, ...]) -> Layer:
    kind = {2: "linear", 3: "conv1d", 4: "conv2d"}[len(shape)]
    return Layer(name, "m", kind, shape, 0, shape[1], Role.OTHER, "")


def made(shape: tuple[int, ...], option: str, seed: int = 0) -> QuantizedWeight:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).half().float()
    weight[0] = 0.25  # a channel of one value has scale 0
    return quantize(weight, parse_option(option))


def as_sdnq_computes(found, parts: dict[str, torch.Tensor], shape: tuple[int, ...]) -> torch.Tensor:
    """sdnq/dequantizer.py 0.2.8: dequantize_codebook, dequantize_asymmetric, dequantize_symmetric."""
    codes, scale = parts["codes"], parts["scale"].float()
    if found.is_codebook:
        if found.group_size == -2:
            return scale[codes.int()].view(shape)
        axis = (2 if found.groups > 1 else 1) if len(shape) > 2 else -1
        return scale.gather(axis, codes.long()).view(shape)
    if "zero_point" in parts:
        return torch.addcmul(parts["zero_point"], codes.float(), scale).view(shape)
    return (codes.float() * scale).view(shape)


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    distance, scale = float((a - b).abs().max()), float(b.abs().max())
    assert distance <= 4 * torch.finfo(torch.float32).eps * scale


@pytest.mark.parametrize("option", AFFINE + CODEBOOK)
@pytest.mark.parametrize("kind", SINGLE)
def test_one_module(option: str, kind: str) -> None:
    shape = SINGLE[kind]
    if option == "int8" and len(shape) > 2:
        return
    weight = made(shape, option)
    layers = [layer("m", shape)]
    found = layout(layers, [weight.option])
    assert found
    parts = arranged(found, [weight])
    close(as_sdnq_computes(found, parts, shape), weight.dequantize())
    stored = parts["codes"].numel() * found.bits // 8 + sum(
        t.numel() * (2 if found.is_codebook else 4) for n, t in parts.items() if n != "codes")
    assert layout_bytes(found, layers, 16) == stored
    if option.startswith(("rtn", "kmeans")):
        assert torch.equal(as_sdnq_computes(found, parts, shape), weight.dequantize()), "bit for bit"


@pytest.mark.parametrize("kind", HALVES)
@pytest.mark.parametrize("pair", [*itertools.product(AFFINE, AFFINE), *itertools.product(CODEBOOK, CODEBOOK)],
                         ids="+".join)
def test_two_halves_as_one_module(pair: tuple[str, str], kind: str) -> None:
    shapes = HALVES[kind]
    if "int8" in pair and len(shapes[0]) > 2:
        return
    weights = [made(shape, option, seed) for seed, (shape, option) in enumerate(zip(shapes, pair, strict=True))]
    found = layout([layer(f"m:{i}", s) for i, s in enumerate(shapes)], [w.option for w in weights])
    assert found and found.groups > 1
    whole = torch.cat([w.dequantize() for w in weights], dim=1)
    close(as_sdnq_computes(found, arranged(found, weights), tuple(whole.shape)), whole)
    if not found.is_codebook and len(shapes[0]) == 2:
        codes, scale, zero = codes_scale_zero(found, tuple(weights))
        width = found.group_size
        close((codes.float() - zero.repeat_interleave(width, 1)) * scale.repeat_interleave(width, 1), whole)


@pytest.mark.parametrize("option", AFFINE)
def test_torchao_arithmetic_on_one_layer(option: str) -> None:
    for shape in (SINGLE["linear"], SINGLE["narrow"], (5, 7)):
        weight = made(shape, option)
        found = layout([layer("m", shape)], [weight.option], is_packed=False)
        assert found
        codes, scale, zero = codes_scale_zero(found, (weight,))
        half = 2 ** (found.bits - 1)
        assert codes.dtype == torch.int8 and int(codes.min()) >= -half and int(codes.max()) < half
        width = shape[1] // scale.shape[1]
        back = (codes.float() - zero.repeat_interleave(width, 1)) * scale.repeat_interleave(width, 1)
        close(back, weight.dequantize())
        if option.startswith("uaq"):
            assert torch.equal(back, weight.dequantize()), "integer zero points: bit for bit"


def test_families_that_do_not_mix_have_no_layout() -> None:
    shapes = HALVES["linear"]
    layers = [layer(f"m:{i}", s) for i, s in enumerate(shapes)]
    assert layout(layers, [parse_option("uaq-4"), parse_option("kmeans_c-4")]) is None
    assert layout([layer("m", (8, 64))], [parse_option("nf4")]) is None
    assert layout([layer("m", (3, 5))], [parse_option("uaq-3")]) is None, "15 codes of 3 bits fill no whole bytes"


def test_the_skip_list_is_read_as_diffusers_reads_it() -> None:
    from diffusers import BitsAndBytesConfig
    from diffusers.quantizers.bitsandbytes.utils import replace_with_bnb_linear

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.proj_out, self.other = nn.Linear(2, 2), nn.Linear(2, 2)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([Block(), Block()])
            self.proj_out, self.other_proj = nn.Linear(2, 2), nn.Linear(2, 2)

    linear = [n for n, m in Net().named_modules() if isinstance(m, nn.Linear)]
    for keys in (["proj_out"], ["blocks.0.proj_out"], ["blocks.0"], ["other"], ["blocks.1.other", "other_proj"]):
        config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=keys)
        net = replace_with_bnb_linear(Net(), modules_to_not_convert=keys, quantization_config=config)
        kept = [n for n in linear if type(net.get_submodule(n)) is nn.Linear]
        assert kept == [n for n in linear if is_skipped(n, keys)], keys
