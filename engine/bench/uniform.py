"""Every method at every width, uniform: stored bits, PSNR and feature distance to full precision, and a picture.

Not a race but the first table anyone asks for; each row is one recipe on the same prompts and seeds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from engine.core.errors import InputError

BITS = (8, 6, 4, 3, 2)
SHOWN = 8
RATIO_OF = "uaq-4"


def run(model: str = "emoji-unet", rounds: int = 15) -> dict[str, Any]:
    """`rounds` (`n`) is how many images each recipe makes (calibration prompts). The picture is `uniform-MODEL.png`.

    `peer` is full precision; `ratio` its stored bytes / those of `RATIO_OF`: size alone, for quality is in the rows.

    Raises:
        InputError: fewer than two images.
    """
    from engine.core.option import METHODS
    from engine.core.recipe import Recipe, bits_per_weight, model_ref, sizes, uniform
    from engine.live.apply import apply_all
    from engine.live.generate import pictures
    from engine.live.model import open_model
    from engine.metrics.compare import Reference, compare
    from engine.metrics.features import find_extractor
    from engine.providers.prompts import request_for, split_of

    if rounds < 2:
        raise InputError("bench uniform needs at least two images (--rounds).")
    live = open_model(model)
    request = request_for(split_of(live), "calibration", rounds)
    apply_all(live, Recipe(model_ref(live.structure), {}))
    full = pictures(live, request, exact=True)
    reference = Reference(full, find_extractor(live.directory))
    rows, columns = [], {"fp16": full}
    for method in (m for m in METHODS.values() if not m.fixed):
        for bits in BITS:
            recipe = uniform(live.structure, f"{method.name}-{bits}")
            apply_all(live, recipe)
            made = pictures(live, request, exact=True)
            values = {m.name: m.value for m in compare(reference, made)}
            stored = bits_per_weight(live.structure, recipe.options)
            rows.append({"option": f"{method.name}-{bits}", "stored_bits": stored,
                         **{k: v for k, v in values.items() if k.partition("[")[0] in ("psnr", "feature_distance")}})
            columns[f"{method.name}-{bits}"] = made
    live.close()
    stored_bytes = sizes(live.structure, uniform(live.structure, RATIO_OF))
    picture = _picture(columns, Path(f"uniform-{Path(model).name}.png"))
    return {"model": model, "n": rounds, "peer": "full precision, same prompts and seeds",
            "ratio": stored_bytes["full_bytes"] / stored_bytes["bytes"], "ratio_of": f"stored bytes, to {RATIO_OF}",
            "rows": rows, "picture": str(picture)}


def _picture(columns: dict[str, Any], path: Path) -> Path:
    """Rows are recipes, columns prompts; the first row is full precision."""
    from PIL import Image, ImageDraw

    side = columns["fp16"][0].pixels.shape[0]
    label = 92
    sheet = Image.new("RGB", (label + SHOWN * (side + 4), len(columns) * (side + 4)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (name, made) in enumerate(columns.items()):
        draw.text((6, row * (side + 4) + side // 2 - 6), name, fill="black")
        for column, picture in enumerate(made[:SHOWN]):
            sheet.paste(Image.fromarray(np.asarray(picture.pixels)), (label + column * (side + 4), row * (side + 4)))
    sheet.save(path)
    return path
