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
def predictor(table: TrialTable) -> Predictor:
    """Damage models, small networks and their blend, fitted to the 120 recipes."""
    training = Training(epochs=14, hidden=16, batch=32, weight=0.1, patience=14)
    return fitted(fit_predictor(table, training, about={"study": "planted", "images": "8"}))
