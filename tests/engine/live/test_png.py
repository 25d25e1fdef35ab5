"""A saved picture carries what it takes to make it again, and reads back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.core.errors import InputError
from engine.core.recipe import uniform
from engine.live.picture import Picture, to_bytes
from engine.live.png import png_bytes, read_png, save_png
from tests.engine.core.records import structure

PIXELS = np.random.default_rng(0).integers(0, 256, (16, 24, 3)).astype(np.uint8)
PICTURE = Picture(0, "🦊 ثعلب ünï", 2**32 - 1, PIXELS, settings={"steps": 20, "guidance": 3.0, "scheduler": "X"})


def test_round_trip_with_a_recipe(tmp_path: Path) -> None:
    recipe = uniform(structure(), "uaq-4")
    save_png(PICTURE, tmp_path / "a.png", recipe)
    back = read_png(tmp_path / "a.png")
    assert np.array_equal(back.pixels, PIXELS)
    assert back.recipe is not None and back.recipe.hash == recipe.hash and back.recipe.model == recipe.model
    assert (back.prompt, back.seed, back.label) == (PICTURE.prompt, PICTURE.seed, None)
    assert back.settings == dict(PICTURE.settings)


def test_full_precision_has_no_recipe_and_bytes_repeat(tmp_path: Path) -> None:
    save_png(PICTURE, tmp_path / "a.png")
    assert read_png(tmp_path / "a.png").recipe is None
    assert png_bytes(PICTURE) == png_bytes(PICTURE)


def test_people_can_read_it_too(tmp_path: Path) -> None:
    save_png(PICTURE, tmp_path / "a.png", uniform(structure(), "uaq-4"))
    text = Image.open(tmp_path / "a.png").text  # type: ignore[attr-defined]
    assert text["Title"] == PICTURE.prompt and "seed 4294967295" in text["Description"]


def test_other_pictures_are_refused(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "plain.png")
    with pytest.raises(InputError, match="carries no recipe"):
        read_png(tmp_path / "plain.png")
    (tmp_path / "text.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="cannot be read as a PNG"):
        read_png(tmp_path / "text.png")
    with pytest.raises(InputError, match="cannot be read"):
        read_png(tmp_path / "absent.png")
    whole = png_bytes(PICTURE)
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be read"):
        read_png(tmp_path / "half.png")


def test_rounding_is_to_the_nearest_byte_and_grey_becomes_rgb() -> None:
    image = np.array([[[0.0], [0.5], [1.2], [-0.1]]], np.float32)
    assert to_bytes(image).tolist() == [[[0] * 3, [128] * 3, [255] * 3, [0] * 3]]
