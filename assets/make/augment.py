"""Small moves and shrinkings of the glyphs, so that one caption has many pictures."""

import torch
import torch.nn.functional as F

from assets.make.configs import IMAGE_SIZE

SIZES = (64, 60)  # px a glyph may be shrunk to; shrinking keeps lines sharp, turning would not
WHITE = 255


def shrunk(pictures: torch.Tensor, size: int) -> torch.Tensor:
    """uint8 [N, 3, 64, 64] -> the same pictures drawn `size` px wide in the middle of white."""
    small = F.interpolate(pictures.float(), size=(size, size), mode="bicubic", antialias=True)
    margin = (IMAGE_SIZE - size) // 2
    framed = F.pad(small, (margin,) * 4, value=WHITE)
    return framed.round().clamp(0, 255).to(torch.uint8)


def all_sizes(pictures: torch.Tensor) -> torch.Tensor:
    """uint8 [S, N, 3, 64, 64], one layer per entry of SIZES."""
    return torch.stack([pictures if s == IMAGE_SIZE else shrunk(pictures, s) for s in SIZES])


def moved(pictures: torch.Tensor, reach: int, generator: torch.Generator) -> torch.Tensor:
    """Shift each picture by up to `reach` whole pixels both ways; white moves in."""
    count = len(pictures)
    padded = F.pad(pictures, (reach,) * 4, value=WHITE)
    top, left = torch.randint(0, 2 * reach + 1, (2, count), generator=generator)
    line = torch.arange(IMAGE_SIZE)
    rows = (top[:, None] + line)[:, None, :, None]  # [N, 1, 64, 1]
    columns = (left[:, None] + line)[:, None, None, :]
    picture = torch.arange(count)[:, None, None, None]
    channel = torch.arange(3)[None, :, None, None]
    return padded[picture, channel, rows, columns]


def varied(sizes: torch.Tensor, index: torch.Tensor, reach: int, generator: torch.Generator):
    """One random size and shift of each glyph in `index`: uint8 [B, 3, 64, 64]."""
    layer = torch.randint(0, len(sizes), (len(index),), generator=generator)
    return moved(sizes[layer, index], reach, generator)
