"""The emoji as tensors: pictures, captions and codepoints, read from `assets/models/emoji-data`."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from assets.make.configs import IMAGE_SIZE

MODELS = Path(__file__).resolve().parent.parent / "models"
DATA = MODELS / "emoji-data"
SHEET_COLUMNS = 40


@dataclass(frozen=True, slots=True)
class Emoji:
    """The whole set; row i of `pictures` is called `captions[i]`."""

    pictures: torch.Tensor  # uint8 [N, 3, 64, 64]
    captions: list[str]
    codepoints: list[int]


def load_emoji(folder: Path = DATA) -> Emoji:
    """Read the sheet and the captions that `render` wrote."""
    rows = json.loads((folder / "captions.json").read_text())["glyphs"]
    sheet = torch.from_numpy(np.array(Image.open(folder / "glyphs.png").convert("RGB")))
    lines = sheet.shape[0] // IMAGE_SIZE
    tiles = sheet.reshape(lines, IMAGE_SIZE, SHEET_COLUMNS, IMAGE_SIZE, 3).permute(0, 2, 4, 1, 3)
    pictures = tiles.reshape(-1, 3, IMAGE_SIZE, IMAGE_SIZE)[: len(rows)].contiguous()
    return Emoji(pictures, [row["caption"] for row in rows], [row["codepoint"] for row in rows])


def to_signed(pictures: torch.Tensor) -> torch.Tensor:
    """uint8 0..255 -> float -1..1, the range the autoencoder reads and writes."""
    return pictures.float() / 127.5 - 1


def to_unit(signed: torch.Tensor) -> torch.Tensor:
    """float -1..1 -> float 0..1, clipped: the range in which quality is measured."""
    return (signed.float() / 2 + 0.5).clamp(0, 1)
