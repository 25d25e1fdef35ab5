"""The block forest: module paths grouped into stages, blocks and units, with labels, kinds and a place in the U.

A `ModuleList` is structural if every element has child modules (`down_blocks`, `resnets`, `transformer_blocks`
are; `to_out` and `ff.net` are not). Stage = top-level structural element, or top-level module. Block = next
structural element inside it, else its direct child, else the stage itself. Unit = structural elements inside a
block, and their direct children that hold layers. A stage that is one block (`conv_in`) has the id `conv_in/`,
so that the block keeps the module path.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from engine.core.graph import Block
from engine.core.layer import Layer, Role

# Attribute name -> what the card says; other names are shown with spaces for underscores.
WORDS: dict[str, str] = {
    "down_blocks": "Down", "up_blocks": "Up", "mid_block": "Mid", "transformer_blocks": "Block", "blocks": "Block",
    "single_transformer_blocks": "Single block", "resnets": "ResNet", "attentions": "Attention",
    "downsamplers": "Downsample", "upsamplers": "Upsample", "attn": "Attention", "attn1": "Self-attention",
    "attn2": "Cross-attention", "ff": "Feed-forward", "ff_context": "Text feed-forward", "norm1": "Modulation",
    "norm1_context": "Text modulation", "norm": "Modulation", "norm_out": "Out modulation", "proj_mlp": "MLP in",
    "pos_embed": "Patch embedding", "patch_embed": "Patch embedding", "x_embedder": "Patch embedding",
    "adaln_single": "Time embedding", "time_embed": "Time embedding", "time_text_embed": "Time and text embedding",
    "time_extra_emb": "Time and size embedding", "add_embedding": "Size and text embedding",
    "caption_projection": "Caption projection", "context_embedder": "Text projection",
    "skip_linear": "Long skip", "text_embedder": "Text projection", "proj_out": "Out projection",
    "img_in": "Patch embedding", "txt_in": "Text projection", "time_in": "Time embedding", "img_mod": "Modulation",
    "txt_mod": "Text modulation", "img_mlp": "Feed-forward", "txt_mlp": "Text feed-forward",
}
SEPARATOR = " · "
EMBEDDING_ROLES = {Role.TIME, Role.CONDITION, Role.MODULATION}
ATTENTION_ROLES = {Role.QUERY, Role.KEY, Role.VALUE, Role.ATTENTION_OUT}
END_ROLES = {Role.INPUT, Role.OUTPUT}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a layer lives: ids of its stage, block and units (outermost first)."""

    stage: str
    block: str
    units: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Position of a block in the drawing: see `engine.core.graph.Block`."""

    depth: int = 0
    side: str = "line"


class Folder:
    """Folds module paths to stages, blocks and units, from the module tree alone."""

    def __init__(self, model: nn.Module, layer_paths: Iterable[str]) -> None:
        self._elements: set[str] = set()
        self._single_lists: set[str] = set()
        for path, module in model.named_modules():
            if isinstance(module, nn.ModuleList) and len(module) and all(_has_children(m) for m in module):
                self._elements.update(f"{path}.{i}" for i in range(len(module)))
                if len(module) == 1:
                    self._single_lists.add(path)
        addresses = {path: self._address(path) for path in layer_paths}
        self._blocks = {address.block for address in addresses.values()}
        self._addresses = addresses

    def address(self, path: str) -> Address:
        """Address of a layer's module path."""
        return self._addresses[path]

    def block_of(self, path: str) -> str:
        """Id of the block that encloses a module path, "" if it lies above all blocks."""
        while path and path not in self._blocks:
            path = path.rpartition(".")[0]
        return path

    def label(self, path: str) -> str:
        """Short text for a stage, block or unit."""
        words, names = [], path.rstrip("/").split(".")
        for i, name in enumerate(names):
            if name.isdigit():
                if ".".join(names[:i]) not in self._single_lists:
                    words[-1] += f" {name}"
            else:
                words.append(WORDS.get(name) or name.replace("_", " ").capitalize())
        return SEPARATOR.join(words)

    def _address(self, path: str) -> Address:
        prefixes = _prefixes(path)
        elements = [p for p in prefixes if p in self._elements]
        stage = elements[0] if elements and elements[0].count(".") == 1 else prefixes[0]
        inner = [p for p in elements if p.startswith(f"{stage}.")]
        children = [p for p in prefixes if p.startswith(f"{stage}.")]
        whole = not inner and stage not in self._elements
        block = stage if whole or not children else (inner or children)[0]
        below = [p for p in inner if p != block]
        units: list[str] = []
        for element in below:
            units.append(element)
            child = next((p for p in prefixes if p.startswith(f"{element}.")), "")
            if child and child not in below and not any(p.startswith(f"{child}.") for p in below):
                units.append(child)
        return Address(stage if block != stage else f"{stage}/", block, tuple(units))


def _has_children(module: nn.Module) -> bool:
    return next(module.children(), None) is not None


def _prefixes(path: str) -> list[str]:
    names = path.split(".")
    return [".".join(names[: i + 1]) for i in range(len(names))]


def block_forest(folder: Folder, layers: Iterable[Layer], places: Mapping[str, Place]) -> tuple[Block, ...]:
    """Stages, blocks and units that hold layers, each level in execution order.

    Args:
        places: block id -> where it is drawn.
    """
    held: dict[str, list[Layer]] = {}
    level: dict[str, str] = {}
    parent: dict[str, str] = {}
    for layer in layers:
        address = folder.address(layer.module)
        chain = (address.stage, address.block, *address.units)
        for i, name in enumerate(chain):
            held.setdefault(name, []).append(layer)
            level.setdefault(name, ("stage", "block", "unit")[min(i, 2)])
            parent.setdefault(name, chain[i - 1] if i else "")
    order = {"stage": 0, "block": 0, "unit": 0}
    blocks = []
    for name, inside in held.items():
        rank = order[level[name]]
        order[level[name]] += 1
        place = _place(name, level, parent, places)
        kind = "stage" if level[name] == "stage" else _kind(inside)
        blocks.append(Block(name, parent[name], level[name], folder.label(name), kind,
                            tuple(layer.name for layer in inside), rank, place.depth, place.side))
    return tuple(blocks)


def _place(name: str, level: Mapping[str, str], parent: Mapping[str, str], places: Mapping[str, Place]) -> Place:
    """Of a block: its own. Of a unit: its block's. Of a stage: that of its first block."""
    while level[name] == "unit":
        name = parent[name]
    if level[name] == "stage":
        name = next(child for child, above in parent.items() if above == name)
    return places.get(name, Place())


def _kind(layers: list[Layer]) -> str:
    """What a block is, from the roles of its layers."""
    roles = {layer.role for layer in layers}
    attention, feed_forward = bool(roles & ATTENTION_ROLES), Role.FEED_FORWARD in roles
    if attention and feed_forward:
        return "transformer"
    table = (
        (attention, "attention"), (feed_forward, "feed-forward"), (Role.RESNET in roles, "resnet"),
        (Role.SAMPLER in roles, "sampler"), (roles <= EMBEDDING_ROLES, "embedding"),
    )
    return next((kind for holds, kind in table if holds), "conv")

