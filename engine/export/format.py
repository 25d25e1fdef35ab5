"""The record of an export format: how it plans, writes, is reopened and compared, and is used from Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.core.graph import Structure
from engine.core.recipe import Recipe
from engine.export.plan import ExportPlan
from engine.export.verify import Difference
from engine.live.model import Model


@dataclass(frozen=True, slots=True)
class Written:
    """Progress of writing: `done` of `of` pieces, the last of which was `what`."""

    done: int
    of: int
    what: str


@dataclass(frozen=True)
class Format:
    """One row of the registry.

    Attributes:
        name: what the command line calls it.
        title: what the explorer calls it.
        about: one sentence.
        is_pipeline: whether the directory holds a whole pipeline (or the recipe alone).
        plan: what it would hold; needs no weights.
        write: writes the denoiser's part into a directory whose other components are there; reports progress.
        verify: reopens the directory and compares it with the live model, which has the plan's recipe applied.
        snippet: Python that loads the directory named.
    """

    name: str
    title: str
    about: str
    is_pipeline: bool
    plan: Callable[[Structure, Recipe], ExportPlan]
    write: Callable[[Model, ExportPlan, Path], Iterator[Written]]
    verify: Callable[[Model, ExportPlan, Path], Difference]
    snippet: Callable[[ExportPlan, str], str]
