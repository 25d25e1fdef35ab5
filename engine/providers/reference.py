"""Real pictures to compare generated ones with: a folder, or the sheet that lies beside a model's captions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.core.errors import InputError
from engine.providers.prompts import find_captions, read_captions

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
MAX_PICTURES = 50_000


def reference_pictures(directory: Path | None, model_directory: Path | None, side: int) -> list[np.ndarray]:
    """Real pictures, uint8 [side, side, 3]; empty where there are none.

    Args:
        directory: picture files, resized so that the shorter side fits, and cut to the centre; None looks beside
            the model for a sheet of tiles, row by row in the order of its `captions.json`.
        model_directory: the model's own directory.
        side: pixels.

    Raises:
        InputError: the folder holds no pictures, or one cannot be read.
    """
    if directory is not None:
        return _from_folder(directory, side)
    captions = find_captions(model_directory)
    return _from_sheet(captions, side) if captions else []


def _from_folder(folder: Path, side: int) -> list[np.ndarray]:
    from PIL import Image, ImageOps

    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)[:MAX_PICTURES]
    if not files:
        raise InputError(f"{folder} holds no pictures ({', '.join(SUFFIXES)}); name a folder of real pictures.")
    found = []
    for path in files:
        try:
            with Image.open(path) as image:
                found.append(np.asarray(ImageOps.fit(_on_white(image), (side, side), Image.Resampling.LANCZOS)))
        except (OSError, ValueError, SyntaxError) as failure:
            raise InputError(f"{path} cannot be read as a picture ({str(failure)[:100]}).") from None
    return found


def _from_sheet(captions: Path, side: int) -> list[np.ndarray]:
    """Tiles of `side` pixels from the one PNG beside the captions; none if it does not hold a tile per caption."""
    from PIL import Image

    sheets = sorted(captions.parent.glob("*.png"))
    if len(sheets) != 1:
        return []
    count = len(read_captions(captions))
    with Image.open(sheets[0]) as image:
        pixels = np.asarray(_on_white(image))
    rows, columns = pixels.shape[0] // side, pixels.shape[1] // side
    if pixels.shape[0] % side or pixels.shape[1] % side or not 0 <= rows * columns - count < max(columns, 1):
        return []
    tiles = pixels.reshape(rows, side, columns, side, 3).transpose(0, 2, 1, 3, 4).reshape(-1, side, side, 3)
    return list(tiles[:count])


def _on_white(image: Image.Image) -> Image.Image:
    from PIL import Image

    # transparent pictures are meant for a page; generated ones have no transparency
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")
