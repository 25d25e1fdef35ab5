"""What a whole pipeline keeps in memory: the denoiser under a recipe, and the parts beside it."""

from __future__ import annotations

from dataclasses import dataclass

from engine.core.graph import Component, Structure
from engine.core.sizes import full_bytes

CARDS_GB = (4, 6, 8, 10, 12, 16, 24, 32, 48, 80)  # memory of accelerators on sale


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of a pipeline's weights; what computing needs on top (activations) is not among them.

    Attributes:
        denoiser: everything the denoiser stores.
        components: text encoders, autoencoder and whatever else has weights, at the precision they are stored in.
    """

    denoiser: int
    components: tuple[Component, ...]

    @property
    def total(self) -> int:
        """Bytes of all weights."""
        return self.denoiser + sum(c.bytes for c in self.components)

    @property
    def card_gb(self) -> int | None:
        """The smallest card that holds all weights (GB = 10^9 bytes); None if none does."""
        return next((card for card in CARDS_GB if self.total <= card * 10**9), None)

    def sentence(self) -> str:
        """Every part with its size, the sum, and the smallest card that holds it."""
        parts = "".join(f" + {c.name} {_gb(c.bytes)}" for c in self.components)
        card = f"fits {self.card_gb} GB" if self.card_gb else f"fits no card of {CARDS_GB[-1]} GB"
        return (f"Whole pipeline: denoiser {_gb(self.denoiser)}{parts}, together {_gb(self.total)}; {card}, "
                f"activations not counted.")


def beside_sentence(structure: Structure) -> str:
    """The parts of the pipeline that are not quantized, each with its size; "" where there are none."""
    parts = ", ".join(f"{c.name} {_gb(c.bytes)}" for c in structure.components)
    return f"Beside the denoiser: {parts}." if parts else ""


def full_footprint(structure: Structure) -> Footprint:
    """The pipeline at full precision."""
    others = structure.other_weights * structure.precision_bits // 8
    return Footprint(full_bytes(structure) + others, structure.components)


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 10**8 else f"{size / 1e6:.2f} MB"
