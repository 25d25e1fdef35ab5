"""Pictures as data URLs: PNG that carries recipe and seed, so that a picture saved from the page can be made again."""

from __future__ import annotations

import base64
import io
from typing import Any

from engine.core.recipe import Recipe
from engine.core.record import Metric
from explorer.backend import Compared, Made
from explorer.wording import metric_title, metric_value


def data_url(picture: Any, recipe: Recipe | None) -> str:
    """One picture as `data:image/png;base64,...`."""
    from engine.live.png import png_bytes

    return "data:image/png;base64," + base64.b64encode(png_bytes(picture, recipe)).decode()


def plain_url(pixels: Any) -> str:
    """A picture without recipe or seed, uint8 [H, W, 3], as a data URL."""
    from PIL import Image

    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "PNG")
    return "data:image/png;base64," + base64.b64encode(held.getvalue()).decode()


def side(made: Made, caption: str, recipe: Recipe) -> dict[str, Any]:
    """One side of the compare pane."""
    title, _, detail = caption.partition(" · ")
    return {"caption": title, "detail": detail, "images": [data_url(p, recipe) for p in made.pictures]}


def labels(made: Made) -> list[str]:
    """What each picture is: prompt, seed, and what of the prompt the model does not read."""
    return [f"{p.prompt or 'no prompt'} · seed {p.seed}{cut(p)}" for p in made.pictures]


def cut(picture: Any) -> str:
    """That a prompt is longer than the model reads; "" where it is not."""
    if not picture.cut_tokens:
        return ""
    return f" · the last {picture.cut_tokens} tokens of the prompt are beyond what the model reads"


def metric_row(metric: Metric) -> dict[str, Any]:
    """One cell of the metrics strip."""
    return {"title": metric_title(metric.name), "value": metric_value(metric), "n": metric.n,
            "low": metric.low, "high": metric.high, "better": "higher" if metric.higher_is_better else "lower"}


def comparison(compared: Compared, captions: tuple[str, str], recipes: tuple[Recipe, Recipe]) -> dict[str, Any]:
    """The whole compare pane."""
    return {
        "a": side(compared.a, captions[0], recipes[0]), "b": side(compared.b, captions[1], recipes[1]),
        "labels": labels(compared.a), "metrics": [metric_row(m) for m in compared.metrics],
        "progress": None, "error": None, "stale": False, "region": None,
    }


def grid_column(value: dict[str, Any], caption: str, pictures: Any, recipe: Recipe) -> dict[str, Any]:
    """The grid with one more column of pictures."""
    rows = value["rows"] or [{"title": p.prompt or "no prompt", "detail": f"seed {p.seed}", "cells": []}
                             for p in pictures]
    filled = [{**row, "cells": [*row["cells"], data_url(p, recipe)]} for row, p in zip(rows, pictures, strict=True)]
    title, _, detail = caption.partition(" · ")
    columns = [*value["columns"], {"title": title, "detail": detail}]
    return {**value, "columns": columns, "rows": filled, "progress": None, "error": None}
