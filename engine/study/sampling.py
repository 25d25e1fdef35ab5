"""Which recipes a study measures: trial i of a preset is the same recipe on any machine.

Constraints: only raw 64-bit words of PCG64 are used (numpy keeps those the same for ever, its distributions not),
and a draw depends on the study's seed, the preset, the trial's number and the model's structure alone, so shards
need no coordination and a study can be extended.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from engine.core.errors import StudyError
from engine.core.graph import Structure
from engine.core.layer import Layer
from engine.core.option import ALL_OPTIONS, BITS, Option
from engine.core.seeds import derive
from engine.core.sizes import sensible_options

LAYER, BLOCK = "layer", "block"


@dataclass(frozen=True, slots=True)
class Preset:
    """One row of the table of samplers.

    Attributes:
        name: as asked for, bounds included ("paper-6:0.2-0.8").
        summary: the sentence the explorer shows.
        methods, bits: the options are their product, less the dominated ones.
        low, high: with two widths, the share of the narrower is uniform between these (Qua2SeDiMo's a_l and a_u);
            unused where the mix is Dirichlet.
        dirichlet: whether the bit mix is symmetric Dirichlet(1/2) over the widths.
        block_share: probability that a trial draws one option per block instead of one per layer.
    """

    name: str
    summary: str
    methods: tuple[str, ...]
    bits: tuple[int, ...]
    low: float = 0.0
    high: float = 1.0
    dirichlet: bool = False
    block_share: float = 0.0

    @property
    def options(self) -> tuple[Option, ...]:
        """Methods times widths."""
        return tuple(o for o in ALL_OPTIONS if o.method in self.methods and o.bits in self.bits)


PRESETS: dict[str, Preset] = {
    row.name: row
    for row in (
        Preset("paper-6", "Three methods at 3 or 4 bits; the share of 3 bits is uniform (Qua2SeDiMo).",
               ("uaq", "kmeans_c", "kmeans_a"), (3, 4)),
        Preset("wide", "Four methods at 2 to 8 bits, a random mix of widths per trial, some trials block by block.",
               ("uaq", "kmeans_c", "kmeans_a", "rtn_g64"), BITS, dirichlet=True, block_share=0.3),
    )
}
_BOUNDS = re.compile(r"(\d(?:\.\d+)?)-(\d(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class Draw:
    """One trial before it is measured.

    Attributes:
        preset, seed, number: what it was drawn from.
        granularity: "layer" or "block".
        options: choice name -> option, in execution order; layers without a sensible option are left out.
    """

    preset: str
    seed: int
    number: int
    granularity: str
    options: Mapping[str, Option]


def parse_preset(text: str) -> Preset:
    """`wide`, `paper-6`, or `paper-6:0.2-0.8` to bound the share of the narrower width.

    Raises:
        StudyError: there is no such preset, or the bounds are no range within 0 to 1.
    """
    name, _, bounds = text.partition(":")
    if name not in PRESETS:
        raise StudyError(f"Unknown preset {text[:40]!r}; choose one of {', '.join(PRESETS)}.")
    preset = PRESETS[name]
    if not bounds:
        return preset
    match = _BOUNDS.fullmatch(bounds)
    low, high = (float(match[1]), float(match[2])) if match else (1.0, 0.0)
    if preset.dirichlet or not 0 <= low <= high <= 1:
        raise StudyError(f"Bounds {bounds[:40]!r} do not fit; two-width presets take a range such as paper-6:0.2-0.8.")
    return replace(preset, name=text, low=low, high=high)


def parse_presets(text: str) -> tuple[Preset, ...]:
    """One preset, or several separated by commas, to be measured in turn.

    Raises:
        StudyError: see `parse_preset`; or one is named twice.
    """
    presets = tuple(parse_preset(part) for part in text.split(","))
    if len({p.name for p in presets}) < len(presets):
        raise StudyError(f"Presets {text[:60]!r} name one twice.")
    return presets


def draw(structure: Structure, preset: Preset, seed: int, number: int) -> Draw:
    """Trial `number` of a preset."""
    uniform = Uniforms(derive("trial", seed, preset.name, number))
    mix = _mix(preset, uniform)
    by_block = uniform.next() < preset.block_share
    options: dict[str, Option] = {}
    wanted: dict[str, Option] = {}
    for layer in structure.choices:
        offered = offered_options(layer, structure.precision_bits, preset)
        first, second = uniform.next(), uniform.next()
        if not offered:
            continue
        own = _pick(offered, mix, first, second)
        if by_block:
            own = _of_block(wanted, layer.block, offered, own, second)
        options[layer.name] = own
    return Draw(preset.name, seed, number, BLOCK if by_block else LAYER, options)


@functools.lru_cache(maxsize=65536)
def offered_options(layer: Layer, precision_bits: int, preset: Preset) -> tuple[Option, ...]:
    """The preset's options for a layer that are not dominated in size."""
    return tuple(o for o in sensible_options(layer, precision_bits) if o in preset.options)


def _mix(preset: Preset, uniform: Uniforms) -> dict[int, float]:
    """Probability of each width."""
    if preset.dirichlet:
        # Half the square of a normal is Gamma(1/2); normals by Box and Muller.
        gamma = [-math.log(1 - uniform.next()) * math.cos(2 * math.pi * uniform.next()) ** 2 for _ in preset.bits]
        return {bits: g / sum(gamma) for bits, g in zip(preset.bits, gamma, strict=True)}
    narrow, wide = preset.bits
    share = preset.low + (preset.high - preset.low) * uniform.next()
    return {narrow: share, wide: 1 - share}


def _pick(offered: Sequence[Option], mix: Mapping[int, float], first: float, second: float) -> Option:
    """A width from the mix (among those offered), then a method, uniform among those offered at this width."""
    widths = [b for b in mix if any(o.bits == b for o in offered)]
    total = sum(mix[b] for b in widths)
    bits, left = widths[-1], first * total
    for width in widths:
        if left < mix[width]:
            bits = width
            break
        left -= mix[width]
    return _method(offered, bits, second)


def _method(offered: Sequence[Option], bits: int, at: float) -> Option:
    same = [o for o in offered if o.bits == bits]
    return same[int(at * len(same))]


def _of_block(wanted: dict[str, Option], block: str, offered: Sequence[Option], own: Option, at: float) -> Option:
    """The option of the block's first layer; where a layer cannot take it, another method of its width, or its own."""
    option = wanted.setdefault(block, own)
    if option in offered:
        return option
    return _method(offered, option.bits, at) if any(o.bits == option.bits for o in offered) else own


class Uniforms:
    """Numbers in [0, 1) from the top 53 bits of PCG64's words."""

    def __init__(self, seed: int) -> None:
        self._words = np.random.PCG64(seed)

    def next(self) -> float:
        """The next number."""
        return (int(self._words.random_raw()) >> 11) * 2.0**-53
