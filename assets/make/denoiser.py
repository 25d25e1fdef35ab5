"""Train a denoiser on the latents of the glyphs, told their names.

python -m assets.make.denoiser --model emoji-unet --minutes 35
python -m assets.make.denoiser --model emoji-dit --minutes 35
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import nn

from assets.make.augment import varied
from assets.make.autoencoder import RUNS, latents_of
from assets.make.configs import DENOISERS, build_scheduler
from assets.make.dataset import Emoji, load_emoji
from assets.make.prompts import Prompts, read_prompts
from assets.make.training import Losses, Plan, copy_state, log_to, pick_device, train

REACH = 2  # px; what makes two seeds of one prompt differ
VARIANTS = 1  # cached pictures per glyph
DROPPED = 0.1  # share of prompts replaced by the empty one, for guidance
PLAIN_CONDITIONS = {"resolution": None, "aspect_ratio": None}

Predict = Callable[[nn.Module, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Material:
    """All a denoiser learns from, on its device."""

    latents: torch.Tensor  # [V, N, 16, 8, 8], unit variance
    prompts: Prompts
    alphas: torch.Tensor  # [1000] cumulative products of the noise schedule
    batch: int


def cached_latents(vae: Path, emoji: Emoji, path: Path) -> torch.Tensor:
    """Encode VARIANTS moved pictures of each glyph once; later runs read the file."""
    if path.exists():
        return load_file(path)["latents"].float()
    model = AutoencoderKL.from_pretrained(vae).eval()
    model.to(memory_format=torch.channels_last)
    sizes, everyone = emoji.pictures[None], torch.arange(len(emoji.captions))
    generator = torch.Generator().manual_seed(0)
    layers = []
    for _ in range(VARIANTS):
        with torch.autocast("cpu", torch.bfloat16):
            means = latents_of(model, varied(sizes, everyone, REACH, generator))
        layers.append((means.float() * model.config.scaling_factor).half())
    latents = torch.stack(layers).contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"latents": latents}, path)
    return latents.float()


def predict_unet(model, noisy, time, prompt, mask):
    """The Stable Diffusion pipeline attends to padding as well."""
    del mask
    return model(noisy, time, encoder_hidden_states=prompt).sample


def predict_dit(model, noisy, time, prompt, mask):
    """The PixArt pipeline masks padding."""
    return model(
        noisy,
        encoder_hidden_states=prompt,
        encoder_attention_mask=mask,
        timestep=time,
        added_cond_kwargs=PLAIN_CONDITIONS,
    ).sample


PREDICT = {"emoji-unet": predict_unet, "emoji-dit": predict_dit}


def velocity_losses(model: nn.Module, predict: Predict, material: Material, generator: torch.Generator) -> Losses:
    """Mean squared error of the velocity (Salimans and Ho 2022, appendix D)."""
    latents, count = material.latents, material.batch
    device = latents.device
    glyph = torch.randint(0, latents.shape[1], (count,), generator=generator)
    variant = torch.randint(0, latents.shape[0], (count,), generator=generator)
    clean = latents[variant.to(device), glyph.to(device)]
    empty = torch.rand(count, generator=generator) < DROPPED
    row = torch.where(empty, latents.shape[1], glyph).to(device)
    # One noise level from each of `count` equal slices: less variance than free draws.
    slices = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    time = (slices * len(material.alphas)).long().to(device)
    noise = torch.randn(clean.shape, generator=generator).to(device)
    alpha = material.alphas[time, None, None, None]
    noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
    velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
    with torch.autocast(device.type, torch.bfloat16):
        states, mask = material.prompts.states[row], material.prompts.mask[row]
        output = predict(model, noisy, time, states, mask)
    errors = F.mse_loss(output.float(), velocity, reduction="none").mean((1, 2, 3))
    return {"loss": errors.mean(), "noisiest": errors[-count // 4 :].mean()}


def gather(options: argparse.Namespace, device: torch.device) -> Material:
    """Latents, prompts and noise levels, read from what the earlier scripts wrote."""
    emoji = load_emoji()
    latents = cached_latents(options.out / "vae", emoji, options.out / "latents.safetensors")
    prompts = read_prompts(options.out / "clip", emoji.captions)
    if options.model == "emoji-dit":
        prompts = prompts.shortened()
    prompts = Prompts(prompts.states.to(device), prompts.mask.to(device))
    alphas = build_scheduler().alphas_cumprod.to(device)
    return Material(latents.to(device), prompts, alphas, options.batch)


def main() -> None:
    """Train or go on training, then write `build/make/<model>`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=sorted(DENOISERS), required=True)
    parser.add_argument("--minutes", type=float, default=35)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=RUNS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = pick_device(options.device)
    material = gather(options, device)
    model = DENOISERS[options.model]().to(device)
    predict = PREDICT[options.model]

    def draw(generator: torch.Generator) -> Losses:
        return velocity_losses(model, predict, material, generator)

    average = copy_state(model)
    plan = Plan(options.out / f"{options.model}-run", options.minutes, options.rate)
    log_to(options.out / f"{options.model}.jsonl", train(plan, model, average, draw))
    model.load_state_dict(average)
    model.eval().save_pretrained(options.out / options.model)


if __name__ == "__main__":
    main()
