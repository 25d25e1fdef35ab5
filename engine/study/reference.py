"""What recipes are compared with: full-precision images and their features, made once and kept on the device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from engine.core.errors import StudyError
from engine.live.picture import Picture
from engine.metrics.alignment import cosine
from engine.metrics.compare import PAIRED
from engine.metrics.distribution import IMAGES_PER_DIMENSION, frechet, kernel_distance
from engine.metrics.features import Extractor, features
from engine.metrics.paired import latent_sqnr, mse, psnr, stack
from engine.study.structural import WINDOW, StructuralReference
from engine.study.trial import Measured


class Reference:
    """Full-precision pictures of the study's prompts and seeds."""

    def __init__(self, pictures: Sequence[Picture], extractor: Extractor, device: str) -> None:
        self._device = device
        self._extractor = extractor
        self._images = stack(pictures).to(device)
        self._structure = StructuralReference(self._images) if min(self._images.shape[2:]) >= WINDOW else None
        self._latents = _last_latents(pictures)
        self._features = features(extractor, self._images)
        self._texts = None
        prompts = [p.prompt for p in pictures]
        if extractor.of_texts and all(prompts):
            unique = list(dict.fromkeys(prompts))
            self._texts = extractor.of_texts(unique)[[unique.index(p) for p in prompts]]

    def compare(self, pictures: Sequence[Picture]) -> tuple[Measured, ...]:
        """Paired metrics (image by image) and distribution metrics of a recipe's pictures, each with its n.

        Raises:
            StudyError: other pictures than the reference's; InputError where they hold NaN.
        """
        if len(pictures) != len(self._images):
            raise StudyError(f"{len(pictures)} pictures came for {len(self._images)} of the reference.")
        images = stack(pictures).to(self._device)
        theirs = features(self._extractor, images)
        name = self._extractor.name
        values = {"image_mse": mse(self._images, images), "psnr": psnr(self._images, images)}
        if self._structure:
            values["ssim"] = self._structure.against(images)
        values["latent_sqnr"] = latent_sqnr(self._latents, _last_latents(pictures))[:, -1]
        values[f"feature_distance[{name}]"] = 1 - cosine(self._features, theirs)
        if self._texts is not None:
            values[f"clip_score[{name}]"] = cosine(theirs, self._texts)
        return (*(_mean(key, v) for key, v in values.items()), *self._distances(theirs))

    def _distances(self, theirs: torch.Tensor) -> list[Measured]:
        name, n = self._extractor.name, len(theirs)
        if n < 2:
            return []
        distance = kernel_distance(self._features, theirs, paired=True)
        found = [Measured(f"kernel_distance[{name}]", distance, n, "", False)]
        if n >= IMAGES_PER_DIMENSION * self._extractor.dim:
            found.append(Measured(f"frechet[{name}]", frechet(self._features, theirs), n, "", False))
        return found


def _last_latents(pictures: Sequence[Picture]) -> list[torch.Tensor]:
    """The latents after the last step, [1, ...] per image."""
    return [p.latents[-1:].clone() for p in pictures if p.latents is not None]


def _mean(name: str, values: np.ndarray) -> Measured:
    unit, higher_is_better = PAIRED[name.partition("[")[0]]
    return Measured(name, float(np.mean(values, dtype=np.float64)), len(values), unit, higher_is_better,
                    values.astype(np.float32))
