"""Quantized pictures against full-precision ones: every metric in one call, and the floor they are read against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor

from engine.core.errors import InputError
from engine.core.record import Metric
from engine.metrics.alignment import clip_score, cosine
from engine.metrics.bootstrap import mean_metric
from engine.metrics.distribution import IMAGES_PER_DIMENSION, frechet_metric, kernel_metric
from engine.metrics.features import Extractor, features
from engine.metrics.paired import latent_sqnr, mse, psnr, ssim, stack

# name of a per-image metric -> (unit, higher is better); those with an extractor carry it in brackets
PAIRED: dict[str, tuple[str, bool]] = {
    "psnr": ("dB", True),
    "ssim": ("", True),
    "image_mse": ("", False),
    "latent_sqnr": ("dB", True),
    "feature_distance": ("", False),
    "clip_score": ("", True),
}
SSIM_SIDE = 11


class Picture(Protocol):
    """What is read of a picture: see `engine.live.generate.Picture`."""

    prompt: str
    pixels: np.ndarray
    exact: np.ndarray | None
    latents: Tensor | None


class Reference:
    """Full-precision pictures with their features, computed once and compared with many recipes."""

    def __init__(self, pictures: Sequence[Picture], extractor: Extractor | None = None) -> None:
        if not pictures:
            raise InputError("A comparison needs at least one picture.")
        self.pictures = tuple(pictures)
        self.extractor = extractor
        self.images = stack(self.pictures)
        self.features = features(extractor, self.images) if extractor else None


def compare(full: Reference | Sequence[Picture], quantized: Sequence[Picture],
            extractor: Extractor | None = None) -> list[Metric]:
    """All metrics of quantized pictures against the full-precision ones of the same prompts and seeds.

    Paired: `psnr` (mean of dB), `ssim`, `image_mse`; `latent_sqnr` after the last step where latents were recorded;
    with an extractor `feature_distance[x]`, `kernel_distance[x]`, `frechet[x]` where there are enough images, and
    `clip_score[x]` where it reads text and all pictures have prompts.
    """
    return compared(full, quantized, extractor).metrics


class Compared(NamedTuple):
    """Everything about quantized pictures: what differences between recipes are made of goes with the metrics.

    Attributes:
        metrics: as `compare` gives them.
        per_image: name of a paired metric -> [n].
        left_out: name of a distance between sets -> its values with one group of images left out at a time.
    """

    metrics: list[Metric]
    per_image: dict[str, np.ndarray]
    left_out: dict[str, np.ndarray]


def compared(full: Reference | Sequence[Picture], quantized: Sequence[Picture],
             extractor: Extractor | None = None) -> Compared:
    """`compare`, `per_image` and the parts of set distances of the same pictures, features computed once."""
    reference = full if isinstance(full, Reference) else Reference(full, extractor)
    per_image, theirs = _per_image(reference, quantized)
    metrics = [_mean(name, values) for name, values in per_image.items()]
    sets: list[tuple[Metric, np.ndarray]] = []
    if reference.extractor and reference.features is not None and theirs is not None and len(theirs) > 1:
        sets = _distances(reference.features, theirs, reference.extractor, "", paired=True)
    return Compared(metrics + [m for m, _ in sets], per_image, {m.name: values for m, values in sets})


def per_image(full: Reference | Sequence[Picture], quantized: Sequence[Picture],
              extractor: Extractor | None = None) -> dict[str, np.ndarray]:
    """The paired metrics image by image, name -> [n]: what intervals of differences between recipes are made of."""
    return _per_image(full if isinstance(full, Reference) else Reference(full, extractor), quantized)[0]


def _per_image(reference: Reference, quantized: Sequence[Picture]) -> tuple[dict[str, np.ndarray], Tensor | None]:
    if len(quantized) != len(reference.pictures):
        raise InputError(f"{len(quantized)} quantized pictures came for {len(reference.pictures)} full-precision ones.")
    images = stack(quantized)
    values = {"psnr": psnr(reference.images, images), "image_mse": mse(reference.images, images)}
    if min(images.shape[2:]) >= SSIM_SIDE:
        values["ssim"] = ssim(reference.images, images)
    latents = [(a.latents, b.latents) for a, b in zip(reference.pictures, quantized, strict=True)]
    if all(a is not None and b is not None for a, b in latents):
        values["latent_sqnr"] = latent_sqnr([a[-1:] for a, _ in latents], [b[-1:] for _, b in latents])[:, -1]
    extractor = reference.extractor
    if extractor is None or reference.features is None:
        return values, None
    theirs = features(extractor, images)
    values[f"feature_distance[{extractor.name}]"] = 1 - cosine(reference.features, theirs)
    if extractor.of_texts and all(p.prompt for p in quantized):
        values[f"clip_score[{extractor.name}]"] = clip_score(extractor, theirs, [p.prompt for p in quantized])
    return values, theirs


def latent_sqnr_per_step(full: Sequence[Picture], quantized: Sequence[Picture]) -> list[Metric]:
    """`latent_sqnr[step k/T]`, mean over the images in dB, after each denoising step.

    Raises:
        InputError: a picture was generated without recording its latents.
    """
    ours, theirs = [p.latents for p in full], [p.latents for p in quantized]
    if any(x is None for x in [*ours, *theirs]):
        raise InputError("Latent SQNR per step needs pictures generated with record_latents.")
    table = latent_sqnr([x for x in ours if x is not None], [x for x in theirs if x is not None])
    steps = table.shape[1]
    return [mean_metric(f"latent_sqnr[step {k + 1}/{steps}]", table[:, k], "dB", higher_is_better=True)
            for k in range(steps)]


def floor(full: Reference | Sequence[Picture], other_seeds: Sequence[Picture],
          extractor: Extractor | None = None) -> list[Metric]:
    """Full precision against itself on other seeds: what a distribution distance is when nothing is lost.

    A quantized set whose distance is at this floor cannot be told from the original by this extractor and n.
    `clip_score_full[x]`, where there is text, is what full precision itself reaches.
    """
    reference = full if isinstance(full, Reference) else Reference(full, extractor)
    if reference.extractor is None or reference.features is None:
        raise InputError("A floor needs a feature extractor.")
    extractor = reference.extractor
    theirs = features(extractor, list(other_seeds))
    same_prompts = [p.prompt for p in reference.pictures] == [p.prompt for p in other_seeds]
    metrics = [m for m, _ in _distances(reference.features, theirs, extractor, "_floor", paired=same_prompts)]
    prompts = [p.prompt for p in reference.pictures]
    if extractor.of_texts and all(prompts):
        values = clip_score(extractor, reference.features, prompts)
        metrics.append(mean_metric(f"clip_score_full[{extractor.name}]", values, "", higher_is_better=True))
    return metrics


def distances(a: Sequence[Picture] | Tensor, b: Sequence[Picture] | Tensor, extractor: Extractor,
              against: str = "") -> list[Metric]:
    """Distribution distances between any two independent sets, such as generated pictures and a reference set.

    `against` becomes part of the name: `kernel_distance_reference[x]` for "reference".
    """
    ours, theirs = features(extractor, a), features(extractor, b)
    return [m for m, _ in _distances(ours, theirs, extractor, f"_{against}" if against else "", paired=False)]


def _distances(a: Tensor, b: Tensor, extractor: Extractor, suffix: str, *,
               paired: bool) -> list[tuple[Metric, np.ndarray]]:
    metrics = [kernel_metric(a, b, extractor.name, f"kernel_distance{suffix}", paired=paired)]
    if min(len(a), len(b)) >= IMAGES_PER_DIMENSION * extractor.dim:
        metrics.append(frechet_metric(a, b, extractor.name, f"frechet{suffix}"))
    return metrics


def _mean(name: str, values: np.ndarray) -> Metric:
    unit, higher = PAIRED[name.split("[")[0]]
    return mean_metric(name, values, unit, higher_is_better=higher)
