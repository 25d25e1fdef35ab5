"""The predictor's network (Qua2SeDiMo section 3.1): feature encoder, four GATv2 layers, hop pooling, regressor.

Nodes of one option and place have the same features in every recipe, so the encoder runs once per distinct row and
is looked up; its batch norms weigh rows by how often they occur, which equals running it on every recipe.

Where the features hold fitted damages, the network begins as the additive model they come from, and learns from the
graph only what is not additive.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.nn import GATv2Conv

from engine.analysis.attention import Wiring, attend
from engine.analysis.damage import NEAR_ZERO, STEEPEST
from engine.analysis.features import DAMAGE, ERROR_FLOOR
from engine.analysis.topology import POSITIONS

NUMERIC = ("reduction", "error", DAMAGE)
CODE_WIDTH = 5
POSITION_WIDTH = 10
ENCODER_WIDTH = 64


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the network.

    Attributes:
        groups: name -> columns of the features, in order.
        roots: per hop the nodes pooled there; empty = all nodes.
        parts: (root, hop) of every part of the model.
        first: width of the hop-0 embedding.
        hidden: width of the others.
    """

    groups: dict[str, tuple[int, int]]
    roots: tuple[tuple[int, ...], ...]
    parts: tuple[tuple[int, int], ...]
    first: int = 16
    hidden: int = 32


def boxcox(log: Tensor, exponent: float) -> Tensor:
    """(x^e - 1) / e of x = exp(log), the logarithm at e = 0."""
    if abs(exponent) < NEAR_ZERO:
        return log
    return torch.expm1((exponent * log).clamp(-STEEPEST, STEEPEST)) / exponent


class CountedNorm(nn.BatchNorm1d):
    """Batch norm over distinct rows [R, C], each counted as often as it occurs in the batch."""

    def forward(self, x: Tensor, count: Tensor | None = None) -> Tensor:
        """count: [R] occurrences; None = each once."""
        if not self.training or count is None:
            return super().forward(x)
        total = count.sum()
        share = (count / total).unsqueeze(1)
        mean = (share * x).sum(0)
        variance = (share * (x - mean) ** 2).sum(0)
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * total / (total - 1), self.momentum)
        return (x - mean) / torch.sqrt(variance + self.eps) * self.weight + self.bias


class Encoder(nn.Module):
    """Every feature embedded by itself, concatenated, then BN-ReLU-Linear-BN-ReLU-Linear-BN-ReLU."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.spans = list(shape.groups.values())
        widths = [POSITION_WIDTH if name in POSITIONS else CODE_WIDTH for name in shape.groups]
        numeric = [name in NUMERIC for name in shape.groups]
        layers = [nn.Linear(stop - start, width, bias=number)
                  for (start, stop), width, number in zip(self.spans, widths, numeric, strict=True)]
        for layer, number in zip(layers, numeric, strict=True):
            if not number:
                nn.init.normal_(layer.weight)
        self.embed = nn.ModuleList(layers)
        sizes = (sum(widths), ENCODER_WIDTH, ENCODER_WIDTH, shape.first)
        self.norms = nn.ModuleList(CountedNorm(size) for size in (sizes[0], sizes[1], sizes[3]))
        self.lines = nn.ModuleList([nn.Linear(sizes[0], sizes[1]), nn.Linear(sizes[1], sizes[3])])

    def forward(self, x: Tensor, count: Tensor | None = None) -> Tensor:
        """x: [R, F] -> [R, first]."""
        h = torch.cat([layer(x[:, a:b]) for layer, (a, b) in zip(self.embed, self.spans, strict=True)], 1)
        h = functional.relu(self.norms[0](h, count))
        for line, norm in zip(self.lines, self.norms[1:], strict=True):
            h = functional.relu(norm(line(h), count))
        return h


class Network(nn.Module):
    """Recipes of one model -> one number each, and a pooled embedding per hop.

    `forward` takes node features of one recipe [N, F] and an edge index, as PyG's Explainer calls it; training and
    scoring use `hops` on many recipes.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.roots = [list(nodes) for nodes in shape.roots]
        self.parts = [[root for root, hop in shape.parts if hop == h] for h in range(len(shape.roots))]
        self.encoder = Encoder(shape)
        widths = [shape.first] + [shape.hidden] * (len(shape.roots) - 1)
        self.convs = nn.ModuleList(GATv2Conv(a, b) for a, b in itertools.pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm1d(b) for b in widths[1:])
        w = shape.hidden
        self.regressor = nn.Sequential(
            nn.Linear(w, w), nn.Linear(w, w), nn.ReLU(), nn.Linear(w, w), nn.Linear(w, w), nn.ReLU(), nn.Linear(w, 1)
        )
        self.told = shape.groups[DAMAGE][0] if DAMAGE in shape.groups else None
        self.curve: Tensor | None
        self.register_buffer("curve", None if self.told is None else torch.zeros(4))
        if self.told is not None:
            for value in self.regressor[-1].parameters():
                nn.init.zeros_(value)

    def follow(self, curve: Sequence[float], layers: int) -> None:
        """Begin as an additive model.

        Args:
            curve: its offset, slope and exponent, of the standardised target.
            layers: how many of them share the damage, whose feature is 1 at an average share.
        """
        assert self.curve is not None
        self.curve.copy_(torch.tensor([*curve, float(layers)]))

    def _additive(self, rows: Tensor, index: Tensor) -> Tensor | float:
        """What the additive model says of recipes [N, B]: [B], or 0 where there is none."""
        if self.told is None or self.curve is None:
            return 0.0
        offset, slope, exponent, layers = self.curve
        total = rows[:, self.told][index].sum(0) / layers
        found: Tensor = offset - slope * boxcox(torch.log(total + ERROR_FLOOR), float(exponent))
        return found

    def hops(self, rows: Tensor, index: Tensor, wires: Wiring, depth: int | None = None) -> list[Tensor]:
        """Node embeddings after every hop, [N, B, width] each.

        Args:
            rows: [R, F] distinct features.
            index: [N, B] row of every node in every recipe.
            wires: edges among the N nodes.
            depth: how many hops to go; None = all.
        """
        count = torch.bincount(index.reshape(-1), minlength=len(rows)).to(rows.dtype) if self.training else None
        table = self.encoder(rows, count)
        found = [table[index]]
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            if number == depth:
                break
            assert isinstance(conv, GATv2Conv)
            if number:
                left, right = conv.lin_l(found[-1]), conv.lin_r(found[-1])
            else:
                left, right = conv.lin_l(table)[index], conv.lin_r(table)[index]
            mixed = attend(conv, left, right, wires)
            h = functional.relu(norm(mixed.flatten(0, 1)).view_as(mixed))
            found.append(h + found[-1] if number else h)
        return found

    def pooled(self, found: Sequence[Tensor]) -> list[Tensor]:
        """Mean embedding over each hop's roots, [B, width] each."""
        return [(h[roots] if roots else h).mean(0) for h, roots in zip(found, self.roots, strict=True)]

    def predict(self, rows: Tensor, index: Tensor, wires: Wiring) -> tuple[Tensor, list[Tensor]]:
        """Predicted target [B] in training units, and the norms that rank: per hop the L1 norm of the pooled
        embedding [B], then the mean norm of all parts, each at the root and hop it is scored at [B]."""
        found = self.hops(rows, index, wires)
        pooled = self.pooled(found)
        parts = torch.cat([h[roots].abs().sum(-1) for h, roots in zip(found, self.parts, strict=True)]).mean(0)
        predicted = self._additive(rows, index) + self.regressor(pooled[-1]).squeeze(-1)
        return predicted, [*(g.abs().sum(-1) for g in pooled), parts]

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """One recipe's node features [N, F] -> its predicted target [1]."""
        from engine.analysis.attention import wiring

        index = torch.arange(len(x), device=x.device)[:, None]
        return self.predict(x, index, wiring(edge_index, len(x)))[0]
