"""Small pictures made in code: a face that falls apart as bits go down, as PNG data URLs."""

from __future__ import annotations

import base64
import io
import random

from PIL import Image, ImageDraw, ImageFilter

FACES = [
    ("#f6b73c", "#1b1b24"), ("#e2574c", "#2b1020"), ("#6fbf73", "#10251a"), ("#5b8def", "#101a33"),
    ("#b77bd8", "#2a1038"),
]  # fmt: skip


def face(index: int, harm: float, side: int = 64) -> str:
    """Picture `index`, damaged by `harm` (0 = none)."""
    skin, ink = FACES[index % len(FACES)]
    image = Image.new("RGB", (side * 4, side * 4), "white")
    draw, s = ImageDraw.Draw(image), side * 4 / 64
    rng = random.Random(index)
    draw.ellipse((6 * s, 6 * s, 58 * s, 58 * s), fill=skin, outline=ink, width=int(2 * s))
    look = rng.uniform(-4, 4) + 6 * harm
    for x in (22, 42):
        draw.ellipse(((x - 4 + look) * s, 21 * s, (x + 4 + look) * s, (31 + 4 * harm) * s), fill=ink)
    draw.arc((18 * s, 26 * s, 46 * s, (48 - 10 * harm) * s), 15, 165, fill=ink, width=int(3 * s))
    image = image.resize((side, side), Image.Resampling.LANCZOS)
    if harm:
        image = image.filter(ImageFilter.GaussianBlur(1.2 * harm))
        pixels, noise = image.load(), random.Random(index + 100)
        for y in range(side):
            for x in range(side):
                pixels[x, y] = tuple(max(0, min(255, c + int(noise.gauss(0, 22 * harm)))) for c in pixels[x, y])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
