"""Named feature extractors: a local CLIP's image and text towers, or a seeded random conv net where there is none."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.core.errors import InputError
from engine.core.files import read_json
from engine.core.places import assets_dir
from engine.metrics.paired import Image, stack

RANDOM_CONV = "random-conv"
RANDOM_CONV_SEED = 20261120
RANDOM_CONV_CHANNELS = (3, 16, 32, 32)
# What CLIP was trained with, for directories without a preprocessor_config.json (Radford et al. 2021).
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
BATCH = 64


@dataclass(frozen=True)
class Extractor:
    """A feature space with a name that goes into every number made with it.

    Attributes:
        name: e.g. `emoji-clip`, `random-conv`.
        dim: D, dimensions of a feature.
        of_images: float images [B, 3, H, W] in [0, 1] -> features [B, D] on the CPU.
        of_texts: texts -> features [B, D] in the same space, or None where the space has no text.
    """

    name: str
    dim: int
    of_images: Callable[[Tensor], Tensor]
    of_texts: Callable[[Sequence[str]], Tensor] | None = None


def features(extractor: Extractor, images: Sequence[Image | np.ndarray] | Tensor) -> Tensor:
    """Features [n, D] of pictures, arrays or a tensor [n, 3, H, W], in batches of 64."""
    batch = images if isinstance(images, Tensor) else stack(images)
    return torch.cat([extractor.of_images(part) for part in batch.split(BATCH)])


def find_extractor(near: str | Path | None = None, device: str = "cpu") -> Extractor:
    """The extractor that belongs to a model: a CLIP inside or beside its directory, else the random conv net."""
    if near:
        home = Path(near)
        for directory in [*sorted(home.glob("*/")), *sorted(home.parent.glob("*/"))]:
            if is_clip(directory):
                return clip_extractor(directory, device)
    return random_conv(device)


def load_extractor(name: str, device: str = "cpu") -> Extractor:
    """An extractor by name: `random-conv`, a shipped CLIP (`emoji-clip`), or the path of a local CLIP directory.

    Raises:
        InputError: there is no such extractor on this machine.
    """
    if name == RANDOM_CONV:
        return random_conv(device)
    for directory in (assets_dir() / "models" / name, Path(name)):
        if is_clip(directory):
            return clip_extractor(directory, device)
    raise InputError(f"No CLIP lies at {name[:80]!r}; give the path of a local CLIP directory, or {RANDOM_CONV}.")


def is_clip(directory: Path) -> bool:
    """Whether a directory holds a CLIP with both towers and a tokenizer."""
    config = directory / "config.json"
    try:
        kind = json.loads(config.read_bytes()).get("model_type") if config.is_file() else ""
    except (OSError, ValueError, AttributeError):
        return False
    return kind == "clip" and any(directory.glob("*.safetensors")) and any(directory.glob("tokenizer*.json"))


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """Reading a small CLIP takes a moment; its progress bar would stand in every log."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def clip_extractor(directory: str | Path, device: str = "cpu") -> Extractor:
    """Both towers of a local CLIP; features have unit length. Its name is the directory's."""
    from safetensors import SafetensorError
    from transformers import AutoTokenizer, CLIPModel

    home = Path(directory).resolve()
    try:
        with _without_bars():
            model = CLIPModel.from_pretrained(home, local_files_only=True, use_safetensors=True)
        model = model.to(device).float().eval()
        tokenizer = AutoTokenizer.from_pretrained(home, local_files_only=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as failure:
        raise InputError(f"The CLIP at {home} cannot be loaded ({str(failure).splitlines()[0][:120]}).") from None
    side, positions = model.config.vision_config.image_size, model.config.text_config.max_position_embeddings
    mean, std = _normalisation(home, device)

    @torch.inference_mode()
    def of_images(images: Tensor) -> Tensor:
        pixels = (_square(images.to(device), side) - mean) / std
        return functional.normalize(model.get_image_features(pixels).pooler_output, dim=-1).cpu()

    @torch.inference_mode()
    def of_texts(texts: Sequence[str]) -> Tensor:
        parts = []
        for start in range(0, len(texts), BATCH):
            tokens = tokenizer(list(texts[start:start + BATCH]), padding=True, truncation=True, max_length=positions,
                               return_tensors="pt").to(device)
            out = model.get_text_features(tokens["input_ids"], tokens["attention_mask"])
            parts.append(functional.normalize(out.pooler_output, dim=-1).cpu())
        return torch.cat(parts)

    return Extractor(home.name, model.config.projection_dim, of_images, of_texts)


def _normalisation(home: Path, device: str) -> tuple[Tensor, Tensor]:
    path = home / "preprocessor_config.json"
    config: dict[str, Any] = read_json(path, InputError) if path.is_file() else {}
    mean, std = config.get("image_mean", CLIP_MEAN), config.get("image_std", CLIP_STD)
    return torch.tensor(mean, device=device).view(1, 3, 1, 1), torch.tensor(std, device=device).view(1, 3, 1, 1)


def _square(images: Tensor, side: int) -> Tensor:
    """Resize so that the shorter side is `side` (bicubic), then cut out the centre, as CLIP was trained."""
    height, width = images.shape[2:]
    if min(height, width) != side:
        scale = side / min(height, width)
        size = (max(side, round(height * scale)), max(side, round(width * scale)))
        images = functional.interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)
    top, left = (images.shape[2] - side) // 2, (images.shape[3] - side) // 2
    return images[:, :, top:top + side, left:left + side]


def random_conv(device: str = "cpu") -> Extractor:
    """Means and deviations of 32 channels of an untrained, seeded conv net: D = 64.

    It tells texture and colour apart and knows nothing of meaning; its name says so in every number.
    """
    generator = torch.Generator().manual_seed(RANDOM_CONV_SEED)
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(RANDOM_CONV_CHANNELS):
        # skip_init: the ordinary constructor would draw from the global generator
        conv = nn.utils.skip_init(nn.Conv2d, inputs, outputs, 3, stride=2, padding=1)
        with torch.no_grad():
            conv.weight.normal_(0, (2 / (inputs * 9)) ** 0.5, generator=generator)
            conv.bias.normal_(0, 0.1, generator=generator)
        layers += [conv, nn.ReLU()]
    net = nn.Sequential(*layers).to(device).eval()

    @torch.inference_mode()
    def of_images(images: Tensor) -> Tensor:
        maps = net(2 * images.to(device) - 1).flatten(2)  # [B, 32, h * w]
        return torch.cat([maps.mean(2), maps.std(2, correction=0)], dim=1).cpu()

    return Extractor(RANDOM_CONV, 2 * RANDOM_CONV_CHANNELS[-1], of_images)
