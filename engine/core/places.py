"""Where shipped assets and the user's cache live, and how files about a model are called."""

from __future__ import annotations

import os
import re
from pathlib import Path

CACHE_VARIABLE = "QUANTSCAPE_CACHE"
IDENTITY_DIGITS = 8


def assets_dir() -> Path:
    """The shipped `assets` folder: beside the packages in a checkout, inside `quantscape_assets` when installed."""
    checkout = Path(__file__).resolve().parents[2]
    beside = checkout / "assets"
    return beside if beside.is_dir() else checkout / "quantscape_assets"


def cache_dir() -> Path:
    """The user's cache folder for traces and stores; the variable QUANTSCAPE_CACHE moves it."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "quantscape"


def model_stem(name: str, identity: str) -> str:
    """`<name>-<digits of the identity>`: what files about a model begin with, so that they are found again."""
    plain = re.sub(r"[^\w-]+", "-", Path(name).name)[:60]
    return f"{plain}-{identity[:IDENTITY_DIGITS]}"
