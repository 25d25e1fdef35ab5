"""Draw 64 generated pictures under their real glyphs, to be judged by eye.

python -m assets.make.grid --model emoji-unet --out docs/demo-grid-unet.png
"""

import argparse
from pathlib import Path

import torch
from PIL import Image

from assets.make.configs import DENOISERS, IMAGE_SIZE
from assets.make.dataset import MODELS, load_emoji
from assets.make.judge import asked_for
from assets.make.sampling import load_pipeline, sample

COLUMNS, COUNT, GAP = 16, 64, 4


def place(sheet: Image.Image, picture: torch.Tensor, column: int, line: int, top: int) -> None:
    """Paste one uint8 picture [3, 64, 64]; `line` counts rows of pictures, `top` extra pixels."""
    left = GAP + column * (IMAGE_SIZE + GAP)
    tile = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
    sheet.paste(tile, (left, top + line * (IMAGE_SIZE + GAP)))


def draw_grid(real: torch.Tensor, made: torch.Tensor) -> Image.Image:
    """Pairs of rows: real glyphs above, what the model made of their names below."""
    rows = -(-len(made) // COLUMNS)
    cell = IMAGE_SIZE + GAP
    size = (GAP + COLUMNS * cell, rows * (2 * cell + 3 * GAP))
    sheet = Image.new("RGB", size, (255, 255, 255))
    for index in range(len(made)):
        row, column = divmod(index, COLUMNS)
        top = row * 3 * GAP + GAP
        place(sheet, real[index], column, 2 * row, top)
        place(sheet, made[index], column, 2 * row + 1, top)
    return sheet


def main() -> None:
    """Generate and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=sorted(DENOISERS), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=MODELS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    emoji = load_emoji(options.folder / "emoji-data")
    chosen = asked_for(COUNT, len(emoji.captions))
    prompts = [emoji.captions[i] for i in chosen]
    pipeline = load_pipeline(options.model, options.folder)
    made = sample(options.model, pipeline, prompts, list(range(COUNT)))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    draw_grid(emoji.pictures[chosen], made).save(options.out, optimize=True)
    print(options.out)


if __name__ == "__main__":
    main()
