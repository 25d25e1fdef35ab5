"""Draw the logged losses of all models as one SVG of small charts.

python -m assets.make.curves --logs assets/make/logs --out assets/make/curves.svg
"""

import argparse
import json
import math
from pathlib import Path

WIDTH, HEIGHT, MARGIN = 360, 150, 34
SMOOTHED = 5  # records averaged per point
CHARTS = {  # log -> term, and what is drawn
    "autoencoder": ("mse", "autoencoder: PSNR of training batches, dB"),
    "decoder": ("mse", "decoder alone: PSNR of training batches, dB"),
    "clip": ("loss", "CLIP: contrastive loss"),
    "emoji-unet": ("loss", "emoji-unet: velocity error"),
    "emoji-dit": ("loss", "emoji-dit: velocity error"),
}


def psnr_db(mse: float) -> float:
    """From the error in the range -1..1, which is twice as wide as 0..1."""
    return -10 * math.log10(mse / 4)


def read_points(path: Path, term: str) -> list[tuple[float, float]]:
    """(minutes, value); a resumed run repeats a few steps, of which the last counts."""
    records = {r["step"]: r for r in map(json.loads, path.read_text().splitlines())}
    rows = [records[step] for step in sorted(records)]
    convert = psnr_db if term == "mse" else float
    points = []
    for end in range(1, len(rows) + 1):
        part = rows[max(0, end - SMOOTHED) : end]
        mean = sum(row[term] for row in part) / len(part)
        points.append((rows[end - 1]["seconds"] / 60, convert(mean)))
    return points


def chart(points: list[tuple[float, float]], title: str, top: int) -> str:
    """One titled line with its extremes written beside."""
    low, high = (f(value for _, value in points) for f in (min, max))
    end, span = points[-1][0], max(high - low, 1e-9)
    width, height = WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN
    bottom = top + HEIGHT - MARGIN
    path = " ".join(
        f"{MARGIN + width * minute / end:.1f},{bottom - height * (value - low) / span:.1f}" for minute, value in points
    )
    labels = [
        (MARGIN, top + MARGIN - 10, "start", title),
        (MARGIN - 4, top + MARGIN + 4, "end", f"{high:.3g}"),
        (MARGIN - 4, bottom, "end", f"{low:.3g}"),
        (WIDTH - MARGIN, bottom + 14, "end", f"{end:.0f} min"),
        (MARGIN, bottom + 14, "start", f"ends at {points[-1][1]:.3g}"),
    ]
    texts = "".join(f'<text x="{x}" y="{y}" text-anchor="{a}">{t}</text>' for x, y, a, t in labels)
    frame = f'<rect x="{MARGIN}" y="{top + MARGIN}" width="{width}" height="{height}" class="frame"/>'
    return f'{frame}<polyline points="{path}"/>{texts}'


def draw(logs: Path) -> str:
    """The whole SVG."""
    parts = []
    for name, (term, title) in CHARTS.items():
        path = logs / f"{name}.jsonl"
        if path.exists():
            parts.append(chart(read_points(path, term), title, HEIGHT * len(parts)))
    style = (
        "text{font:9px sans-serif;fill:#555}polyline{fill:none;stroke:#1a73b8;stroke-width:1.5}"
        ".frame{fill:none;stroke:#ccc}"
    )
    size = f'width="{WIDTH}" height="{HEIGHT * len(parts)}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{style}</style>{"".join(parts)}</svg>\n'


def main() -> None:
    """Write the SVG."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--logs", type=Path, default=Path("build/make"))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.write_text(draw(options.logs))
    print(options.out)


if __name__ == "__main__":
    main()
