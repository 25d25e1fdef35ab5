"""Cross-layer correlation from Gram matrices: the orthogonality matrix of OMPQ, biased as released and debiased.

OMPQ (Ma et al., AAAI 2023): ORM(i, j) = <K~i, K~j> / (|K~i| |K~j|) with the centred Gram matrices K~ = H K H of two
layers' features over the same n samples, which is linear CKA: 1 = redundant, 0 = orthogonal. Biased, it nears 1 for
any two layers with many more features than samples (independent Gaussian features, n = 32: 0.97 at 1,000 features);
the debiased estimate centres without the diagonal (Szekely and Rizzo 2014) and has mean 0 there.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from engine.core.errors import InputError
from engine.core.seeds import derive

MIN_SAMPLES = {False: 2, True: 4}  # of the biased and the debiased estimate
SKETCH_FEATURES = 4096
DEAD = 1e-5  # variation below this share of a layer's largest output is float32 rounding


def features(output: Tensor) -> Tensor:
    """A layer's output, sample by sample: float32 [n, p], centred over samples; exactly zero where it does not vary.

    Both estimates are invariant to a common offset; taking it off first keeps float32 products exact enough. What is
    left below `DEAD` of the largest magnitude is rounding.
    """
    flat = output.detach().float().flatten(1)
    moved = flat - flat.mean(0)
    return moved if float(moved.abs().max()) > DEAD * float(flat.abs().max()) else torch.zeros_like(flat)


def gram(flat: Tensor, chunk: int = 1 << 16) -> Tensor:
    """K = F F^T, float64 [n, n], summed over chunks of features.

    Args:
        flat: float [n, p].
        chunk: features at once.
    """
    total = torch.zeros(len(flat), len(flat), dtype=torch.float64)
    for start in range(0, flat.shape[1], chunk):
        part = flat[:, start:start + chunk]
        total += (part @ part.T).double().cpu()
    return total


def sketch(flat: Tensor, name: str, width: int = SKETCH_FEATURES) -> Tensor:
    """Features folded to `width` with random signs, the same for every sample: inner products stay unbiased.

    Count sketch (Charikar et al. 2002); error of a Gram entry about |F_i| |F_j| / sqrt(width).

    Args:
        flat: [n, p].
        name: of the layer, seeds the fold, so that batches of samples can be folded one after the other.
        width: features that are left.
    """
    generator = torch.Generator().manual_seed(derive("sketch", name))
    place = torch.randint(width, (flat.shape[1],), generator=generator).to(flat.device)
    sign = torch.randint(2, (flat.shape[1],), generator=generator).to(flat) * 2 - 1
    return flat.new_zeros(len(flat), width).index_add_(1, place, flat * sign)


def centred(grams: Tensor, *, debiased: bool = True) -> Tensor:
    """Centred Gram matrices of unit norm, float64 [L, n, n]; zero where a layer's features do not vary.

    Args:
        grams: [L, n, n].
        debiased: centre without the diagonal (U-centring), else H K H.

    Raises:
        InputError: too few samples, or NaN.
    """
    n = grams.shape[-1]
    if n < MIN_SAMPLES[debiased]:
        raise InputError(f"Cross-layer correlation over {n} sample{'s' * (n > 1)} is undefined; the "
                         f"{'debiased' if debiased else 'biased'} estimate needs at least {MIN_SAMPLES[debiased]} "
                         f"pictures, and says something from 16.")
    k = grams.double().clone()
    if not bool(torch.isfinite(k).all()):
        raise InputError("A layer's output holds NaN or Inf, so its correlation is undefined; use float32, or other "
                         "weights.")
    if debiased:
        k.diagonal(dim1=1, dim2=2).zero_()
        rows = k.sum(2, keepdim=True)
        total = rows.sum(1, keepdim=True)
        k = k - rows / (n - 2) - rows.transpose(1, 2) / (n - 2) + total / ((n - 1) * (n - 2))
        k.diagonal(dim1=1, dim2=2).zero_()
    else:
        rows = k.mean(2, keepdim=True)
        k = k - rows - rows.transpose(1, 2) + rows.mean(1, keepdim=True)
    norm = k.flatten(1).norm(dim=1)
    scale = torch.where(norm > 0, 1 / norm.clamp(min=torch.finfo(torch.float64).tiny), torch.zeros_like(norm))
    return k * scale[:, None, None]


def orthogonality(grams: Tensor, *, debiased: bool = True) -> Tensor:
    """The matrix ORM, float64 [L, L]: symmetric, 1 on the diagonal, 0 in rows and columns of layers that do not vary.

    Debiased values may be slightly negative. Errors as `centred`.
    """
    z = centred(grams, debiased=debiased).flatten(1)
    matrix = z @ z.T
    alive = z.norm(dim=1) > 0
    matrix = (matrix + matrix.T) / 2
    matrix.diagonal().copy_(alive.double())
    return matrix


def off_diagonal_median(matrix: Tensor) -> float:
    """Median over pairs of different layers that vary; NaN where there are none."""
    alive = matrix.diagonal() > 0
    kept = matrix[alive][:, alive]
    pairs = kept[~torch.eye(len(kept), dtype=torch.bool)]
    return float(pairs.median()) if len(pairs) else math.nan
