"""A small Structure made by hand, for tests that need no model."""

from __future__ import annotations

from engine.core.graph import Block, BlockEdge, Component, Node, NodeKind, Structure
from engine.core.layer import Layer, Role


def structure(layers: int = 4, precision_bits: int = 16) -> Structure:
    """A line of `layers` linear layers [64, 64], one block each."""
    names = [f"blocks.{i}.linear" for i in range(layers)]
    return Structure(
        model="hand-made", denoiser_class="Nothing", identity="0" * 64, precision_bits=precision_bits,
        layers=tuple(Layer(n, n, "linear", (64, 64), 0, 64, Role.OTHER, f"blocks.{i}", (n,))
                     for i, n in enumerate(names)),
        nodes=tuple(Node(n, NodeKind.WEIGHT, n, f"blocks.{i}") for i, n in enumerate(names)),
        edges=tuple((i, i + 1) for i in range(layers - 1)),
        blocks=tuple(Block(f"blocks.{i}", "", "block", f"Block {i}", "conv", (n,), i, 0, "line")
                     for i, n in enumerate(names)),
        block_edges=tuple(BlockEdge(f"blocks.{i}", f"blocks.{i + 1}", False, False) for i in range(layers - 1)),
        other_weights=64 * layers, components=(Component("vae", "Autoencoder", 10, 20),), layout="line",
    )
