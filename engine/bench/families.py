"""`families`: every covered family from a saved directory through inspect, store, recipe, generate, export and reload.

The pipelines are tiny and random; what is shown is that nothing is particular to a family. Each step checks itself and
a failure names the step.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from engine.core.errors import EngineError
from engine.core.option import Option, options_for
from engine.core.recipe import Recipe, load_recipe, model_ref, save_recipe
from engine.core.sizes import file_bytes
from engine.export.exporting import Exported, export
from engine.live.apply import applied
from engine.live.generate import pictures
from engine.live.model import Model, open_model
from engine.live.request import Request
from engine.live.store import build, requests
from engine.live.streaming import opened_store
from engine.models.quiet import quiet
from engine.models.structure import read_structure
from engine.models.tiny import TINY

STEPS = 2
SEED = 11
ROUNDING = 1e-5  # of pictures in [0, 1]: the same weights at other addresses, added in another order


def run(model: str = "") -> dict[str, Any]:
    """A row per family, or of the one named.

    Raises:
        EngineError: a step failed; family and step are named.
    """
    names = [model] if model in TINY else list(TINY)
    with tempfile.TemporaryDirectory(prefix="quantscape-families-") as place:
        rows = [walk(name, Path(place)) for name in names]
    return {"n": len(rows), "peer": "the same pipeline in full precision, and its preview", "rows": rows}


def walk(name: str, place: Path) -> dict[str, Any]:
    """One family through all steps; figures of each.

    Args:
        name: a key of `TINY`.
        place: folder to write to.

    Raises:
        EngineError: a step failed.
    """
    start = time.perf_counter()
    home = place / name
    with quiet():
        TINY[name]().save_pretrained(home)
    with _step(name, "inspect"):
        structure = read_structure(home)
    with _step(name, "store"):
        wanted = {layer.name: in_turn(layer.kind, n) for n, layer in enumerate(structure.choices)}
        with opened_store(home, place / f"{name}-store") as store:
            todo = requests(store, set(wanted.values()))
            built = sum(record.options for record in build(store, todo))
            _holds(not requests(store, set(wanted.values())), "a finished store is not found complete")
    model = open_model(home, store=place / f"{name}-store")
    try:
        found = _edited(name, model, Recipe(model_ref(structure), wanted), place)
    finally:
        model.close()
    return {"family": name, "layers": len(structure.layers), "choices": len(structure.choices),
            "nodes": len(structure.nodes), "edges": len(structure.edges), "stored options": built, **found,
            "seconds": round(time.perf_counter() - start, 2)}


def _edited(name: str, model: Model, recipe: Recipe, place: Path) -> dict[str, Any]:
    request = Request(prompts=("a red apple",) if model.limits.conditioning == "text" else ("",), seeds=(SEED,),
                      steps=STEPS)
    with _step(name, "recipe"):
        save_recipe(place / f"{name}.recipe.json", recipe, model.structure)
        recipe = load_recipe(place / f"{name}.recipe.json")
    with _step(name, "generate"):
        full = pictures(model, request, exact=True)[0]
        with applied(model, recipe):
            preview = pictures(model, request, exact=True)[0]
        _holds(_apart(full, preview) > 0, "the recipe changes nothing")
        _holds(_apart(full, pictures(model, request, exact=True)[0]) == 0, "full precision did not come back")
    with _step(name, "export"):
        done = [e for e in export(model, recipe, "packed", place / f"{name}-packed") if isinstance(e, Exported)][-1]
    with _step(name, "reload"):
        from engine.export.packed_loader import load_packed

        with quiet():
            model.pipeline = load_packed(done.directory)
        model.pipeline.set_progress_bar_config(disable=True)
        model.denoiser = getattr(model.pipeline, model.denoiser_name)
        again = _apart(preview, pictures(model, request, exact=True)[0])
        _holds(again < ROUNDING, f"the reloaded file makes another picture (difference {again:.3g})")
    promised = file_bytes(model.structure, recipe.options)
    return {"picture moved by": _apart(full, preview), "reloaded difference": done.difference.output,
            "reloaded picture": again, "MB promised": promised / 1e6, "MB on disk": done.denoiser_bytes / 1e6}


def in_turn(kind: str, number: int) -> Option:
    """Methods in turn, at 4 bits where they have a choice."""
    offered = [o for o in options_for(kind) if o.bits == 4 or o.method == "int8"]
    return offered[number % len(offered)]


def _apart(a: Any, b: Any) -> float:
    return float(np.abs(a.exact - b.exact).max())


@contextmanager
def _step(family: str, step: str) -> Iterator[None]:
    try:
        yield
    except EngineError as failure:
        raise EngineError(f"{family}, {step}: {failure}") from None


def _holds(fact: bool, problem: str) -> None:
    if not fact:
        raise EngineError(f"{problem}; this is a defect of the program.")
