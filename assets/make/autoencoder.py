"""Train the autoencoder: 64 px RGB to 8x8x16 latents and back.

python -m assets.make.autoencoder --minutes 30            both halves
python -m assets.make.autoencoder --decoder --minutes 30  then the decoder alone, latents fixed
"""

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from assets.make.augment import all_sizes, varied
from assets.make.configs import build_autoencoder
from assets.make.dataset import Emoji, load_emoji, to_signed, to_unit
from assets.make.training import Losses, Plan, copy_state, log_to, pick_device, train

RUNS = Path("build/make")
KL_WEIGHT = 2e-4
SQUARE_WEIGHT = 2.0
REACH = 4  # px; more than the denoisers ever see, so that their latents are well inside
LATENT_NOISE = 0.15  # of the latents' spread; the decoder must forgive a denoiser's small errors


def differences(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Image gradients along height and width."""
    return x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]


def picture_losses(output: torch.Tensor, target: torch.Tensor) -> Losses:
    """L1 for edges, squares for PSNR, L1 of gradients for thin lines."""
    pairs = zip(differences(output), differences(target), strict=True)
    edges = sum((a - b).abs().mean() for a, b in pairs)
    l1, square = (output - target).abs().mean(), (output - target).square().mean()
    return {"loss": l1 + SQUARE_WEIGHT * square + edges, "l1": l1, "edges": edges, "mse": square}


def joint_losses(model: AutoencoderKL, batch: torch.Tensor) -> Losses:
    """Both halves, with a light pull of the latents towards a normal distribution."""
    with torch.autocast(batch.device.type, torch.bfloat16):
        posterior = model.encode(batch).latent_dist
        output = model.decode(posterior.sample()).sample
    terms = picture_losses(output.float(), batch)
    mean, log_variance = posterior.mean.float(), posterior.logvar.float()
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    return {**terms, "loss": terms["loss"] + KL_WEIGHT * kl, "kl": kl}


def decoder_losses(model: AutoencoderKL, batch: torch.Tensor) -> Losses:
    """The decoder alone, from slightly wrong latents."""
    with torch.autocast(batch.device.type, torch.bfloat16):
        with torch.no_grad():
            latents = model.encode(batch).latent_dist.mean.float()
            latents += LATENT_NOISE * torch.randn_like(latents) / model.config.scaling_factor
        output = model.decode(latents).sample
    return picture_losses(output.float(), batch)


@torch.no_grad()
def latents_of(model: AutoencoderKL, pictures: torch.Tensor, batch: int = 64) -> torch.Tensor:
    """Means of the latents of uint8 pictures, unscaled: [N, 16, 8, 8]."""
    return torch.cat([model.encode(to_signed(p)).latent_dist.mean for p in pictures.split(batch)])


@torch.no_grad()
def measure_psnr_db(model: AutoencoderKL, pictures: torch.Tensor, batch: int = 64) -> float:
    """PSNR of the mean squared error over all pictures, RGB in [0, 1]."""
    total = 0.0
    for part in pictures.split(batch):
        output = model.decode(latents_of(model, part)).sample
        total += (to_unit(output) - part.float() / 255).square().mean(dim=(1, 2, 3)).sum().item()
    return -10 * torch.log10(torch.tensor(total / len(pictures))).item()


@torch.no_grad()
def centre(model: AutoencoderKL, latents: torch.Tensor) -> None:
    """Move each channel's mean to zero inside the 1x1 convolutions; the pictures stay the same."""
    offset = latents.mean(dim=(0, 2, 3))
    model.quant_conv.bias[: len(offset)] -= offset
    model.post_quant_conv.bias += model.post_quant_conv.weight[:, :, 0, 0] @ offset


def finish(model: AutoencoderKL, emoji: Emoji, folder: Path) -> None:
    """Give latents mean zero and a scale for unit variance, measure, and write the directory."""
    model = model.float().eval()
    latents = latents_of(model, emoji.pictures.to(model.device))
    if model.encoder.conv_in.weight.requires_grad:  # else the latents must stay as they are
        centre(model, latents)
        spread = (latents - latents.mean(dim=(0, 2, 3), keepdim=True)).std().item()
        model.register_to_config(scaling_factor=round(1 / spread, 5))
    print(f"PSNR {measure_psnr_db(model, emoji.pictures.to(model.device)):.2f} dB", flush=True)
    model.save_pretrained(folder)


def main() -> None:
    """Train or go on training, then write `build/make/vae`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--decoder", action="store_true", help="keep the encoder as it is")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=4e-3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=RUNS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device, emoji = pick_device(options.device), load_emoji()
    sizes = all_sizes(emoji.pictures)
    done = options.out / "vae"
    model = AutoencoderKL.from_pretrained(done) if options.decoder else build_autoencoder()
    model.to(device, memory_format=torch.channels_last)
    if options.decoder:
        model.encoder.requires_grad_(False)
        model.quant_conv.requires_grad_(False)
    losses = decoder_losses if options.decoder else joint_losses

    def draw(generator: torch.Generator) -> Losses:
        index = torch.randint(0, len(emoji.captions), (options.batch,), generator=generator)
        batch = to_signed(varied(sizes, index, REACH, generator)).to(device)
        return losses(model, batch.contiguous(memory_format=torch.channels_last))

    name = "decoder" if options.decoder else "autoencoder"
    average = copy_state(model)
    plan = Plan(options.out / name, options.minutes, options.rate)
    log_to(options.out / f"{name}.jsonl", train(plan, model, average, draw))
    model.load_state_dict(average)
    finish(model, emoji, done)


if __name__ == "__main__":
    main()
