"""`exports`: one export of every kind, reloaded in fresh processes: what changed, differences, bytes on disk.

One recipe that gives the layers every method at 4 bits in turn (so that each format shows what it holds, requantizes
and leaves). A first fresh process opens model and export and compares every weight and the outputs; a second runs the
very lines of "Copy as Python" and draws a picture, which is compared with the preview's.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.bench.families import in_turn
from engine.bench.process import ROOT, run_process
from engine.core.errors import EngineError
from engine.core.recipe import Recipe, model_ref
from engine.export.exporting import Exported, export, snippet
from engine.export.formats import FORMATS
from engine.live.apply import applied
from engine.live.model import Model, open_model
from engine.live.request import Request, checked
from engine.models.calls import call_arguments
from engine.models.catalog import MODELS, weights_present

SEED = 7
STEPS = 4
# Appended to the lines of "Copy as Python": draw with the arguments given, keep the pixels.
DRAW = """
import json, sys, numpy, torch
pipeline.set_progress_bar_config(disable=True)
picture = pipeline(**json.loads(sys.argv[1]), generator=torch.Generator().manual_seed({seed}), output_type="np").images
numpy.save(sys.argv[2], picture)
"""


def run(model: str = "") -> dict[str, Any]:
    """A row per format, for the model named or every shipped one.

    Raises:
        EngineError: an export is not what was previewed.
    """
    names = [model] if model else [name for name, row in MODELS.items() if weights_present(row)]
    rows = [row for name in names for row in _rows(name)]
    return {"n": len(rows), "peer": "the live preview of the same recipe", "rows": rows}


def _rows(name: str) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="quantscape-exports-") as place:
        live = open_model(name, store=Path(place) / "store")
        try:
            wanted = {x.name: in_turn(x.kind, n) for n, x in enumerate(live.structure.choices)}
            recipe = Recipe(model_ref(live.structure), wanted)
            return [_row(name, live, recipe, format, Path(place)) for format in FORMATS]
        finally:
            live.close()


def _row(name: str, live: Model, recipe: Recipe, format: str, place: Path) -> dict[str, Any]:
    target, start = place / format, time.perf_counter()
    events = export(live, recipe, format, target, accept_requantized=True)
    done = [e for e in events if isinstance(e, Exported)][-1]
    seconds = time.perf_counter() - start
    fresh = run_process([sys.executable, "-m", "engine.bench.reopened", name, format, str(target),
                         str(place / "store")]).record
    counts, plan = done.plan.counts, done.plan
    return {"model": name, "format": format, "exact": counts["exact"], "requantized": counts["requantized"],
            "left": counts["left"], "planned MB": plan.file_bytes / 1e6, "denoiser MB": done.denoiser_bytes / 1e6,
            "whole MB": done.total_bytes / 1e6, "weights differ": fresh["weight"], "outputs differ": fresh["output"],
            "of outputs up to": fresh["output_scale"], "picture differs": _copied(live, done, place),
            "seconds": round(seconds, 1)}


def _copied(live: Model, done: Exported, place: Path) -> str:
    """Run the lines of "Copy as Python" in a fresh process; how far its picture is from the preview's, in [0, 1]."""
    lines = snippet(done.plan, done.directory)
    if not FORMATS[done.plan.format].is_pipeline:
        return "no pipeline of its own"
    if '"cuda"' in lines and not torch.cuda.is_available():
        return "needs a GPU"
    text = "a red apple" if live.limits.conditioning == "text" else ""
    request = checked(Request(prompts=(text,), seeds=(SEED,), steps=STEPS), live.limits)
    arguments = dict(call_arguments(live.pipeline, request))
    with applied(live, done.plan.recipe), torch.no_grad():
        ours = live.pipeline(**arguments, generator=torch.Generator().manual_seed(SEED), output_type="np").images
    script, pixels = place / "copied.py", place / "picture.npy"
    script.write_text(lines + DRAW.format(seed=SEED))
    try:
        sent = json.dumps(arguments)
    except TypeError:
        raise EngineError(f"The arguments of {type(live.pipeline).__name__} cannot be handed to another process.") \
            from None
    run_process([sys.executable, str(script), sent, str(pixels)], environment={"PYTHONPATH": str(ROOT)})
    return f"{float(np.abs(np.load(pixels, allow_pickle=False) - ours).max()):.3g}"

