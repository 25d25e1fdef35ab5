"""The batched GATv2 against PyG's GATv2Conv, and the counted batch norm against an expanded one."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch_geometric.nn import GATv2Conv

from engine.analysis.attention import gatv2, wiring
from engine.analysis.network import CountedNorm, Network
from engine.analysis.planted import Truth
from engine.analysis.training import frame_of, index_of, shape_of
from engine.analysis.trials import TrialTable


def close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float) -> None:
    torch.testing.assert_close(ours.detach(), theirs.detach(), atol=tolerance, rtol=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_equal_to_pyg_recipe_by_recipe(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    edges = torch.randint(0, 20, (2, 50), generator=rng)  # some self-loops, repeated edges and bare nodes
    x = torch.randn(20, 7, 6, generator=rng)
    torch.manual_seed(seed)
    conv = GATv2Conv(6, 9)
    nn.init.normal_(conv.bias)
    fast = gatv2(conv, x, wiring(edges, 20))
    slow = torch.stack([conv(x[:, b], edges) for b in range(7)], 1)
    close(fast, slow, 1e-5)
    pull = torch.randn(fast.shape, generator=rng)
    gradients = torch.autograd.grad((fast * pull).sum(), list(conv.parameters()))
    expected = torch.autograd.grad((slow * pull).sum(), list(conv.parameters()))
    for ours, theirs in zip(gradients, expected, strict=True):
        close(ours, theirs, 1e-4)


def test_large_scores_do_not_overflow() -> None:
    conv = GATv2Conv(3, 3)
    x = 1e4 * torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(gatv2(conv, x, wiring(torch.tensor([[0, 1, 2], [1, 2, 3]]), 5))).all()


def test_counted_norm_equals_the_norm_of_repeated_rows() -> None:
    rng = torch.Generator().manual_seed(0)
    x, index = torch.randn(6, 4, generator=rng), torch.randint(0, 6, (40,), generator=rng)
    plain, counted = nn.BatchNorm1d(4), CountedNorm(4)
    count = torch.bincount(index, minlength=6).float()
    close(counted(x, count)[index], plain(x[index]), 1e-5)
    close(counted.running_mean, plain.running_mean, 1e-6)
    close(counted.running_var, plain.running_var, 1e-6)


def test_the_fast_network_equals_the_network_on_single_recipes(table: TrialTable, truth: Truth) -> None:
    """Encoder look-up and batching change nothing: PyG's layers on the node features of one recipe agree."""
    torch.manual_seed(0)
    network = Network(shape_of(table.subject, 8)).eval()
    frame, index = frame_of(table.subject), index_of(table.subject, table.picks[:3])
    batched = network.predict(frame.rows, index, frame.wires)[0]
    edges = torch.from_numpy(table.subject.graph.edges)
    for t in range(3):
        h = network.encoder(frame.rows[index[:, t]])
        for number, (conv, norm) in enumerate(zip(network.convs, network.norms, strict=True)):
            out = torch.relu(norm(conv(h, edges)))
            h = out + h if number else out
        pooled = h[network.roots[-1]].mean(0) if network.roots[-1] else h.mean(0)
        close(network.regressor(pooled), batched[t:t + 1], 1e-5)
        close(network(frame.rows[index[:, t]], edges), batched[t:t + 1], 1e-5)
