"""A tiny model that evidence can be made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from engine.core.places import CACHE_VARIABLE
from engine.core.record import Scores
from engine.live.model import open_model
from engine.models.tiny import TINY
from engine.providers.files import save_scores, scores_path
from engine.providers.table import IMAGE_MSE
from engine.providers.weight_error import weight_error
from engine.study.job import Job
from engine.study.runner import Plan, run_study


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder: `model` with weight errors and (made-up) damages of single layers, `study.sqlite` of 24 trials of it.
    """
    folder = tmp_path_factory.mktemp("tiny")
    patch = pytest.MonkeyPatch()
    patch.setenv(CACHE_VARIABLE, str(folder / "cache"))
    TINY["dit"]().save_pretrained(folder / "model")
    model = open_model(str(folder / "model"))
    try:
        errors = next(s for s in weight_error(model) if isinstance(s, Scores))
        alone = {name: {"uaq-3": row["uaq-3"] * (i + 1) / 1e3} for i, (name, row) in enumerate(errors.layers.items())}
        measured = replace(errors, provider="measured", unit=IMAGE_MSE, layers=alone, blocks={},
                           about={"images": "2", "steps": "1"})
        for scores in (errors, measured):
            save_scores(scores_path(model.structure, scores.provider), scores)
    finally:
        model.close()
    list(run_study(folder / "study.sqlite", Plan(Job(str(folder / "model"), images=2, steps=1, threads=1), 24)))
    yield folder
    patch.undo()
