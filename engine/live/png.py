"""A picture as a PNG that carries what it takes to make it again: recipe, prompt, seed and settings as text chunks."""

from __future__ import annotations

import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.core.errors import InputError
from engine.core.files import parse_json, write_atomic
from engine.core.recipe import Recipe, recipe_from_json, recipe_to_json
from engine.live.picture import Picture

KEY = "quantscape"
VERSION = 1
MAX_PNG_BYTES = 256_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Saved:
    """A picture read back: its pixels [H, W, 3], recipe (None = full precision) and what it was made from."""

    pixels: np.ndarray
    recipe: Recipe | None
    prompt: str
    seed: int
    label: int | None
    settings: dict[str, Any]


def png_bytes(picture: Picture, recipe: Recipe | None = None) -> bytes:
    """The picture as PNG; the same picture and recipe give the same bytes.

    Text chunks: `quantscape` (JSON: version, recipe, recipe_hash, prompt, seed, label, settings) for programs, and
    Title, Description and Software for people.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    about = {
        "version": VERSION, "prompt": picture.prompt, "seed": picture.seed, "label": picture.label,
        "settings": dict(picture.settings), "recipe_hash": recipe.hash if recipe else "",
        "recipe": recipe_to_json(recipe) if recipe else None,
    }
    info = PngInfo()
    info.add_itxt(KEY, json.dumps(about, ensure_ascii=False, allow_nan=False), zip=True)
    info.add_itxt("Title", picture.prompt or "unconditional")
    info.add_itxt("Description", _sentence(picture, recipe))
    info.add_text("Software", "Quantscape")
    out = io.BytesIO()
    Image.fromarray(picture.pixels).save(out, format="PNG", pnginfo=info)
    return out.getvalue()


def _sentence(picture: Picture, recipe: Recipe | None) -> str:
    settings = ", ".join(f"{k} {v}" for k, v in picture.settings.items() if v not in ("", None))
    return f"seed {picture.seed}, {f'recipe {recipe.hash}' if recipe else 'full precision'}, {settings}"


def save_png(picture: Picture, path: str | os.PathLike[str], recipe: Recipe | None = None) -> None:
    """Write `png_bytes`, whole or not at all."""
    write_atomic(path, png_bytes(picture, recipe))


def read_png(path: str | os.PathLike[str]) -> Saved:
    """What `save_png` wrote.

    Raises:
        InputError: no such file, no PNG, or a PNG without this program's data.
    """
    from PIL import Image, UnidentifiedImageError

    path = Path(path)
    try:
        if path.stat().st_size > MAX_PNG_BYTES:
            raise InputError(f"{path.name} is larger than any picture made here.")
        with Image.open(path, formats=("PNG",)) as image:
            image.load()
            text = getattr(image, "text", {}).get(KEY)
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as failure:
        raise InputError(f"{path.name} cannot be read as a PNG ({str(failure)[:100]}).") from None
    if text is None:
        raise InputError(f"{path.name} carries no recipe and seed; only pictures saved here do.")
    about = parse_json(str(text), path.name, InputError)
    try:
        recipe = recipe_from_json(about["recipe"], path.name) if about["recipe"] else None
        return Saved(pixels, recipe, str(about["prompt"]), int(about["seed"]), about["label"], dict(about["settings"]))
    except (KeyError, TypeError, ValueError) as failure:
        raise InputError(f"{path.name} carries damaged data ({failure!r:.80}).") from None
