"""Where shipped assets and the user's cache live."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "QUANTSCAPE_CACHE"


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
