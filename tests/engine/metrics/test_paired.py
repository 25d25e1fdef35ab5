"""PSNR, SSIM and latent SQNR against closed forms and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from engine.core.errors import InputError
from engine.metrics.paired import CAP_DB, latent_sqnr, mse, psnr, ssim, stack
from tests.engine.metrics.pictures import blurred, noise


def test_a_constant_offset_has_the_psnr_of_its_square() -> None:
    full = torch.full((2, 3, 16, 16), 0.5)
    assert psnr(full, full + 0.1) == pytest.approx([20.0, 20.0], abs=1e-5)
    assert mse(full, full + 0.1) == pytest.approx([0.01, 0.01], abs=1e-8)


def test_psnr_is_per_image_and_capped_for_identical_ones() -> None:
    full = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.5
    other = full.clone()
    other[1] += 0.01
    assert psnr(full, other) == pytest.approx([CAP_DB, 40.0], abs=1e-4)


def test_ssim_equals_its_definition() -> None:
    """Every pixel's Gaussian 11 x 11 window (edges mirrored), Wang et al. 2004, eq. 13, averaged."""
    generator = torch.Generator().manual_seed(1)
    x, y = torch.rand(1, 3, 14, 12, generator=generator), torch.rand(1, 3, 14, 12, generator=generator)
    g = torch.exp(-(torch.arange(11.0) - 5).square() / (2 * 1.5**2))
    w = (g[:, None] * g[None]) / (g[:, None] * g[None]).sum()

    def mean(image: torch.Tensor) -> torch.Tensor:
        windows = functional.pad(image, (5, 5, 5, 5), mode="reflect").unfold(2, 11, 1).unfold(3, 11, 1)
        return (windows * w).sum((-2, -1))

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    expected = ((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean()
    assert ssim(x, y) == pytest.approx([float(expected)], abs=1e-5)


def test_ssim_in_chunks_is_ssim_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    full, other = stack(noise(5)), stack(blurred(noise(5), 0.1))
    whole = ssim(full, other)
    monkeypatch.setattr("engine.metrics.paired.CHUNK_PIXELS", 2 * 16 * 16)
    assert ssim(full, other) == pytest.approx(whole, abs=1e-7)
    assert ssim(full, full) == pytest.approx([1.0] * 5, abs=1e-6)


def test_more_noise_is_worse_everywhere() -> None:
    full = stack(noise(4))
    worse = [stack(blurred(noise(4), amount)) for amount in (0.01, 0.05, 0.2)]
    for metric in (psnr, ssim):
        values = [metric(full, w).mean() for w in worse]
        assert values == sorted(values, reverse=True) and values[0] > values[-1]


def test_latent_sqnr_is_a_ratio_of_energies_per_step() -> None:
    x = torch.ones(3, 4, 2, 2)  # 3 steps
    y = x.clone()
    y[1] += 0.1  # noise energy 0.01 of the signal's
    table = latent_sqnr([x, x], [y, x])
    assert table.shape == (2, 3)
    assert table[0] == pytest.approx([CAP_DB, 20.0, CAP_DB], abs=1e-4)
    assert table[1] == pytest.approx([CAP_DB] * 3)


def test_uint8_and_float_pictures_are_the_same_images() -> None:
    pictures = noise(2)
    as_float = stack(pictures)
    as_bytes = stack([p.pixels for p in pictures])
    assert float((as_float - as_bytes).abs().max()) <= 0.5 / 255 + 1e-6
    assert as_float.shape == (2, 3, 16, 16)


def test_nan_and_mixed_sizes_are_refused() -> None:
    broken = np.zeros((16, 16, 3), np.float32)
    broken[0, 0, 0] = np.nan
    with pytest.raises(InputError, match="NaN"):
        stack([broken])
    with pytest.raises(InputError, match="one size"):
        stack([np.zeros((16, 16, 3), np.uint8), np.zeros((8, 16, 3), np.uint8)])
    with pytest.raises(InputError, match="one size and number"):
        psnr(torch.zeros(2, 3, 16, 16), torch.zeros(1, 3, 16, 16))
