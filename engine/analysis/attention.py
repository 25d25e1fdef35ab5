"""GATv2 for many recipes of one topology at once: [N, B, C] over one edge index, the parameters of PyG's GATv2Conv.

Node-major order makes gathers and scatters along edges copies of whole [B, C] slabs; on a CPU that is several times
faster than a block-diagonal batch of B graphs. A test holds it equal to `GATv2Conv`, recipe by recipe.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torch_geometric.nn import GATv2Conv


@dataclass(frozen=True, slots=True)
class Wiring:
    """Edges with self-loops, ordered by target.

    Attributes:
        source, target: [E'], E' = edges without self-loops + N.
        nodes: N.
    """

    source: Tensor
    target: Tensor
    nodes: int

    def to(self, device: torch.device | str) -> Wiring:
        """The same on another device."""
        return Wiring(self.source.to(device), self.target.to(device), self.nodes)


def wiring(edges: Tensor, nodes: int) -> Wiring:
    """Edges [2, E] as the layer needs them; self-loops are replaced by one per node, as GATv2Conv does."""
    kept = edges[:, edges[0] != edges[1]]
    loop = torch.arange(nodes, device=edges.device)
    source, target = torch.cat([kept[0], loop]), torch.cat([kept[1], loop])
    order = torch.argsort(target, stable=True)
    return Wiring(source[order], target[order], nodes)


def attend(conv: GATv2Conv, left: Tensor, right: Tensor, wires: Wiring) -> Tensor:
    """Attention over in-edges (GATv2: Brody, Alon, Yahav 2022, eq. 7), one head.

    Args:
        conv: supplies the attention vector, slope and bias; one head, self-loops, no edge features.
        left, right: [N, B, C], `conv.lin_l` and `conv.lin_r` of the node embeddings.
        wires: the topology.

    Returns:
        [N, B, C].
    """
    sent = left.index_select(0, wires.source)
    mixed = functional.leaky_relu(sent + right.index_select(0, wires.target), conv.negative_slope)
    score = mixed @ conv.att.reshape(-1)
    shape = (wires.nodes, score.shape[1])
    index = wires.target[:, None].expand_as(score)
    # Subtracting any constant per target leaves the softmax as it is, so no gradient needs to pass here.
    top = torch.full(shape, -torch.inf, dtype=score.dtype, device=score.device)
    top.scatter_reduce_(0, index, score.detach(), "amax")
    weight = (score - top.index_select(0, wires.target)).exp()
    total = torch.zeros(shape, dtype=score.dtype, device=score.device).index_add(0, wires.target, weight)
    share = weight / total.index_select(0, wires.target)
    out = torch.zeros_like(left).index_add(0, wires.target, share.unsqueeze(-1) * sent)
    return out if conv.bias is None else out + conv.bias


def gatv2(conv: GATv2Conv, x: Tensor, wires: Wiring) -> Tensor:
    """`conv` applied to every recipe of x [N, B, C_in] -> [N, B, C]."""
    return attend(conv, conv.lin_l(x), conv.lin_r(x), wires)
