"""What generation yields: steps of progress and finished pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Step:
    """One denoising step is done.

    Attributes:
        index: steps done so far, over all batches.
        of: steps in all.
        seconds_left: estimate from the steps so far; None before the first.
    """

    index: int
    of: int
    seconds_left: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One finished image.

    Attributes:
        index: its place in the request.
        prompt, seed: what it was made from; `label` is the class, None where the model takes none.
        pixels: uint8 [H, W, 3].
        exact: float32 [H, W, 3] in [0, 1] before rounding to bytes, where it was asked for.
        latents: float32 [T, ...] on the CPU, the latents after each denoising step, where they were asked for.
        settings: model, identity, device, dtype, steps, guidance, scheduler, size, negative prompt.
        cut_tokens: tokens of the prompt beyond what the text encoder reads.
    """

    index: int
    prompt: str
    seed: int
    pixels: np.ndarray
    label: int | None = None
    exact: np.ndarray | None = None
    latents: Tensor | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    cut_tokens: int = 0


def to_bytes(image: np.ndarray) -> np.ndarray:
    """Float [H, W, C] in [0, 1] as uint8 [H, W, 3], rounded as diffusers rounds; grey is repeated."""
    pixels = (np.clip(image, 0, 1) * 255).round().astype(np.uint8)
    return pixels if pixels.shape[2] == 3 else np.repeat(pixels[:, :, :1], 3, axis=2)
