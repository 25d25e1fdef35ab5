"""Pictures made by hand, for tests of metrics that need no model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass
class HandMade:
    pixels: np.ndarray
    exact: np.ndarray | None = None
    latents: torch.Tensor | None = None
    prompt: str = ""


def noise(count: int, side: int = 16, seed: int = 0, scale: float = 1.0) -> list[HandMade]:
    """Smooth random pictures; `scale` moves them away from grey."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((count, side // 4, side // 4, 3))
    images = np.clip(0.5 + scale * (np.kron(coarse, np.ones((1, 4, 4, 1))) - 0.5), 0, 1).astype(np.float32)
    return [HandMade((image * 255).round().astype(np.uint8), image) for image in images]


def blurred(pictures: list[HandMade], amount: float, seed: int = 1) -> list[HandMade]:
    """The same pictures with noise of standard deviation `amount`."""
    rng = np.random.default_rng(seed)
    result = []
    for p in pictures:
        assert p.exact is not None
        exact = np.clip(p.exact + amount * rng.standard_normal(p.exact.shape), 0, 1).astype(np.float32)
        result.append(HandMade((exact * 255).round().astype(np.uint8), exact, p.latents, p.prompt))
    return result
