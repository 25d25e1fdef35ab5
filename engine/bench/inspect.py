"""`inspect` of every catalogue row in processes of their own: facts, seconds over the bare import, memory, second call.

The first call begins with an empty cache and traces; the second reads the kept answer and must import no torch. Beside
wall time stands processor time, which a busy machine disturbs less. The bare import brings packages along that the
command does without (`engine.__main__.only_tracing`); `own` is what is left when importing the denoiser's class, as the
command does it, is taken off too.
"""

from __future__ import annotations

import json
import sys
import tempfile
from typing import Any

from engine.bench.machine import median
from engine.bench.process import Ran, run_process
from engine.core.errors import EngineError
from engine.models.catalog import MODELS

# Name -> layers (split halves counted), choices, bytes at full precision: Qua2SeDiMo and the published checkpoints.
FACTS = {
    "sd15": (294, 294, 3_436_308_480), "sdxl": (803, 803, 5_131_760_640), "dit-xl-2-512": (255, 201, 1_433_972_736),
    "pixart-alpha-512": (287, 287, 1_220_456_448), "pixart-sigma-1024": (287, 287, 1_220_456_448),
    "hunyuan-dit": (487, 487, 2_999_291_904),
}
CALL = """
import runpy, sys
sys.argv[1:] = ["inspect", {name!r}, "--json"]
try:
    runpy.run_module("engine", run_name="__main__", alter_sys=True)
finally:
    print("torch" in sys.modules or "diffusers" in sys.modules)
"""
BARE = "import torch, diffusers; diffusers.ModelMixin"
CLASS = "from engine.__main__ import only_tracing; only_tracing(); import torch, diffusers; diffusers.{name}"


def run(model: str = "", rounds: int = 3) -> dict[str, Any]:
    """A row per catalogue model, or of the one named; `over` is first call - bare import, the median of paired rounds,
    since a machine's speed drifts.

    Raises:
        EngineError: a fact does not hold, or the second call imported torch.
    """
    bare: list[Ran] = []
    rows = [_row(name, rounds, bare) for name in ([model] if model in MODELS else MODELS)]
    processor = median([r.processor_seconds for r in bare])
    return {"n": rounds, "bare_import_s": median([r.seconds for r in bare]), "bare_import_processor_s": processor,
            "bare_import_peak_gb": max(r.peak_bytes for r in bare) / 1e9, "peer": "import torch and diffusers alone",
            "ratio": processor / median([row["first processor s"] for row in rows]),
            "goal": "3 s over the bare import, 1.5 GB; second call 1 s without torch", "rows": rows}


def _row(name: str, rounds: int, bare: list[Ran]) -> dict[str, Any]:
    """Every round takes the bare import, the import of the class and the first call in turn; `bare` gets the first."""
    firsts: list[Ran] = []
    classes: list[Ran] = []
    own: list[Ran] = []
    with tempfile.TemporaryDirectory(prefix="quantscape-inspect-") as caches:
        for number in range(rounds):
            own.append(run_process([sys.executable, "-c", BARE]))
            classes.append(run_process([sys.executable, "-c", CLASS.format(name=MODELS[name].denoiser_class)]))
            first, found, _ = _call(name, f"{caches}/{number}")
            firsts.append(first)
        second, again, heavy = _call(name, f"{caches}/{rounds - 1}")
    bare += own
    if heavy or again != found:
        raise EngineError(f"The second look at {name} imported torch or gave another answer; this is a defect.")
    facts = (found["layers"], found["unique_layers"], found["fp_bytes"])
    if facts != FACTS.get(name, facts):
        raise EngineError(f"{name} has {facts} layers, choices and bytes, expected {FACTS[name]}; this is a defect.")
    over = [(f.seconds - b.seconds, f.processor_seconds - b.processor_seconds,
             f.processor_seconds - c.processor_seconds) for f, b, c in zip(firsts, own, classes, strict=True)]
    wall, processor, without_class = (round(median(list(column)), 2) for column in zip(*over, strict=True))
    return {"model": name, "layers": facts[0], "choices": facts[1], "fp bytes": facts[2],
            "as published": "yes" if name in FACTS else "-", "graph": f"{found['graph']['nodes']}/"
            f"{found['graph']['edges']}", "over s": wall, "over processor s": processor,
            "own processor s": without_class,
            "first processor s": round(median([f.processor_seconds for f in firsts]), 2),
            "peak GB": round(max(f.peak_bytes for f in firsts) / 1e9, 2),
            "second s": round(second.seconds, 2), "second processor s": round(second.processor_seconds, 2)}


def _call(name: str, cache: str) -> tuple[Ran, dict[str, Any], bool]:
    ran = run_process([sys.executable, "-c", CALL.format(name=name)], environment={"QUANTSCAPE_CACHE": cache})
    answer, heavy = ran.output.strip().splitlines()
    return ran, json.loads(answer), heavy == "True"
