"""Distances between two sets of images in a feature space: Fréchet and kernel (unbiased, cubic polynomial)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from engine.core.errors import InputError
from engine.core.record import Metric
from engine.metrics.bootstrap import half_width, left_out, set_metric

# A covariance of D dimensions from fewer than 2 D images is singular or close to it, and the distance mostly bias.
IMAGES_PER_DIMENSION = 2


def frechet(a: Tensor, b: Tensor) -> float:
    """|m_a - m_b|^2 + Tr(S_a + S_b - 2 (S_a S_b)^(1/2)) of two feature sets [n, D], [m, D] (Heusel et al. 2017, eq. 6).

    Computed in float64 through the symmetric form S_a^(1/2) S_b S_a^(1/2), so no complex parts arise.
    """
    a, b = a.double(), b.double()
    mean = (a.mean(0) - b.mean(0)).square().sum()
    cov_a, cov_b = torch.cov(a.T).reshape(a.shape[1], -1), torch.cov(b.T).reshape(b.shape[1], -1)
    values, vectors = torch.linalg.eigh(cov_a)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    return float(mean + cov_a.trace() + cov_b.trace() - 2 * cross)


def kernel_distance(a: Tensor, b: Tensor, *, paired: bool = False) -> float:
    """Unbiased squared MMD with the kernel (x.y / D + 1)^3, over all of [n, D] and [m, D] (Binkowski et al. 2018, KID).

    Unbiased means that it may be slightly negative for two sets from one distribution.

    Args:
        a, b: features of two sets.
        paired: the sets are not independent: row i of both has the same prompt (and perhaps seed). The pairs are then
            left out of the cross term (Gretton et al. 2012, eq. 4); with them the distance of a set to a slightly
            changed copy of itself would come out clearly negative.
    """
    a, b = a.double(), b.double()
    return _mmd(_kernel(a, a), _kernel(b, b), _kernel(a, b), paired)


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _mmd(k_aa: Tensor, k_bb: Tensor, k_ab: Tensor, paired: bool) -> float:
    cross = _off_diagonal_mean(k_ab) if paired else k_ab.mean()
    return float(_off_diagonal_mean(k_aa) + _off_diagonal_mean(k_bb) - 2 * cross)


def _off_diagonal_mean(kernel: Tensor) -> Tensor:
    n = kernel.shape[0]
    return (kernel.sum() - kernel.trace()) / (n * (n - 1))


def frechet_metric(a: Tensor, b: Tensor, extractor: str, name: str = "frechet") -> tuple[Metric, np.ndarray]:
    """`frechet[extractor]` with its jackknife interval (n is the smaller set), and its values with a group left out.

    Raises:
        InputError: fewer images than twice the feature dimension.
    """
    n, needed = min(len(a), len(b)), IMAGES_PER_DIMENSION * a.shape[1]
    if n < needed:
        raise InputError(f"A Fréchet distance over {a.shape[1]} features of {extractor} needs at least {needed} images "
                         f"in each set, got {n}; use the kernel distance, or more images.")
    value, values = left_out(lambda keep: frechet(a[_part(keep, n, len(a))], b[_part(keep, n, len(b))]), n)
    return set_metric(f"{name}[{extractor}]", value, half_width(values), n), values


def kernel_metric(a: Tensor, b: Tensor, extractor: str, name: str = "kernel_distance", *,
                  paired: bool = False) -> tuple[Metric, np.ndarray]:
    """`kernel_distance[extractor]` with its jackknife interval (n is the smaller set; `paired` as above), and its
    values with a group left out.

    Raises:
        InputError: fewer than two images in a set, or sets of unequal size called paired.
    """
    n = min(len(a), len(b))
    if paired and len(a) != len(b):
        raise InputError(f"Paired sets have one picture for each of the other, got {len(a)} and {len(b)}.")
    if n < 2:
        raise InputError(f"A kernel distance needs at least 2 images in each set, got {n}.")
    a, b = a.double(), b.double()
    k_aa, k_bb, k_ab = _kernel(a, a), _kernel(b, b), _kernel(a, b)

    def statistic(keep: np.ndarray) -> float:
        i, j = _part(keep, n, len(a)), _part(keep, n, len(b))
        return _mmd(k_aa[i][:, i], k_bb[j][:, j], k_ab[i][:, j], paired)

    value, values = left_out(statistic, n)
    return set_metric(f"{name}[{extractor}]", value, half_width(values), n), values


def _part(keep: np.ndarray, n: int, size: int) -> Tensor:
    """Indices kept of a set of `size` >= n: those of `keep`, and all beyond n only where nothing is left out."""
    if size == n:
        return torch.from_numpy(keep)
    mask = np.zeros(n, dtype=bool)
    mask[keep] = True
    return torch.from_numpy(np.flatnonzero(np.resize(mask, size)))
