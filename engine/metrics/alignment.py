"""How well images fit their prompts: cosine of CLIP's image and text features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from engine.core.errors import InputError
from engine.metrics.features import Extractor


def clip_score(extractor: Extractor, image_features: Tensor, prompts: Sequence[str]) -> np.ndarray:
    """Cosine between each image and its prompt, [n], from -1 to 1 (times 100 in Hessel et al. 2021).

    Args:
        extractor: one with a text tower.
        image_features: [n, D], as `features` gives them.
        prompts: n texts.

    Raises:
        InputError: the extractor reads no text, or the numbers of images and prompts differ.
    """
    if extractor.of_texts is None:
        raise InputError(f"{extractor.name} reads no text, so there is no CLIP score; use a CLIP.")
    if len(image_features) != len(prompts):
        raise InputError(f"{len(image_features)} images came with {len(prompts)} prompts.")
    unique = list(dict.fromkeys(prompts))
    row = {text: i for i, text in enumerate(unique)}
    texts = extractor.of_texts(unique)[[row[p] for p in prompts]]
    return cosine(image_features, texts)


def cosine(a: Tensor, b: Tensor) -> np.ndarray:
    """Row-wise cosine of [n, D] and [n, D] in float64, clipped to [-1, 1]."""
    a, b = a.double(), b.double()
    scale = (a.square().sum(1) * b.square().sum(1)).sqrt().clamp(min=1e-30)
    return ((a * b).sum(1) / scale).clamp(-1, 1).cpu().numpy()
