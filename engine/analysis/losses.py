"""Losses of the predictor (Qua2SeDiMo section 3.3): MSE plus a ranking loss on the norms of hop embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum

import torch
from torch import Tensor
from torch.nn import functional

from engine.analysis.softrank import soft_rank

GAIN_HALF = 10.0  # relevance that doubles the gain: 0..50 becomes the usual five grades


class RankLoss(StrEnum):
    """What orders the hop embeddings."""

    SPEARMAN = "spearman"
    LAMBDA = "ndcg"
    HYBRID = "hybrid"
    NONE = "none"


def soft_spearman(norms: Tensor, relevance: Tensor, strength: float = 1.0) -> Tensor:
    """1 - Pearson(relevance, soft ranks of the norms); both [B]."""
    ranks = soft_rank(norms, strength)
    x, y = ranks - ranks.mean(), relevance - relevance.mean()
    scale = (x.square().sum() * y.square().sum()).clamp_min(1e-12).sqrt()
    return 1 - (x * y).sum() / scale


def lambda_rank(norms: Tensor, relevance: Tensor, sigma: float = 1.0) -> Tensor:
    """LambdaRank (Burges 2010) as a loss whose gradient by autograd is the lambda of every item.

    sum over pairs with r_i > r_j of |delta NDCG_ij| * softplus(-sigma (s_i - s_j)): its derivative is
    -sigma |delta NDCG_ij| / (1 + exp(sigma (s_i - s_j))). Ranks come from the predicted order, descending. (The
    released code sorts the targets, and clears these gradients before they arrive; section 7.3, slips 1 and 2.)

    Args:
        norms: [B] scores.
        relevance: [B], 0 to 50; gain = 2^(relevance / 10) - 1.
        sigma: slope.
    """
    with torch.no_grad():
        gain = torch.exp2(relevance / GAIN_HALF) - 1
        rank = torch.empty_like(norms)
        rank[torch.argsort(norms, descending=True)] = torch.arange(len(norms), device=norms.device, dtype=norms.dtype)
        discount = 1 / torch.log2(rank + 2)
        ideal = (gain.sort(descending=True).values * discount.sort(descending=True).values).sum().clamp_min(1e-12)
        change = (gain[:, None] - gain[None]) * (discount[:, None] - discount[None])
        weight = change.abs() / ideal * (relevance[:, None] > relevance[None])
    return (weight * functional.softplus(-sigma * (norms[:, None] - norms[None]))).sum()


def _spearman(norms: Tensor, relevance: Tensor) -> Tensor:
    return soft_spearman(norms, relevance)


def _hybrid(norms: Tensor, relevance: Tensor) -> Tensor:
    return soft_spearman(norms, relevance) + lambda_rank(norms, relevance)


def _none(norms: Tensor, relevance: Tensor) -> Tensor:
    return norms.new_zeros(())


RANK_LOSSES: dict[RankLoss, Callable[[Tensor, Tensor], Tensor]] = {
    RankLoss.SPEARMAN: _spearman, RankLoss.LAMBDA: lambda_rank, RankLoss.HYBRID: _hybrid, RankLoss.NONE: _none,
}


def total_loss(predicted: Tensor, target: Tensor, norms: Sequence[Tensor], relevance: Tensor, rank: RankLoss,
               weight: float = 1.0) -> Tensor:
    """MSE + weight * mean over hops of the ranking loss.

    Args:
        predicted, target: [B], target standardised.
        norms: per ranked hop [B], L1 norm of the pooled embedding.
        relevance: [B], 0 to 50.
        rank: which ranking loss.
        weight: lambda_c, 1 in the paper.
    """
    order = torch.stack([RANK_LOSSES[rank](s, relevance) for s in norms]).mean()
    return functional.mse_loss(predicted, target) + weight * order
