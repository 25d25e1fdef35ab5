"""Differentiable ranks: projection onto the permutahedron (Blondel, Teboul, Berthet, Djolonga 2020, eq. 6)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


class _SoftRank(torch.autograd.Function):
    """Ranks by isotonic regression; its Jacobian averages over the blocks of pooled values."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, strength: float) -> Tensor:
        from scipy.optimize import isotonic_regression

        z = -values.detach().double().cpu().numpy() / strength
        order = np.argsort(-z, kind="stable")
        target = np.arange(len(z), 0, -1, dtype=np.float64)
        fitted = isotonic_regression(z[order] - target, increasing=False)
        ranks = np.empty_like(z)
        ranks[order] = z[order] - fitted.x
        block = np.empty(len(z), np.int64)
        block[order] = np.repeat(np.arange(len(fitted.blocks) - 1), np.diff(fitted.blocks))
        ctx.strength = strength
        ctx.save_for_backward(torch.from_numpy(block).to(values.device))
        return torch.from_numpy(len(z) + 1 - ranks).to(values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (block,) = ctx.saved_tensors
        grad = grads[0]
        count = int(block.max()) + 1
        total = torch.zeros(count, dtype=grad.dtype, device=grad.device).index_add(0, block, grad)
        size = torch.bincount(block, minlength=count).to(grad)
        return (grad - (total / size)[block]) / ctx.strength, None


def soft_rank(values: Tensor, strength: float = 1.0) -> Tensor:
    """Soft ranks of values [n], 1 = smallest; strength -> 0 gives ranks, large strength a line in the values."""
    ranks: Tensor = _SoftRank.apply(values, strength)  # type: ignore[no-untyped-call]
    return ranks
