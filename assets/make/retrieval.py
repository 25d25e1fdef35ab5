"""Two judges of whether a picture shows what its caption says.

The shipped CLIP ranks all captions for a picture. The other judge never trained: it ranks all real
glyphs by squared pixel difference, each at its best shift among those the denoisers saw.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import CLIPModel, CLIPTokenizer

from assets.make.augment import WHITE
from assets.make.clip import tokens_of
from assets.make.configs import IMAGE_SIZE
from assets.make.dataset import MODELS, to_signed
from assets.make.denoiser import REACH

TOP = 5


@dataclass(frozen=True, slots=True)
class Hits:
    """Shares of pictures whose own caption came first, or among the first TOP."""

    first: float
    top: float


def hits(closeness: torch.Tensor, truth: torch.Tensor) -> Hits:
    """From closeness [B, N] and the right column of each row."""
    own = closeness.gather(1, truth[:, None])
    rank = (closeness > own).sum(1)
    return Hits((rank < 1).float().mean().item(), (rank < TOP).float().mean().item())


class ClipJudge:
    """The shipped CLIP with the features of all captions ready."""

    def __init__(self, captions: list[str], folder: Path = MODELS / "emoji-clip"):
        self.model = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
        tokens = tokens_of(CLIPTokenizer.from_pretrained(folder), captions)
        with torch.no_grad():
            states = self.model.text_model(**tokens).pooler_output
            self.names = F.normalize(self.model.text_projection(states), dim=-1)  # [N, 64]

    @torch.no_grad()
    def features(self, pictures: torch.Tensor, batch: int = 64) -> torch.Tensor:
        """Unit vectors [B, 64] of uint8 pictures."""
        parts = []
        for part in pictures.split(batch):
            states = self.model.vision_model(pixel_values=to_signed(part)).pooler_output
            parts.append(self.model.visual_projection(states))
        return F.normalize(torch.cat(parts), dim=-1)

    def closeness(self, pictures: torch.Tensor) -> torch.Tensor:
        """Cosine of every picture with every caption: [B, N]."""
        return self.features(pictures) @ self.names.T


def pixel_closeness(pictures: torch.Tensor, glyphs: torch.Tensor) -> torch.Tensor:
    """Minus the squared distance to each glyph at its best shift: [B, N]."""
    flat = pictures.float().flatten(1) / 255
    best = torch.full((len(flat), len(glyphs)), float("inf"))
    padded = F.pad(glyphs, (REACH,) * 4, value=WHITE)
    for top, left in itertools.product(range(2 * REACH + 1), repeat=2):
        place = padded[..., top : top + IMAGE_SIZE, left : left + IMAGE_SIZE]
        real = place.float().flatten(1) / 255
        distance = torch.addmm(real.square().sum(1), flat, real.T, alpha=-2)
        best = torch.minimum(best, distance)
    return -(best + flat.square().sum(1, keepdim=True))
