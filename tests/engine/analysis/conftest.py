"""Planted models and tables that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from engine.analysis.fitting import fit_predictor, fitted
from engine.analysis.planted import Plan, Truth, measure, plant
from engine.analysis.predictor import Predictor
from engine.analysis.training import Training
from engine.analysis.trials import TrialTable, subject_of, trial_table

LOUD = ("blocks.1.attn.k", "blocks.2.conv1", "blocks.3.ff.1")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Small tensors: threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def truth() -> Truth:
    """A small planted model, 8 blocks, 32 layers."""
    return plant(Plan(blocks=8), 0)


@pytest.fixture(scope="session")
def table(truth: Truth) -> TrialTable:
    """120 measured recipes of it."""
    trials = measure(truth, 120, 1)
    return trial_table(subject_of(truth.structure, truth.errors, trials), trials, "psnr")


@pytest.fixture(scope="session")
def loud() -> Truth:
    """A model of 4 blocks in which three layers matter a hundred times more."""
    return plant(Plan(blocks=4, spread=0.3, coupling=0.0, loud=LOUD, loudness=100.0), 1)


@pytest.fixture(scope="session")
def small(loud: Truth) -> TrialTable:
    """80 measured recipes of the model with loud layers: what `predictor` is fitted to."""
    trials = measure(loud, 80, 2)
    return trial_table(subject_of(loud.structure, loud.errors, trials), trials, "psnr")


@pytest.fixture(scope="session")
def tiny() -> TrialTable:
    """40 measured recipes of a model of 2 blocks: to fit many times."""
    planted = plant(Plan(blocks=2), 0)
    trials = measure(planted, 40, 1)
    return trial_table(subject_of(planted.structure, planted.errors, trials), trials, "psnr")


@pytest.fixture(scope="session")
def predictor(small: TrialTable) -> Predictor:
    """Every kind, fitted to the 80 recipes."""
    training = Training(epochs=8, hidden=12, batch=32, weight=0.1, patience=8, rate=2e-2)
    return fitted(fit_predictor(small, training, about={"study": "planted", "images": "8"}))
