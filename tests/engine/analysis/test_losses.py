"""Ranking losses: limits of the soft ranks, gradients against formulas, and that they arrive in the weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, rankdata, spearmanr

from engine.analysis.losses import RankLoss, lambda_rank, soft_spearman, total_loss
from engine.analysis.network import Network
from engine.analysis.softrank import soft_rank
from engine.analysis.training import frame_of, index_of, shape_of, train_step
from engine.analysis.trials import TrialTable

VALUES = torch.tensor([0.3, -1.2, 2.5, 0.9, 0.1, 4.0], dtype=torch.float64)
GRADES = torch.tensor([10.0, 0.0, 30.0, 50.0, 0.0, 25.0], dtype=torch.float64)


def test_soft_ranks_become_ranks_and_then_a_line() -> None:
    assert soft_rank(VALUES, 1e-6).numpy() == pytest.approx(rankdata(VALUES.numpy()), abs=1e-4)
    wide = soft_rank(VALUES, 1e6)
    assert wide.mean() == pytest.approx(3.5)
    assert pearsonr(wide.numpy(), VALUES.numpy()).statistic == pytest.approx(1, abs=1e-6)
    # Sums are kept and the order is never turned, at any strength.
    for strength in (0.01, 0.3, 1.0, 5.0):
        ranks = soft_rank(VALUES, strength)
        assert ranks.sum() == pytest.approx(21)
        assert (np.diff(ranks.numpy()[np.argsort(VALUES.numpy())]) >= -1e-9).all()


def test_soft_spearman_has_spearman_and_pearson_as_limits() -> None:
    ranks = torch.from_numpy(rankdata(GRADES.numpy()))
    assert 1 - soft_spearman(VALUES, ranks, 1e-6) == pytest.approx(spearmanr(VALUES, GRADES).statistic, abs=1e-4)
    assert 1 - soft_spearman(VALUES, GRADES, 1e6) == pytest.approx(pearsonr(VALUES, GRADES).statistic, abs=1e-6)


@pytest.mark.parametrize("strength", [0.3, 1.0, 3.0])
def test_gradients_of_soft_ranks_are_right(strength: float) -> None:
    free = VALUES.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: soft_rank(v, strength), (free,), eps=1e-6, atol=1e-5)


def _lambdas(scores: np.ndarray, grades: np.ndarray) -> np.ndarray:
    """The gradient item by item, from Burges 2010."""
    rank = np.empty(len(scores))
    rank[np.argsort(-scores)] = np.arange(len(scores))
    discount, gain = 1 / np.log2(rank + 2), 2 ** (grades / 10) - 1
    ideal = (np.sort(gain)[::-1] / np.log2(np.arange(len(gain)) + 2)).sum()
    found = np.zeros(len(scores))
    for i in range(len(scores)):
        for j in range(len(scores)):
            if grades[i] > grades[j]:
                change = abs((gain[i] - gain[j]) * (discount[i] - discount[j])) / ideal
                push = change / (1 + np.exp(scores[i] - scores[j]))
                found[i] -= push
                found[j] += push
    return found


def test_lambda_rank_gradient_is_the_lambda() -> None:
    free = VALUES.clone().requires_grad_()
    lambda_rank(free, GRADES).backward()
    assert free.grad is not None
    assert free.grad.numpy() == pytest.approx(_lambdas(VALUES.numpy(), GRADES.numpy()), abs=1e-9)
    assert free.grad.abs().max() > 1e-3


def test_descending_along_lambda_rank_sorts() -> None:
    free = VALUES.clone().requires_grad_()
    optimiser = torch.optim.Adam([free], 0.1)
    for _ in range(300):
        optimiser.zero_grad()
        lambda_rank(free, GRADES).backward()
        optimiser.step()
    assert free.detach().argsort(descending=True)[:4].tolist() == GRADES.argsort(descending=True)[:4].tolist()


@pytest.mark.parametrize("rank", [RankLoss.SPEARMAN, RankLoss.LAMBDA, RankLoss.HYBRID])
def test_the_ranking_gradient_arrives_in_the_weights(rank: RankLoss, table: TrialTable) -> None:
    """Through the very step that trains: with the MSE silenced, only the ranking loss can move the encoder, and the
    step moves it exactly along that loss's gradient."""
    torch.manual_seed(0)
    network = Network(shape_of(table.subject, 8)).train()
    frame, index = frame_of(table.subject), index_of(table.subject, table.picks[:24])
    grades = torch.linspace(0, 50, 24)
    silent, _ = network.predict(frame.rows, index, frame.wires)
    hops = table.subject.graph.ranked_hops
    _, norms = network.predict(frame.rows, index, frame.wires)
    loss = total_loss(silent.detach(), silent.detach(), [norms[h] for h in hops], grades, rank)
    weights = [p for n, p in network.named_parameters() if "encoder" in n or "convs" in n]
    expected = torch.autograd.grad(loss, weights, allow_unused=True)
    total = torch.cat([g.flatten() for g in expected if g is not None]).norm()
    assert total > 1e-3
    before = [p.detach().clone() for p in weights]
    train_step(network, frame, index, silent.detach(), grades, torch.optim.SGD(network.parameters(), 1.0), hops, rank)
    moved = torch.cat([(b - p.detach()).flatten() for b, p in zip(before, weights, strict=True)])
    wanted = torch.cat([(torch.zeros_like(p) if g is None else g).flatten()
                        for g, p in zip(expected, weights, strict=True)])
    torch.testing.assert_close(moved / moved.norm(), wanted / wanted.norm(), atol=1e-5, rtol=1e-3)
    assert moved.norm() == pytest.approx(min(total, 5.0), rel=0.02)  # clipped once, at 5, over all weights


def test_every_ranked_hop_is_pulled(table: TrialTable) -> None:
    network = Network(shape_of(table.subject, 8)).train()
    frame, index = frame_of(table.subject), index_of(table.subject, table.picks[:24])
    _, norms = network.predict(frame.rows, index, frame.wires)
    for hop in table.subject.graph.ranked_hops:
        gradient = torch.autograd.grad(lambda_rank(norms[hop], torch.linspace(0, 50, 24)),
                                       network.encoder.lines[0].weight, retain_graph=True)[0]
        assert gradient.abs().sum() > 0
