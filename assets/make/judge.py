"""Measure the shipped models against their bars and print the table.

python -m assets.make.judge [--models emoji-unet emoji-dit] [--captions 256]
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from assets.make.autoencoder import measure_psnr_db
from assets.make.clip import reconstructed
from assets.make.configs import DENOISERS
from assets.make.dataset import MODELS, Emoji, load_emoji
from assets.make.retrieval import ClipJudge, hits, pixel_closeness
from assets.make.sampling import load_pipeline, sample

PSNR_GOAL_DB, PSNR_FLOOR_DB, RETRIEVAL_BAR = 28.0, 24.0, 0.9
DRAW_SEED = 1234  # which captions are asked for


def asked_for(count: int, total: int) -> torch.Tensor:
    """The captions of the test, the same in every run."""
    generator = torch.Generator().manual_seed(DRAW_SEED)
    return torch.randperm(total, generator=generator)[:count].sort().values


def judged(pictures: torch.Tensor, truth: torch.Tensor, emoji: Emoji, clip: ClipJudge) -> dict:
    """Both judges' shares for one set of pictures."""
    by_clip = hits(clip.closeness(pictures), truth)
    by_pixels = hits(pixel_closeness(pictures, emoji.pictures), truth)
    return {"clip": asdict(by_clip), "pixels": asdict(by_pixels)}


def seed_spread(one: torch.Tensor, other: torch.Tensor) -> float:
    """Root mean square difference between two seeds of the same prompts, in [0, 1]."""
    return ((one.float() - other.float()) / 255).square().mean().sqrt().item()


def measure(models: list[str], count: int, folder: Path = MODELS) -> dict:
    """The figures of the table."""
    emoji = load_emoji(folder / "emoji-data")
    truth = asked_for(count, len(emoji.captions))
    prompts = [emoji.captions[i] for i in truth]
    clip = ClipJudge(emoji.captions, folder / "emoji-clip")
    vae = AutoencoderKL.from_pretrained(folder / models[0] / "vae", dtype=torch.float32)
    real = emoji.pictures[truth]
    table = {
        "psnr_db": measure_psnr_db(vae.eval(), emoji.pictures),
        "captions": count,
        "glyphs": judged(real, truth, emoji, clip),
        "autoencoder": judged(reconstructed(vae, real), truth, emoji, clip),
    }
    for name in models:
        pipeline = load_pipeline(name, folder)
        pictures = sample(name, pipeline, prompts, list(range(count)))
        again = sample(name, pipeline, prompts[:32], list(range(count, count + 32)))
        row = judged(pictures, truth, emoji, clip)
        table[name] = {**row, "seed_spread": seed_spread(pictures[:32], again[: len(pictures)])}
    return table


def passed(table: dict) -> bool:
    """Whether every bar is met (the floor, for the autoencoder)."""
    shares = [row[j]["top"] for n, row in table.items() if n in DENOISERS for j in ("clip", "pixels")]
    return table["psnr_db"] >= PSNR_FLOOR_DB and min(shares, default=1.0) >= RETRIEVAL_BAR


def show(table: dict) -> None:
    """One line per kind of picture."""
    print(f"autoencoder {table['psnr_db']:.2f} dB (goal {PSNR_GOAL_DB}, floor {PSNR_FLOOR_DB})")
    print(f"{'pictures':12} clip top-1 top-5   pixels top-1 top-5   n={table['captions']}")
    for name, row in table.items():
        if isinstance(row, dict):
            shares = [row[judge][k] for judge in ("clip", "pixels") for k in ("first", "top")]
            cells = "{:10.1%} {:6.1%} {:12.1%} {:6.1%}".format(*shares)
            spread = f"   seeds differ by {row['seed_spread']:.3f}" if "seed_spread" in row else ""
            print(f"{name:12} {cells}{spread}")
    print("all bars met" if passed(table) else "a bar is missed")


def main() -> None:
    """Print the table; exit code 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", choices=sorted(DENOISERS), default=sorted(DENOISERS))
    parser.add_argument("--captions", type=int, default=256)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--folder", type=Path, default=MODELS)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = measure(options.models, options.captions, options.folder)
    show(table)
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")
    raise SystemExit(0 if passed(table) else 1)


if __name__ == "__main__":
    main()
