"""Train the CLIP that judges pictures and reads prompts: glyph against Unicode name.

python -m assets.make.clip --minutes 8

Its image tower also sees what the autoencoder makes of the glyphs, blur, noise and other colours,
so that it judges what a picture shows and not how it was made.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from assets.make.augment import all_sizes, varied
from assets.make.autoencoder import RUNS, latents_of
from assets.make.configs import IMAGE_SIZE, build_clip
from assets.make.dataset import Emoji, load_emoji, to_signed, to_unit
from assets.make.tokenizer import build_tokenizer
from assets.make.training import Losses, Plan, copy_state, log_to, pick_device, train

REACH = 3  # px
SMOOTHING = 0.05
LARGEST_SCALE = 4.6  # log of 100, as in CLIP
MEAN, SPREAD = [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]  # so that its input is the autoencoder's range


@torch.no_grad()
def reconstructed(model: AutoencoderKL, pictures: torch.Tensor, batch: int = 64) -> torch.Tensor:
    """uint8 pictures through the autoencoder and back to uint8."""
    outputs = []
    for part in pictures.split(batch):
        with torch.autocast(part.device.type, torch.bfloat16):
            outputs.append(to_unit(model.decode(latents_of(model, part).float()).sample))
    return (torch.cat(outputs) * 255).round().to(torch.uint8)


def disturbed(pictures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Blur half of the pictures, shift their colours a little and add grain: float -1..1."""
    count = len(pictures)
    signed = to_signed(pictures)
    soft = F.avg_pool2d(F.pad(signed, (1,) * 4, mode="replicate"), 3, stride=1)
    amount = torch.rand(count, 1, 1, 1, generator=generator)
    signed = signed.lerp(soft, (2 * amount - 1).clamp(min=0))
    gain = 1 + 0.08 * torch.randn(count, 3, 1, 1, generator=generator)
    # White stays white: the darkness is scaled, not the light.
    signed = 1 - (1 - signed) * gain
    grain = 0.1 * torch.rand(count, 1, 1, 1, generator=generator)
    return (signed + grain * torch.randn(signed.shape, generator=generator)).clamp(-1, 1)


def contrast(model: CLIPModel, pixels: torch.Tensor, tokens: dict[str, torch.Tensor]) -> Losses:
    """Symmetric cross-entropy of picture-to-name and name-to-picture (Radford et al. 2021)."""
    with torch.no_grad():
        model.logit_scale.clamp_(max=LARGEST_SCALE)
    with torch.autocast(pixels.device.type, torch.bfloat16):
        logits = model(pixel_values=pixels, **tokens).logits_per_image.float()
    target = torch.arange(len(logits), device=logits.device)
    to_name = F.cross_entropy(logits, target, label_smoothing=SMOOTHING)
    to_picture = F.cross_entropy(logits.T, target, label_smoothing=SMOOTHING)
    hit = (logits.argmax(1) == target).float().mean()
    return {"loss": (to_name + to_picture) / 2, "hit": hit}


def tokens_of(tokenizer: CLIPTokenizer, captions: list[str]) -> dict[str, torch.Tensor]:
    """Every caption, padded to the longest of them."""
    return dict(tokenizer(captions, padding="longest", truncation=True, return_tensors="pt"))


def sources(emoji: Emoji, vae: Path) -> torch.Tensor:
    """All sizes of the glyphs and, if there is an autoencoder, what it makes of them."""
    sizes = all_sizes(emoji.pictures)
    if not (vae / "config.json").exists():
        return sizes
    model = AutoencoderKL.from_pretrained(vae).eval()
    return torch.cat([sizes, torch.stack([reconstructed(model, p) for p in sizes])])


def save(model: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """The model, its tokenizer and how its pictures are prepared."""
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    edge = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    CLIPImageProcessorPil(
        size=edge, crop_size=edge, do_center_crop=False, image_mean=MEAN, image_std=SPREAD
    ).save_pretrained(folder)


def main() -> None:
    """Train or go on training, then write `build/make/clip`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=RUNS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device, emoji = pick_device(options.device), load_emoji()
    tokenizer = build_tokenizer(emoji.captions)
    tokens = tokens_of(tokenizer, emoji.captions)
    pictures = sources(emoji, options.out / "vae")
    model = build_clip(len(tokenizer)).to(device)

    def draw(generator: torch.Generator) -> Losses:
        index = torch.randperm(len(emoji.captions), generator=generator)[: options.batch]
        batch = disturbed(varied(pictures, index, REACH, generator), generator)
        chosen = {name: value[index].to(device) for name, value in tokens.items()}
        return contrast(model, batch.to(device), chosen)

    average = copy_state(model)
    plan = Plan(options.out / "clip-run", options.minutes, options.rate, decay=0.99)
    log_to(options.out / "clip.jsonl", train(plan, model, average, draw))
    model.load_state_dict(average)
    save(model, tokenizer, options.out / "clip")


if __name__ == "__main__":
    main()
