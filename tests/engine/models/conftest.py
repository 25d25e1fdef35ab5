"""Tiny pipelines of every family, built and saved once per run."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tiny models are slower on several threads, and other work may share the processor."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny() -> Callable[[str], Any]:
    """name -> the one pipeline of that name; not to be changed."""
    from engine.models.tiny import TINY

    return cache(lambda name: TINY[name]())


@pytest.fixture(scope="session")
def saved(tiny: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """name -> directory of the saved pipeline; not to be changed."""
    from engine.models.quiet import quiet

    root = tmp_path_factory.mktemp("saved")

    @cache
    def save(name: str) -> Path:
        with quiet():
            tiny(name).save_pretrained(root / name)
        return root / name

    return save
