"""`compare` and `floor`: names, n, directions, and the floor as the figure damage is read against."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.core.errors import InputError
from engine.metrics.compare import Reference, compare, distances, floor, latent_sqnr_per_step, per_image
from engine.metrics.features import Extractor, clip_extractor, random_conv
from tests.engine.metrics.pictures import HandMade, blurred, noise


def by_name(metrics: list) -> dict:
    return {m.name: m for m in metrics}


def test_every_metric_is_there_with_its_n(tiny_clip: Path) -> None:
    full = noise(20)
    for i, picture in enumerate(full):
        picture.prompt = ("red cat", "dog")[i % 2]
        picture.latents = torch.ones(3, 2, 2)
    metrics = by_name(compare(full, blurred(full, 0.05), clip_extractor(tiny_clip)))
    assert set(metrics) == {"psnr", "ssim", "image_mse", "latent_sqnr", "feature_distance[tiny-clip]",
                            "clip_score[tiny-clip]", "kernel_distance[tiny-clip]", "frechet[tiny-clip]"}
    assert all(m.n == 20 and m.low <= m.value <= m.high for m in metrics.values())
    assert [n for n, m in metrics.items() if m.higher_is_better] == [
        "psnr", "ssim", "latent_sqnr", "clip_score[tiny-clip]"]
    assert metrics["psnr"].unit == "dB"


def test_a_reference_is_computed_once_and_gives_the_same() -> None:
    full, other = noise(6), blurred(noise(6), 0.1)
    calls = []
    extractor = random_conv()

    def counted(images: torch.Tensor) -> torch.Tensor:
        calls.append(len(images))
        return extractor.of_images(images)

    counting = Extractor(extractor.name, extractor.dim, counted)
    reference = Reference(full, counting)
    assert compare(reference, other) == compare(full, other, extractor)
    compare(reference, other)
    assert sum(calls) == 3 * 6


def test_frechet_needs_enough_images_and_is_left_out_otherwise() -> None:
    names = [m.name for m in compare(noise(12), blurred(noise(12), 0.1), random_conv())]
    assert "kernel_distance[random-conv]" in names and "frechet[random-conv]" not in names


def test_distribution_damage_stands_beside_its_floor() -> None:
    """Slight noise stays at the floor of other seeds; a colour shift of the whole set rises above it."""
    full, again = noise(40), noise(40, seed=9)
    extractor = random_conv()
    base = by_name(floor(full, again, extractor))["kernel_distance_floor[random-conv]"]
    slight = by_name(compare(full, blurred(full, 0.01), extractor))["kernel_distance[random-conv]"]
    dim = [HandMade((p.pixels * 0.5).astype("uint8")) for p in full]
    heavy = by_name(compare(full, dim, extractor))["kernel_distance[random-conv]"]
    assert slight.value < base.high < heavy.value


def test_per_image_values_average_to_the_metric() -> None:
    full, other = noise(5), blurred(noise(5), 0.1)
    values = per_image(full, other, random_conv())
    metrics = by_name(compare(full, other, random_conv()))
    for name, column in values.items():
        assert metrics[name].value == pytest.approx(column.mean())


def test_latents_step_by_step() -> None:
    full, other = noise(2), noise(2)
    for a, b in zip(full, other, strict=True):
        a.latents = torch.ones(2, 4)
        b.latents = torch.stack([torch.full((4,), 1.01), torch.full((4,), 1.1)])
    steps = latent_sqnr_per_step(full, other)
    assert [(m.name, round(m.value, 2)) for m in steps] == [
        ("latent_sqnr[step 1/2]", 40.0), ("latent_sqnr[step 2/2]", 20.0)]
    other[0].latents = None
    with pytest.raises(InputError, match="record_latents"):
        latent_sqnr_per_step(full, other)


def test_sets_of_other_sizes_and_names() -> None:
    metrics = by_name(distances(noise(10), noise(14, seed=3), random_conv(), "reference"))
    assert metrics["kernel_distance_reference[random-conv]"].n == 10


def test_bad_sets_are_refused() -> None:
    with pytest.raises(InputError, match="at least one"):
        compare([], [])
    with pytest.raises(InputError, match="1 quantized pictures came for 2"):
        compare(noise(2), noise(1))
    with pytest.raises(InputError, match="extractor"):
        floor(noise(2), noise(2))
