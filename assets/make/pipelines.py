"""Put the trained parts together as ordinary diffusers and transformers directories in fp16.

python -m assets.make.pipelines [--models emoji-unet emoji-dit]
"""

import argparse
import shutil
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from assets.make.autoencoder import RUNS
from assets.make.clip import save as save_clip
from assets.make.configs import DENOISERS, build_scheduler
from assets.make.dataset import MODELS


def text_tower(clip: CLIPModel) -> CLIPTextModel:
    """The text half of the judge as a model of its own."""
    tower = CLIPTextModel(clip.config.text_config)
    state = clip.text_model.state_dict()
    # Releases of transformers differ in whether the tower sits one level deeper.
    inner = getattr(tower, "text_model", tower)
    inner.load_state_dict(state)
    return tower


def shared_parts(runs: Path) -> dict:
    """Autoencoder, text tower, tokenizer and sampler, the same for both pipelines."""
    return {
        "vae": AutoencoderKL.from_pretrained(runs / "vae"),
        "text_encoder": text_tower(CLIPModel.from_pretrained(runs / "clip")),
        "tokenizer": CLIPTokenizer.from_pretrained(runs / "clip"),
        "scheduler": build_scheduler(),
    }


def assemble(name: str, runs: Path) -> DiffusionPipeline:
    """A pipeline of the trained parts, float32."""
    parts = shared_parts(runs)
    if name == "emoji-dit":
        transformer = PixArtTransformer2DModel.from_pretrained(runs / name)
        return PixArtAlphaPipeline(transformer=transformer, **parts)
    return StableDiffusionPipeline(
        unet=UNet2DConditionModel.from_pretrained(runs / name),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **parts,
    )


def main() -> None:
    """Write `assets/models/emoji-clip` and the pipelines that are trained."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", choices=sorted(DENOISERS), default=sorted(DENOISERS))
    parser.add_argument("--runs", type=Path, default=RUNS)
    parser.add_argument("--out", type=Path, default=MODELS)
    options = parser.parse_args()
    for name in options.models:
        folder = options.out / name
        shutil.rmtree(folder, ignore_errors=True)
        assemble(name, options.runs).to(dtype=torch.float16).save_pretrained(folder)
        print(folder)
    clip = CLIPModel.from_pretrained(options.runs / "clip")
    tokenizer = CLIPTokenizer.from_pretrained(options.runs / "clip")
    save_clip(clip.half(), tokenizer, options.out / "emoji-clip")


if __name__ == "__main__":
    main()
