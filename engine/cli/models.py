"""`models`: what the catalogue knows, and whether the weights are on this machine."""

from __future__ import annotations

import argparse
from typing import Any

from engine.cli.table import aligned


def arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments beyond --json."""


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """One row per catalogue entry."""
    from engine.models.catalog import MODELS, weights_present

    rows = [
        {"name": row.name, "title": row.title, "denoiser_class": row.denoiser_class, "source": row.source,
         "weights": weights_present(row)}
        for row in MODELS.values()
    ]
    text = aligned(("name", "weights", "denoiser", "source"),
                   [(r["name"], "here" if r["weights"] else "-", r["denoiser_class"], r["source"]) for r in rows])
    return {"models": rows}, text
