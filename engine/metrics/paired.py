"""Image against image of the same seed: PSNR, SSIM, squared error, and the SQNR of latents at every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from engine.core.errors import InputError

# Identical images have no finite PSNR; they are given this one, so that means and files stay finite.
CAP_DB = 100.0
CHUNK_PIXELS = 16 * 512 * 512


class Image(Protocol):
    """What the metrics read of a picture.

    Attributes:
        pixels: uint8 [H, W, 3].
        exact: float32 [H, W, 3] in [0, 1] before rounding, or None.
    """

    pixels: np.ndarray
    exact: np.ndarray | None


def stack(images: Sequence[Image | np.ndarray]) -> Tensor:
    """Pictures or arrays [H, W, 3] (uint8, or float in [0, 1]) as one tensor [B, 3, H, W] in [0, 1].

    Raises:
        InputError: no images, different sizes, or NaN in one.
    """
    arrays = [_array(image) for image in images]
    shapes = {a.shape for a in arrays}
    if len(shapes) != 1:
        raise InputError(f"The images must all have one size, got {sorted(shapes) or 'none'}.")
    batch = torch.from_numpy(np.stack(arrays))
    if not bool(torch.isfinite(batch).all()):
        raise InputError("An image holds NaN or Inf; the weights or the recipe that made it are broken.")
    return batch.permute(0, 3, 1, 2).contiguous()


def _array(image: Image | np.ndarray) -> np.ndarray:
    if not isinstance(image, np.ndarray):
        image = image.pixels if image.exact is None else image.exact
    if image.ndim != 3 or image.shape[2] != 3:
        raise InputError(f"An image must be [height, width, 3], got {list(image.shape)}.")
    return image.astype(np.float32) / 255 if image.dtype == np.uint8 else image.astype(np.float32)


def mse(full: Tensor, other: Tensor) -> np.ndarray:
    """Mean squared error per image over channels and pixels; inputs [B, 3, H, W] in [0, 1], result [B]."""
    _same(full, other)
    return (full.double() - other.double()).square().mean(dim=(1, 2, 3)).cpu().numpy()


def psnr(full: Tensor, other: Tensor) -> np.ndarray:
    """PSNR per image in dB on [0, 1] RGB, at most `CAP_DB`; inputs [B, 3, H, W], result [B]."""
    from torchmetrics.functional.image import peak_signal_noise_ratio

    _same(full, other)
    values = peak_signal_noise_ratio(other.double(), full.double(), data_range=1.0, reduction="none", dim=(1, 2, 3))
    return values.clamp(max=CAP_DB).cpu().numpy()


def ssim(full: Tensor, other: Tensor) -> np.ndarray:
    """SSIM per image: Gaussian window 11 x 11, sigma 1.5, edges mirrored; [B, 3, H, W] in [0, 1] -> [B]."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    _same(full, other)
    if min(full.shape[2:]) < 11:
        raise InputError(f"SSIM needs images of at least 11 x 11 pixels, got {tuple(full.shape[2:])}.")
    size = max(1, CHUNK_PIXELS // (full.shape[2] * full.shape[3]))
    parts = [
        structural_similarity_index_measure(
            b, a, gaussian_kernel=True, sigma=1.5, kernel_size=11, data_range=1.0, reduction="none"
        ).reshape(-1)
        for a, b in zip(full.split(size), other.split(size), strict=True)
    ]
    return torch.cat(parts).double().cpu().numpy()


def latent_sqnr(full: Sequence[Tensor], other: Sequence[Tensor]) -> np.ndarray:
    """Signal to quantization noise of the latents in dB, per image and step, at most `CAP_DB`.

    10 log10(sum x^2 / sum (x - y)^2), x from the full-precision run, y from the quantized one of the same seed.

    Args:
        full, other: one tensor [T, ...] per image, the latents after each of T denoising steps.

    Returns:
        [B, T].
    """
    if len(full) != len(other) or any(x.shape != y.shape for x, y in zip(full, other, strict=True)):
        raise InputError("Latent SQNR needs the same images and steps on both sides.")
    rows = []
    for x, y in zip(full, other, strict=True):
        x, y = x.double().flatten(1), y.double().flatten(1)
        noise = (x - y).square().sum(1)
        signal = x.square().sum(1)
        ratio = 10 * torch.log10(signal / noise.clamp(min=torch.finfo(torch.float64).tiny))
        rows.append(ratio.clamp(max=CAP_DB).cpu().numpy())
    return np.stack(rows)


def _same(full: Tensor, other: Tensor) -> None:
    if full.shape != other.shape:
        raise InputError(f"Paired metrics need images of one size and number, got {list(full.shape)} "
                         f"and {list(other.shape)}.")
