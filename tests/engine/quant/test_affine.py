"""uaq against a plain transcription of its formula, and where formats run out of range or precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from engine.core.option import Option
from engine.quant import affine
from engine.quant.packing import unpack
from engine.quant.qweight import QuantizedWeight

DTYPES = [torch.float16, torch.float32]


def dequantized(tensors: dict[str, torch.Tensor], bits: int, shape: tuple[int, ...]) -> np.ndarray:
    return QuantizedWeight(Option("uaq", bits), shape, tensors).dequantize().numpy()


def reference(channel: np.ndarray, bits: int, kind: type) -> tuple[float, float, np.ndarray]:
    """Step by step as published; delta and z as a file holds them, scores in double precision."""
    low, high, top = float(channel.min()), float(channel.max()), 2**bits - 1
    best, kept = np.inf, None
    for tenths in range(10, 0, -1):
        ratio = tenths / 10
        delta = np.float32(kind(np.float32(ratio * (high - low) / top)))
        zero = np.float32(np.rint(-ratio * low / np.float64(delta)))
        codes = np.clip(np.rint(channel / delta) + zero, 0, top)
        error = np.abs(channel.astype(np.float64) - (codes - zero).astype(np.float64) * delta)
        score = (error**2.4).mean()
        if score < best:
            best, kept = score, (float(delta), float(zero), codes)
    assert kept is not None
    return kept


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_equals_the_plain_formula(bits: int, dtype: torch.dtype) -> None:
    generator = np.random.default_rng(bits)
    rows = (generator.standard_t(4, (40, 300)) * generator.uniform(0.001, 2, (40, 1))).astype(np.float32)
    rows[:5] += 0.7 * np.abs(rows[:5]).max()  # ranges that do not contain 0
    made = affine.quantize(rows, bits, dtype)
    codes = unpack(made["codes"], bits, rows.size).numpy().reshape(rows.shape)
    kind = np.float16 if dtype == torch.float16 else np.float32
    ratios = set()
    for row, channel in enumerate(rows):
        delta, zero, expected = reference(channel, bits, kind)
        assert (made["delta"][row].item(), made["zero"][row].item()) == (delta, zero)
        assert codes[row].tolist() == expected.tolist()
        ratios.add(round(delta * (2**bits - 1) / float(channel.max() - channel.min()), 1))
    assert len(ratios) > 2 or bits > 4  # the search had something to do


def test_the_narrowest_clip_is_tried() -> None:
    channel = np.random.default_rng(0).uniform(-0.1, 0.1, 20_000).astype(np.float32)
    channel[:2] = -1, 1
    made = affine.quantize(channel[None], 2, torch.float32)
    assert made["delta"].item() == reference(channel, 2, np.float32)[0] == pytest.approx(0.2 / 3)


def test_halves_round_to_even() -> None:
    made = affine.quantize(np.array([[0.5, 1.5, 2.5, *[0, 1, 2, 3] * 10]], np.float32), 2, torch.float16)
    assert made["delta"].item() == 1 and unpack(made["codes"], 2, 3).tolist() == [0, 2, 2]
    made = affine.quantize(np.array([[-0.5, 0.5, 1.5, *[-1, 0, 1, 2] * 99]], np.float32), 2, torch.float16)
    assert made["zero"].item() == 1 and unpack(made["codes"], 2, 3).tolist() == [1, 1, 3]  # before z is added


@pytest.mark.parametrize("dtype", DTYPES)
def test_far_from_zero_the_error_stays_near_the_format_s_rounding(dtype: torch.dtype) -> None:
    offsets = np.array([1000.0, -1000.0, 0.5, -0.5, 3e4], np.float32)[:, None]
    rows = (offsets * (1 + np.random.default_rng(0).uniform(0, 1e-4, (5, 200)))).astype(np.float32)
    made = affine.quantize(rows, 8, dtype)
    limit = 2**11 if dtype == torch.float16 else 2**22
    assert made["zero"].abs().max() <= limit
    error = np.abs(dequantized(made, 8, rows.shape) - rows).max(axis=1) / np.abs(offsets[:, 0])
    assert (error < 2.0 / limit).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_tiny_and_huge_ranges_stay_finite(dtype: torch.dtype) -> None:
    spread = np.random.default_rng(0).uniform(-1, 1, (1, 100))
    rows = (spread * np.array([[1e-30], [1e-8], [1e-7], [1e-5], [6e4], [1e6], [1e30]])).astype(np.float32)
    made = affine.quantize(rows, 4, dtype)
    assert (made["delta"] > 0).all() and made["delta"].isfinite().all() and made["zero"].isfinite().all()
    result = dequantized(made, 4, rows.shape)
    assert np.isfinite(result).all()
    fits = slice(3, 5) if dtype == torch.float16 else slice(0, 7)
    error = np.abs(result - rows).max(axis=1) / np.abs(rows).max(axis=1)
    assert (error[fits] < 0.4).all()


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.float32, (3, 12), elements=st.floats(-60000, 60000, width=16)), st.sampled_from([2, 4, 8]))
def test_no_clipping_is_never_beaten_by_the_choice(rows: np.ndarray, bits: int) -> None:
    """The choice is at least as good as ratio 1 with the same stored grid, in the norm it is made for."""
    made = affine.quantize(rows, bits, torch.float16)
    result = dequantized(made, bits, rows.shape).astype(np.float64)
    assert np.isfinite(result).all()
    delta, zero = affine.candidates(rows.min(axis=1), rows.max(axis=1), bits, torch.float16)
    delta, zero = delta[:, :1], zero[:, :1]
    codes = np.clip(np.rint(rows / delta) + zero, 0, 2**bits - 1)
    whole = ((codes - zero) * delta).astype(np.float64)
    chosen, plain = (np.abs(rows - result) ** 2.4).mean(axis=1), (np.abs(rows - whole) ** 2.4).mean(axis=1)
    assert (chosen <= plain * (1 + 1e-4) + 1e-30).all()


def test_powers_are_accurate_enough_to_compare_scores() -> None:
    values = (10 ** np.random.default_rng(0).uniform(-9, 1, 500)).astype(np.float32)
    for value in values:
        power = affine._sum_of_powers(np.array([value], np.float32), np.empty(1, np.float32))
        assert power == pytest.approx(float(value) ** 2.4, rel=2e-5)
    assert affine._sum_of_powers(np.zeros(3, np.float32), np.empty(3, np.float32)) < 1e-30
