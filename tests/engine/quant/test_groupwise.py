"""rtn_g64 gives the numbers and the bytes that SDNQ gives (golden file; see data/make_sdnq_golden.py)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from engine.core.option import Option
from engine.core.sizes import rtn_group_count, rtn_groups
from engine.quant.packing import unpack
from engine.quant.table import quantize

GOLDEN = load_file(Path(__file__).parent / "data" / "sdnq_0_2_8.safetensors")
CASES = [name for name in GOLDEN if "int" in name and not name.endswith("bytes")]


@pytest.mark.parametrize("name", CASES)
def test_equals_sdnq_to_float32_rounding(name: str) -> None:
    layer, dtype = name.rsplit(" ", 1)
    weight = GOLDEN[layer].float()
    made = quantize(weight, Option("rtn_g64", int(dtype[-1])))
    assert (made.dequantize() - GOLDEN[name]).abs().max() <= 1e-7 * weight.abs().max()
    assert made.size_bytes == GOLDEN[f"{name} bytes"].item()


def test_every_width_of_the_golden_file_was_checked() -> None:
    assert len(CASES) == 24


@pytest.mark.parametrize(("channels", "groups"), [
    (1, 1), (63, 1), (64, 1), (65, 1), (96, 1), (128, 2), (130, 1), (192, 3), (200, 2), (320, 5), (448, 7), (449, 1),
    (1000, 10), (1152, 18),
])
def test_groups_are_equal_and_at_least_64_wide(channels: int, groups: int) -> None:
    assert rtn_group_count(channels) == groups
    assert channels % groups == 0 and (groups == 1 or channels // groups >= 64)


def test_a_convolution_has_a_scale_per_kernel_position() -> None:
    weight = torch.randn(2, 128, 3, 3, generator=torch.Generator().manual_seed(0))
    weight[:, :, 1, 1] *= 1000  # would drown its neighbours in a shared group
    made = quantize(weight, Option("rtn_g64", 4))
    assert made.tensors["scale"].shape == (2, 2, 9) and rtn_groups((2, 128, 3, 3)) == 18
    error = (made.dequantize() - weight)[:, :, 0, 0].abs().max()
    assert error < 0.5


@pytest.mark.parametrize(("bits", "code"), [(4, 0), (5, 16)])
def test_groups_without_range_have_the_code_of_their_value(bits: int, code: int) -> None:
    made = quantize(torch.zeros(2, 64), Option("rtn_g64", bits))
    assert unpack(made.tensors["codes"], bits, 128).tolist() == [code] * 128
