"""The denoiser as data: operation graph, block forest and block graph; JSON in and out, no torch.

Node ids are module paths (weights) or module path + `/` + operation + number (junctions), so that any node
folds to any block by its path, and overlays join by id.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from engine.core.layer import Layer


class NodeKind(StrEnum):
    """What an operation node is."""

    WEIGHT = "weight"
    ADD = "add"
    CONCAT = "concat"
    MODULATE = "modulate"
    ATTENTION = "attention"


@dataclass(frozen=True, slots=True)
class Node:
    """One node of the operation graph; `layer` is set on weight nodes only."""

    id: str
    kind: NodeKind
    layer: str
    block: str


@dataclass(frozen=True, slots=True)
class Block:
    """A group of layers: a card of the block graph, or a part of one.

    Attributes:
        id: module path, unique among blocks; a stage that is one single block (conv_in) ends in `/`.
        parent: id of the enclosing block, "" for a stage.
        level: "stage", "block" or "unit" (a part of a block, such as attn1 or one of several transformer blocks).
        label: short text for the card ("Down 0 · ResNet 1").
        kind: "resnet", "attention", "transformer", "feed-forward", "sampler", "conv", "embedding", "stage".
        layers: names of all layers inside, in execution order.
        order: rank of first execution among its level.
        depth: resolution level, 0 = full latent resolution (U layout: how far down); 0 for plain transformers.
        side: "down", "mid", "up" (U layout: left, bottom, right) or "line".
    """

    id: str
    parent: str
    level: str
    label: str
    kind: str
    layers: tuple[str, ...]
    order: int
    depth: int
    side: str


@dataclass(frozen=True, slots=True)
class BlockEdge:
    """Data flow between two blocks of level "block"; `skip` marks long skips, drawn as arcs; `condition` marks
    flow out of time and text embeddings (drawn faintly or not at all)."""

    source: str
    target: str
    skip: bool
    condition: bool


@dataclass(frozen=True, slots=True)
class Component:
    """Another part of the pipeline (text encoder, VAE): what "fits N GB" has to count."""

    name: str
    type: str
    weights: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Structure:
    """Everything about a model that needs no weights; cached, so that the graph is drawn before torch loads.

    Attributes:
        model: the name it was opened under (catalogue name, path or hub id).
        denoiser_class: diffusers class name.
        identity: hash over tensor names, shapes, dtypes and strided samples; "" without weights.
        precision_bits: P, bits per weight of the full-precision checkpoint (16 or 32).
        layers: in execution order; halves and tied copies included.
        nodes, edges: operation graph; edges are index pairs into `nodes`, from source to target.
        blocks: stages, blocks and units.
        block_edges: the block graph.
        other_weights: weights of the denoiser that are never quantized (biases, norms, tables).
        components: the rest of the pipeline.
        layout: "u" or "line".
    """

    model: str
    denoiser_class: str
    identity: str
    precision_bits: int
    layers: tuple[Layer, ...]
    nodes: tuple[Node, ...]
    edges: tuple[tuple[int, int], ...]
    blocks: tuple[Block, ...]
    block_edges: tuple[BlockEdge, ...]
    other_weights: int
    components: tuple[Component, ...]
    layout: str

    def layer(self, name: str) -> Layer:
        """The layer of that name; KeyError if there is none."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(name)

    @property
    def choices(self) -> tuple[Layer, ...]:
        """Layers that have an option of their own (no tied copies), in execution order."""
        return tuple(layer for layer in self.layers if not layer.tie)

    @property
    def unexecuted(self) -> frozenset[str]:
        """Choices that no call of the denoiser executes in any of their copies; none where there is no graph."""
        seen = {node.layer for node in self.nodes if node.kind is NodeKind.WEIGHT}
        alive = {layer.choice for layer in self.layers if layer.name in seen}
        return frozenset(x.name for x in self.choices if x.name not in alive) if seen else frozenset()

    def level(self, level: str) -> tuple[Block, ...]:
        """All blocks of one level, in execution order."""
        return tuple(sorted((b for b in self.blocks if b.level == level), key=lambda b: b.order))
