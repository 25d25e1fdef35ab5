"""Structures made in code, shaped like the models people open: a small U-Net, transformers, an SDXL-sized U-Net."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from engine.core.graph import Block, BlockEdge, Component, Structure
from engine.core.layer import Layer, Role

ATTENTION = [("to_q", Role.QUERY), ("to_k", Role.KEY), ("to_v", Role.VALUE), ("to_out.0", Role.ATTENTION_OUT)]


@dataclass
class Maker:
    """Collects stages, blocks, units, layers and edges in order of execution."""

    layers: list[Layer] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    edges: list[BlockEdge] = field(default_factory=list)
    last: str = ""
    _inside: dict[str, list[str]] = field(default_factory=dict)
    _about: dict[str, tuple[str, str, str, str, int, str]] = field(default_factory=dict)

    def group(self, level: str, id: str, parent: str, label: str, kind: str, depth: int = 0, side: str = "line") -> str:
        self._about[id] = (level, parent, label, kind, depth, side)
        self._inside.setdefault(id, [])
        return id

    def layer(self, owner: str, name: str, shape: tuple[int, ...], role: Role, tie: str = "", half: int = 0) -> None:
        block = owner
        while self._about[block][0] == "unit":
            block = self._about[block][1]
        kind = "linear" if len(shape) == 2 else "conv2d"
        module = name.split(":")[0]
        self.layers.append(Layer(name, module, kind, shape, half, half + shape[1], role, block, (module,), tie))
        at = owner
        while at:
            self._inside.setdefault(at, []).append(name)
            at = self._about[at][1] if at in self._about else ""

    def flow(self, id: str) -> str:
        if self.last:
            self.edges.append(BlockEdge(self.last, id, False, False))
        self.last = id
        return id

    def build(self, model: str, layout: str, precision_bits: int = 16) -> Structure:
        counts: dict[str, int] = {}
        for id, (level, parent, label, kind, depth, side) in self._about.items():
            order = counts[level] = counts.get(level, -1) + 1
            self.blocks.append(Block(id, parent, level, label, kind, tuple(self._inside[id]), order, depth, side))
        parts = (Component("vae", "Autoencoder", 9, 18),)
        return Structure(model, "Synthetic", f"identity-of-{model}", precision_bits, tuple(self.layers), (), (),
                         tuple(self.blocks), tuple(self.edges), 31_337, parts, layout)


def _resnet(m: Maker, id: str, width: int, inside: int, split: bool) -> None:
    if split:
        m.layer(id, f"{id}.conv1:0", (width, inside // 2, 3, 3), Role.RESNET)
        m.layer(id, f"{id}.conv1:1", (width, inside - inside // 2, 3, 3), Role.RESNET, half=inside // 2)
    else:
        m.layer(id, f"{id}.conv1", (width, inside, 3, 3), Role.RESNET)
    m.layer(id, f"{id}.time_emb_proj", (width, 384), Role.MODULATION)
    m.layer(id, f"{id}.conv2", (width, width, 3, 3), Role.RESNET)
    if inside != width:
        m.layer(id, f"{id}.conv_shortcut", (width, inside, 1, 1), Role.SKIP)


def _transformer(m: Maker, id: str, width: int, depth: int, text: int) -> None:
    m.layer(id, f"{id}.proj_in", (width, width), Role.PROJECTION)
    for i in range(depth):
        unit = m.group("unit", f"{id}.transformer_blocks.{i}", id, f"Transformer {i}", "transformer")
        for attn, cross in (("attn1", width), ("attn2", text)):
            for name, role in ATTENTION:
                inside = cross if name in ("to_k", "to_v") else width
                m.layer(unit, f"{unit}.{attn}.{name}", (width, inside), role)
        m.layer(unit, f"{unit}.ff.net.0.proj", (8 * width, width), Role.FEED_FORWARD)
        m.layer(unit, f"{unit}.ff.net.2", (width, 4 * width), Role.FEED_FORWARD)
    m.layer(id, f"{id}.proj_out", (width, width), Role.PROJECTION)


def _unet(model: str, widths: list[int], depths: list[int], per_level: int, text: int, mid_depth: int) -> Structure:
    """A denoising U-Net: `depths[d]` transformer layers per attention of level d (0: no attention)."""
    m = Maker()
    stem = m.group("stage", "stem", "", "Input", "stage", 0, "down")
    time = m.group("block", "time_embedding", stem, "Time embedding", "embedding", 0, "down")
    m.layer(time, "time_embedding.linear_1", (384, widths[0]), Role.TIME)
    m.layer(time, "time_embedding.linear_2", (384, 384), Role.TIME)
    conv = m.group("block", "conv_in", stem, "Conv in", "conv", 0, "down")
    m.layer(conv, "conv_in", (widths[0], 4, 3, 3), Role.INPUT)
    skips = [m.flow(conv)]
    width = widths[0]
    for d, wide in enumerate(widths):
        stage = m.group("stage", f"down_blocks.{d}", "", f"Down {d}", "stage", d, "down")
        for i in range(per_level):
            block = m.group("block", f"{stage}.resnets.{i}", stage, f"Down {d} · ResNet {i + 1}", "resnet", d, "down")
            _resnet(m, block, wide, width, split=False)
            last, width = m.flow(block), wide
            if depths[d]:
                label = f"Down {d} · Attention {i + 1}"
                block = m.group("block", f"{stage}.attentions.{i}", stage, label, "attention", d, "down")
                _transformer(m, block, wide, depths[d], text)
                last = m.flow(block)
            skips.append(last)
        if d + 1 < len(widths):
            block = m.group("block", f"{stage}.downsamplers.0", stage, f"Down {d} · Downsample", "sampler", d, "down")
            m.layer(block, f"{block}.conv", (wide, wide, 3, 3), Role.SAMPLER)
            skips.append(m.flow(block))
    mid, deep = m.group("stage", "mid_block", "", "Middle", "stage", len(widths) - 1, "mid"), len(widths) - 1
    for name, label in (("resnets.0", "ResNet 1"), ("attentions.0", "Attention"), ("resnets.1", "ResNet 2")):
        kind = "attention" if "att" in name else "resnet"
        block = m.group("block", f"mid_block.{name}", mid, f"Middle · {label}", kind, deep, "mid")
        if kind == "resnet":
            _resnet(m, block, width, width, split=False)
        else:
            _transformer(m, block, width, mid_depth, text)
        m.flow(block)
    for d in reversed(range(len(widths))):
        stage, wide = m.group("stage", f"up_blocks.{len(widths) - 1 - d}", "", f"Up {d}", "stage", d, "up"), widths[d]
        for i in range(per_level + 1):
            block = m.group("block", f"{stage}.resnets.{i}", stage, f"Up {d} · ResNet {i + 1}", "resnet", d, "up")
            _resnet(m, block, wide, width + wide, split=True)
            m.edges.append(BlockEdge(skips.pop(), m.flow(block), True, False))
            width = wide
            if depths[d]:
                label = f"Up {d} · Attention {i + 1}"
                block = m.group("block", f"{stage}.attentions.{i}", stage, label, "attention", d, "up")
                _transformer(m, block, wide, depths[d], text)
                m.flow(block)
        if d:
            block = m.group("block", f"{stage}.upsamplers.0", stage, f"Up {d} · Upsample", "sampler", d, "up")
            m.layer(block, f"{block}.conv", (wide, wide, 3, 3), Role.SAMPLER)
            m.flow(block)
    tail = m.group("stage", "tail", "", "Output", "stage", 0, "up")
    block = m.group("block", "conv_out", tail, "Conv out", "conv", 0, "up")
    m.layer(block, "conv_out", (4, widths[0], 3, 3), Role.OUTPUT)
    m.flow(block)
    for group, about in m._about.items():
        if about[0] == "block" and about[3] == "resnet":
            m.edges.append(BlockEdge("time_embedding", group, False, True))
    return m.build(model, "u")


def small_unet() -> Structure:
    """About 24 cards, 7M weights: the size of a demo model."""
    return _unet("small-unet", [96, 160], [1, 1], 1, 128, 1)


def sd_like() -> Structure:
    """Four levels, about 47 cards."""
    return _unet("sd-like", [320, 640, 1280, 1280], [1, 1, 1, 0], 2, 768, 1)


def sdxl_like() -> Structure:
    """About 800 layers in 36 cards: up to ten transformer layers per card."""
    return _unet("sdxl-like", [320, 640, 1280], [0, 2, 10], 2, 2048, 10)


def transformer(count: int = 10, width: int = 192, name: str = "dit", skips: bool = False) -> Structure:
    """A line of transformer blocks, as DiT, PixArt or (with skips) HunyuanDiT."""
    m = Maker()
    stage = m.group("stage", "input", "", "Input", "stage")
    block = m.flow(m.group("block", "pos_embed", stage, "Patch embedding", "embedding"))
    m.layer(block, "pos_embed.proj", (width, 16, 2, 2), Role.INPUT)
    time = m.group("block", "adaln_single", stage, "Time embedding", "embedding")
    m.layer(time, "adaln_single.emb.linear_1", (width, 256), Role.TIME)
    m.layer(time, "adaln_single.linear", (6 * width, width), Role.MODULATION)
    text = m.group("block", "caption_projection", stage, "Caption embedding", "embedding")
    m.layer(text, "caption_projection.linear_1", (width, 64), Role.CONDITION)
    body = m.group("stage", "transformer_blocks", "", "Transformer blocks", "stage")
    for i in range(count):
        block = m.flow(m.group("block", f"transformer_blocks.{i}", body, f"Block {i + 1}", "transformer"))
        if skips and i > count // 2:
            m.edges.append(BlockEdge(f"transformer_blocks.{count - 1 - i}", block, True, False))
            m.layer(block, f"{block}.skip_linear:1", (width, width), Role.SKIP)
        for attn in ("attn1", "attn2"):
            unit = m.group("unit", f"{block}.{attn}", block, attn, "attention")
            for label, role in ATTENTION:
                m.layer(unit, f"{unit}.{label}", (width, width), role)
        unit = m.group("unit", f"{block}.ff", block, "ff", "feed-forward")
        m.layer(unit, f"{unit}.net.0.proj", (4 * width, width), Role.FEED_FORWARD)
        m.layer(unit, f"{unit}.net.2", (width, 4 * width), Role.FEED_FORWARD)
        tied = "" if i == 0 else "transformer_blocks.0.emb"
        m.layer(block, f"{block}.emb", (width, 256), Role.TIME, tie=tied)
        for source in (time, text):
            m.edges.append(BlockEdge(source, block, False, True))
    tail = m.group("stage", "output", "", "Output", "stage")
    block = m.flow(m.group("block", "proj_out", tail, "Proj out", "conv"))
    m.layer(block, "proj_out", (64, width), Role.OUTPUT)
    return m.build(name, "line")


def hundred_cards() -> Structure:
    """A line of 106 blocks with more than 800 layers, for latency."""
    return transformer(106, 128, "hundred")


STRUCTURES = {
    "unet": small_unet, "dit": transformer, "sdxl": sdxl_like, "sd": sd_like,
    "dit28": lambda: transformer(28, 1152, "dit-28"), "flux": lambda: transformer(57, 512, "line-57"),
    "hunyuan": lambda: transformer(40, 256, "skips-40", skips=True), "hundred": hundred_cards,
}


def damage_of(structure: Structure, seed: int = 0) -> dict[str, dict[str, float]]:
    """A plausible additive damage table: falls by four per bit, differs by layer."""
    rng = random.Random(seed)
    table = {}
    for layer in structure.choices:
        base = 10 ** rng.uniform(-4.5, -2.6)
        table[layer.name] = {f"{method}-{bits}": base * scale * 4.0 ** (2 - bits)
                             for method, scale in (("uaq", 1.0), ("kmeans_c", 0.7), ("kmeans_a", 0.9), ("rtn_g64", 0.8))
                             for bits in (2, 3, 4, 5, 6, 8)}
    return table


def scores_of(structure: Structure, seed: int = 1) -> dict[str, float]:
    """A number for every block, unit and layer, spread over two decades."""
    rng = random.Random(seed)
    values = {layer.name: 10 ** rng.uniform(-5, -3) for layer in structure.choices}
    for block in structure.blocks:
        values[block.id] = sum(values.get(name, 0.0) for name in block.layers)
    return values
