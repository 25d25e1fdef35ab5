"""k-means against the exact optimum, and against scikit-learn channel by channel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from engine.bench.kmeans import _optimum
from engine.core.option import Option
from engine.quant import clusters, kmeans
from engine.quant.packing import unpack
from engine.quant.table import quantize


def optima(values: np.ndarray, most: int) -> list[float]:
    """Least sums of squares with 1 to `most` clusters, by the textbook dynamic programme, O(K n^2)."""
    ordered = np.sort(values.astype(np.float64)) - np.float64(values.mean())
    size = len(ordered)
    total, square = np.cumsum([0.0, *ordered]), np.cumsum([0.0, *ordered**2])
    count = np.arange(size + 1)[None, :] - np.arange(size + 1)[:, None]
    cost = square[None, :] - square[:, None] - (total[None, :] - total[:, None]) ** 2 / np.maximum(count, 1)
    cost[count < 0] = np.inf
    best = [cost[0]]
    while len(best) < most:
        best.append((best[-1][:, None] + cost).min(axis=0))
    return [max(float(row[-1]), 0.0) for row in best]


def optimum(values: np.ndarray, number: int) -> float:
    return optima(values, number)[-1]


def sse(values: np.ndarray, codebook: np.ndarray) -> float:
    return float((np.abs(values[:, None].astype(np.float64) - codebook).min(axis=1) ** 2).sum())


def solved(rows: np.ndarray, number: int) -> np.ndarray:
    codebook = np.empty((len(rows), number))
    clusters.solve_rows(np.sort(rows, axis=1), number, codebook, 0, len(rows))
    assert (np.diff(codebook, axis=1) >= 0).all()
    return codebook


def heavy(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_t(3, shape) * 0.02).astype(np.float32)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("size", [5, 17, 70, 250])
def test_small_channels_are_optimal(size: int, bits: int) -> None:
    rows = heavy((10, size), seed=size)
    for channel, codebook in zip(rows, solved(rows, 2**bits), strict=True):
        assert sse(channel, codebook) <= optimum(channel, 2**bits) * (1 + 1e-6) + 1e-12


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.int8, st.integers(1, 60), elements=st.integers(-40, 40)), st.sampled_from([4, 8, 16]))
def test_repeated_values(values: np.ndarray, number: int) -> None:
    channel = values.astype(np.float32)
    codebook = solved(channel[None], number)[0]
    if len(np.unique(channel)) <= number:
        assert set(channel.tolist()) == set(codebook.tolist())
    assert sse(channel, codebook) <= (1 + 1e-6) * optimum(channel, number) + 1e-9


def test_large_channels_are_a_hair_above_the_optimum() -> None:
    rows = np.vstack([heavy((4, 1152), 3), np.random.default_rng(1).normal(size=(4, 1152)).astype(np.float32)])
    best = [optima(channel, 32) for channel in rows]
    ratios = np.array([[sse(channel, solved(channel[None], number)[0]) / least[number - 1] for number in (4, 8, 16, 32)]
                       for channel, least in zip(rows, best, strict=True)])
    assert ratios.mean() < 1 + 1e-5 and ratios.max() < 1.001


def test_large_codebooks() -> None:
    channel = heavy((1, 900), 4)
    assert sse(channel[0], solved(channel, 256)[0]) < 1.0001 * optimum(channel[0], 256)


@pytest.mark.parametrize("number", [8, 16, 32])
@pytest.mark.parametrize(("distinct", "repeats"), [(100, 1), (90, 2), (37, 3)])
def test_even_grids_where_no_price_gives_the_number(distinct: int, repeats: int, number: int) -> None:
    channel = np.repeat(np.arange(distinct), repeats).astype(np.float32)
    assert sse(channel, solved(channel[None], number)[0]) <= (1 + 1e-9) * optimum(channel, number)


def peer_sse(values: np.ndarray, number: int) -> float:
    with threadpool_limits(1):
        fitted = KMeans(number, n_init=1, max_iter=100, random_state=0).fit(values[:, None].astype(np.float64))
    return sse(values, np.sort(fitted.cluster_centers_[:, 0]))


@pytest.mark.parametrize("bits", [3, 4])
def test_no_channel_is_worse_than_scikit_learn_s(bits: int) -> None:
    rows = heavy((16, 1152), 11)
    result = quantize(torch.from_numpy(rows), Option("kmeans_c", bits), precision_bits=32).dequantize().numpy()
    for channel, ours in zip(rows, result, strict=True):
        assert ((channel - ours).astype(np.float64) ** 2).sum() <= peer_sse(channel, 2**bits)


def test_whole_tensor_of_more_values_than_atoms() -> None:
    rows = heavy((40, 500), 5)
    assert rows.size > clusters.MAX_ATOMS
    ours = quantize(torch.from_numpy(rows), Option("kmeans_a", 4), precision_bits=32).dequantize().numpy()
    ours_sse = ((rows - ours).astype(np.float64) ** 2).sum()
    assert ours_sse <= peer_sse(rows.ravel(), 16)
    # A codebook from three other starts, settled by exact Lloyd steps, finds nothing a thousandth better.
    assert ours_sse <= 1.001 * min(lloyd(rows.ravel(), 16, seed) for seed in range(3))


def binned(rows: np.ndarray, number: int) -> np.ndarray:
    codebook = np.empty((len(rows), number))
    clusters.solve_binned_rows(rows, number, codebook, 0, len(rows))
    return codebook


def long_rows() -> dict[str, np.ndarray]:
    rng, size = np.random.default_rng(7), (4, 2 * clusters.LEAST_BINNED)
    rows = {"heavy": rng.standard_t(4, size), "normal": rng.normal(size=size), "even": rng.uniform(size=size),
            "narrow": 5 + 1e-3 * rng.normal(size=size), "lopsided": rng.exponential(size=size)}
    return {name: values.astype(np.float32) for name, values in rows.items()}


@pytest.mark.parametrize("number", [4, 8, 16])
@pytest.mark.parametrize("name", list(long_rows()))
def test_long_channels_in_bins_are_a_hair_above_the_optimum(name: str, number: int) -> None:
    rows = long_rows()[name]
    for channel, codebook in zip(rows, binned(rows, number), strict=True):
        assert (np.diff(codebook) > 0).all()
        assert sse(channel, codebook) < 1.001 * _optimum(np.sort(channel.astype(np.float64) - channel.mean()), number)


@pytest.mark.parametrize("bits", [3, 4])
def test_no_long_channel_is_worse_than_scikit_learn_s(bits: int) -> None:
    for channel, codebook in zip(rows := long_rows()["heavy"], binned(rows, 2**bits), strict=True):
        assert sse(channel, codebook) <= peer_sse(channel, 2**bits)


def test_what_bins_cannot_hold_is_sorted() -> None:
    rng = np.random.default_rng(3)
    size = clusters.LEAST_BINNED
    spikes = np.where(rng.uniform(size=size) < 0.5, -1, 1) + 1e-4 * rng.normal(size=size)
    zeros = np.where(rng.uniform(size=size) < 0.5, 0, rng.normal(size=size))
    far = rng.normal(size=size)
    far[0] = 1e9
    rows = np.stack([spikes, zeros, np.zeros(size), far, rng.normal(size=size)]).astype(np.float32)
    codebook = binned(rows, 8)
    assert np.isnan(codebook[:4]).all()
    assert (codebook[4] == binned(rows[4:], 8)[0]).all()  # what was tried before leaves nothing behind
    made = kmeans.quantize_channels(rows, [3], torch.float32)[3]["codebook"].numpy()
    assert (made[:4] == solved(rows[:4], 8).astype(np.float32)).all()


def lloyd(values: np.ndarray, number: int, seed: int) -> float:
    ordered = np.sort(values.astype(np.float64))
    shares = np.sort(np.random.default_rng(seed).uniform(0, 1, number))
    centres = np.quantile(ordered, shares)
    for _ in range(300):
        place = np.searchsorted((centres[1:] + centres[:-1]) / 2, ordered)
        filled = np.bincount(place, minlength=number) > 0
        sums = np.bincount(place, ordered, number)[filled]
        centres = np.sort(np.r_[sums / np.bincount(place, minlength=number)[filled], centres[~filled]])
    return sse(values, centres)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("bits", [2, 4, 6, 8])
def test_codes_are_the_nearest_stored_entries(bits: int, dtype: torch.dtype) -> None:
    rows = heavy((6, 400), bits)
    rows[0] = 2000 + 2000 * np.abs(rows[0])  # float16 holds whole numbers only here: entries move when stored
    made = kmeans.quantize_channels(rows, [bits], dtype)[bits]
    assert made["codebook"].dtype == dtype and made["codebook"].shape == (6, 2**bits)
    levels = made["codebook"].float().numpy()
    codes = unpack(made["codes"], bits, rows.size).numpy().reshape(rows.shape)
    chosen = np.take_along_axis(levels, codes.astype(np.int64), axis=1)
    nearest = np.abs(rows[:, :, None].astype(np.float64) - levels[:, None, :]).min(axis=2)
    assert np.abs(rows.astype(np.float64) - chosen) == pytest.approx(nearest, rel=1e-5, abs=1e-9)


def test_short_codebooks_repeat_their_last_entry() -> None:
    made = kmeans.quantize_channels(np.array([[3, 1, 1, 2]], np.float32), [3], torch.float16)[3]
    assert made["codebook"].tolist() == [[1, 2, 3, 3, 3, 3, 3, 3]]
    assert unpack(made["codes"], 3, 4).tolist() == [2, 0, 0, 1]


def test_values_beyond_float16_are_held_at_its_largest() -> None:
    made = kmeans.quantize_channels(np.array([[1e6, -1e6, 0]], np.float32), [2], torch.float16)[2]
    assert made["codebook"].tolist() == [[-65504, 0, 65504, 65504]]
