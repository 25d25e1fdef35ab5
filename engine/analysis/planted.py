"""Models with a known cause: a made-up graph, weight errors, and recipes whose quality follows a rule we planted.

The oracle for everything in this package: which predictor ranks unseen recipes best, and whether scores and
attributions find the layers that were made to matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from engine.analysis.trials import Labelled
from engine.core.graph import Block, Node, NodeKind, Structure
from engine.core.layer import Layer, Role
from engine.core.option import Option
from engine.core.record import Scores
from engine.core.sizes import sensible_options

PAPER_6 = tuple(Option(m, b) for m in ("uaq", "kmeans_c", "kmeans_a") for b in (3, 4))
METHOD_FACTOR = {"uaq": 1.0, "kmeans_c": 0.7, "kmeans_a": 1.1, "rtn_g64": 0.8}


@dataclass(frozen=True, slots=True)
class Plan:
    """What is planted.

    Attributes:
        blocks: transformer-like and resnet-like blocks in turn, in a line.
        width: channels.
        spread: deviation of the layers' log sensitivities.
        detail: deviation of the log damage per layer and option, beyond the weight error.
        coupling: strength of interference between layers of one block.
        noise_db: deviation of the label's noise.
        loud: layers whose sensitivity is multiplied by `loudness`.
        loudness: see `loud`.
    """

    blocks: int = 16
    width: int = 64
    spread: float = 1.0
    detail: float = 0.3
    coupling: float = 0.3
    noise_db: float = 0.1
    loud: tuple[str, ...] = ()
    loudness: float = 1.0


@dataclass(frozen=True, slots=True)
class Truth:
    """A planted model.

    Attributes:
        structure: its graph.
        errors: weight errors, as the provider would give them.
        damage: choice -> option -> true damage alone, mean squared error.
        couplings: pairs of layers whose roots of damage multiply, with a signed factor.
        noise_db: of the labels.
    """

    structure: Structure
    errors: Scores
    damage: dict[str, dict[str, float]]
    couplings: dict[tuple[str, str], float] = field(default_factory=dict)
    noise_db: float = 0.0

    def psnr(self, options: dict[str, Option]) -> float:
        """Noise-free PSNR of a recipe, in dB."""
        each = {name: self.damage[name].get(str(option), 0.0) for name, option in options.items()}
        total = sum(each.values())
        total += sum(2 * factor * np.sqrt(each[a] * each[b]) for (a, b), factor in self.couplings.items())
        return float(-10 * np.log10(max(total, 1e-9)))


def plant(plan: Plan, seed: int) -> Truth:
    """A model, its weight errors and its true damage."""
    rng = np.random.default_rng(seed)
    structure = planted_structure(plan.blocks, plan.width)
    of_role = {role: float(rng.normal(0, 0.7 * plan.spread)) for role in Role}
    errors: dict[str, dict[str, float]] = {}
    damage: dict[str, dict[str, float]] = {}
    for layer in structure.choices:
        tail = float(np.exp(rng.normal(0, 0.3)))
        strength = float(np.exp(of_role[layer.role] + rng.normal(0, 0.7 * plan.spread))) * 1e-3
        strength *= plan.loudness if layer.name in plan.loud else 1.0
        errors[layer.name] = {
            str(o): 1.2 * tail * METHOD_FACTOR.get(o.method, 1.0) * 4.0**-o.bits * float(np.exp(rng.normal(0, 0.1)))
            for o in sensible_options(layer, structure.precision_bits) if not o.is_untouched
        }
        damage[layer.name] = {
            o: strength * e * 100 * float(np.exp(rng.normal(0, plan.detail))) for o, e in errors[layer.name].items()
        }
    couplings = {}
    for block in structure.level("block"):
        for i, a in enumerate(block.layers):
            couplings.update({(a, b): plan.coupling * float(rng.uniform(-1, 1)) for b in block.layers[i + 1:]})
    about = Scores("weight-error", structure.identity, "relative squared weight error", errors)
    return Truth(structure, about, damage, couplings, plan.noise_db)


def measure(truth: Truth, count: int, seed: int, options: Sequence[Option] = PAPER_6) -> list[Labelled]:
    """Random recipes (share of the narrower width uniform per recipe, method uniform) with noisy PSNR labels."""
    rng = np.random.default_rng([seed, count])
    found = []
    for _ in range(count):
        share = rng.uniform()
        recipe = {}
        for layer in truth.structure.choices:
            fitting = [o for o in options if str(o) in truth.errors.layers[layer.name]]
            narrow = min(o.bits for o in fitting)
            half = [o for o in fitting if (o.bits == narrow) == (rng.uniform() < share)] or fitting
            recipe[layer.name] = half[int(rng.integers(len(half)))]
        label = truth.psnr(recipe) + truth.noise_db * rng.normal()
        found.append(Labelled(recipe, {"psnr": label}))
    return found


def true_scores(truth: Truth) -> Scores:
    """The planted damage as scores."""
    return Scores("planted", truth.structure.identity, "image MSE", truth.damage)


def planted_structure(blocks: int, width: int) -> Structure:
    """A line of transformer and resnet blocks with residual adds and a time embedding that feeds every resnet."""
    build = _Builder(width)
    stream = build.weight("conv_in", Role.INPUT, "conv_in", ())
    time = build.weight("time.linear", Role.TIME, "time", ())
    for i in range(blocks):
        stream = _transformer(build, f"blocks.{i}", stream) if i % 2 else _resnet(build, f"blocks.{i}", stream, time)
    build.weight("conv_out", Role.OUTPUT, "conv_out", (stream,))
    return build.structure()


def _resnet(build: _Builder, name: str, stream: int, time: int) -> int:
    first = build.weight(f"{name}.conv1", Role.RESNET, name, (stream,))
    embed = build.weight(f"{name}.time_emb_proj", Role.MODULATION, name, (time,))
    both = build.junction(f"{name}/add0", NodeKind.ADD, name, (first, embed))
    last = build.weight(f"{name}.conv2", Role.RESNET, name, (both,))
    return build.junction(f"{name}/add1", NodeKind.ADD, name, (last, stream))


def _transformer(build: _Builder, name: str, stream: int) -> int:
    attn, ff = f"{name}.attn", f"{name}.ff"
    build.unit(attn, name)
    build.unit(ff, name)
    q, k, v = (build.weight(f"{attn}.{x}", role, name, (stream,), attn)
               for x, role in (("q", Role.QUERY), ("k", Role.KEY), ("v", Role.VALUE)))
    mixed = build.junction(f"{attn}/attention0", NodeKind.ATTENTION, name, (q, k, v))
    out = build.weight(f"{attn}.out", Role.ATTENTION_OUT, name, (mixed,), attn)
    middle = build.junction(f"{name}/add0", NodeKind.ADD, name, (out, stream))
    up = build.weight(f"{ff}.0", Role.FEED_FORWARD, name, (middle,), ff)
    down = build.weight(f"{ff}.1", Role.FEED_FORWARD, name, (up,), ff)
    return build.junction(f"{name}/add1", NodeKind.ADD, name, (down, middle))


class _Builder:
    """Collects nodes, edges, layers and blocks."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._layers: list[Layer] = []
        self._nodes: list[Node] = []
        self._edges: list[tuple[int, int]] = []
        self._units: dict[str, str] = {}
        self._unit_of: dict[str, str] = {}

    def unit(self, name: str, block: str) -> None:
        self._units[name] = block

    def weight(self, name: str, role: Role, block: str, inputs: Sequence[int], unit: str = "") -> int:
        wide = 1 + len(self._layers) % 3
        shape = (self._width * wide, self._width)
        self._layers.append(Layer(name, name, "linear", shape, 0, self._width, role, block, (name,)))
        if unit:
            self._unit_of[name] = unit
        return self._node(Node(name, NodeKind.WEIGHT, name, block), inputs)

    def junction(self, name: str, kind: NodeKind, block: str, inputs: Sequence[int]) -> int:
        return self._node(Node(name, kind, "", block), inputs)

    def _node(self, node: Node, inputs: Sequence[int]) -> int:
        self._nodes.append(node)
        self._edges += [(i, len(self._nodes) - 1) for i in inputs]
        return len(self._nodes) - 1

    def structure(self) -> Structure:
        blocks, names = [], list(dict.fromkeys(x.block for x in self._layers))
        for i, name in enumerate(names):
            inside = tuple(x.name for x in self._layers if x.block == name)
            blocks.append(Block(f"{name}/", "", "stage", name, "stage", inside, i, 0, "line"))
            blocks.append(Block(name, f"{name}/", "block", name, "transformer", inside, i, 0, "line"))
        for i, (unit, block) in enumerate(self._units.items()):
            inside = tuple(n for n, u in self._unit_of.items() if u == unit)
            blocks.append(Block(unit, block, "unit", unit, "attention", inside, i, 0, "line"))
        return Structure("planted", "Planted", "f" * 64, 16, tuple(self._layers), tuple(self._nodes),
                         tuple(self._edges), tuple(blocks), (), 0, (), "line")
