"""`switch`: moving recipes at full size: one slider, all layers between 4 and 3 bits, and everything back.

Without weights here the model is a random twin of its full size. The store is built first (a process of its own,
kept in the scratch folder); the model is opened in the checkpoint's precision. Peak memory is
that of the process, pages of mapped files counted; `own_gib` is what it holds alone after the moves.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.bench.machine import median
from engine.bench.process import engine_command, run_process
from engine.bench.scratch import measured_source, scratch_dir
from engine.core.errors import EngineError
from engine.core.recipe import Recipe, uniform
from engine.core.resident import memory_of, peak_memory
from engine.live.apply import apply_all, restore
from engine.live.model import Model, open_model
from engine.live.originals import live_weight
from engine.models.structure import read_structure

GOAL_SECONDS = 20.0  # all layers of SDXL from 4 to 3 bits
PRECISION = {16: "float16", 32: "float32"}


def run(model: str = "sdxl", rounds: int = 3, scratch: str | None = None) -> dict[str, Any]:
    """Seconds of each move (medians over `rounds`; `*_first` reads and checks the store's files for the first time).

    Raises:
        EngineError: there is no room, or the model cannot be opened.
    """
    import torch

    source = str(measured_source(model, scratch))
    place = scratch_dir(scratch) / f"switch-{Path(source).name}"
    run_process(engine_command("quantize", source, "--store", str(place), "--json", "--options", "uaq-3", "uaq-4"))
    dtype = PRECISION[read_structure(source).precision_bits]
    start = time.perf_counter()
    live = open_model(source, dtype=dtype, store=place)
    opened = time.perf_counter() - start
    try:
        figures = moves(live, rounds)
        own = memory_of("self").get("RssAnon", 0) / 2**30
    finally:
        live.close()
    return {
        "model": model, "source": Path(source).name, "dtype": dtype, "threads": torch.get_num_threads(), "n": rounds,
        "opening_s": opened, **figures, "peak_gib": peak_memory() / 2**30, "own_gib": own,
        "checkpoint_gib": sum(p.stat().st_size for p in Path(source).rglob("*.safetensors")) / 2**30
        if Path(source).is_dir() else 0.0,
        "ratio": figures["all_4_to_3_s"] / figures["block_s"], "peer": "moving every layer, against the one block",
        "goal": f"SDXL's layers from 4 to 3 bits in {GOAL_SECONDS:.0f} s",
    }


def moves(live: Model, rounds: int) -> dict[str, Any]:
    """The moves themselves on an open model, which is at full precision before and afterwards.

    Raises:
        EngineError: a block's move touched another layer, or full precision did not come back bit for bit.
    """
    structure = live.structure
    three, four = uniform(structure, "uaq-3"), uniform(structure, "uaq-4")
    block = max(structure.level("block"), key=lambda b: sum(structure.layer(n).weights for n in b.layers))
    inside = {structure.layer(n).choice for n in block.layers}
    one = four.with_options({name: three.option(name) for name in inside})
    took: dict[str, list[float]] = {}

    def timed(name: str, move: Callable[[], int]) -> int:
        start = time.perf_counter()
        moved = move()
        took.setdefault(name, []).append(time.perf_counter() - start)
        return moved

    def to(name: str, recipe: Recipe) -> int:
        return timed(name, lambda: apply_all(live, recipe))

    for turn in range(rounds + 1):
        after = "_first" if turn == 0 else ""
        to(f"all_to_4{after}", four)
        _check(to(f"block{after}", one) == len(inside), "A slider moved more than its block")
        to(f"block_back{after}", four)
        _check(to(f"all_4_to_3{after}", three) == len(structure.choices), "Some layers did not move")
    timed("restore", lambda: restore(live))
    for layer in structure.layers:
        back = bool((live_weight(live.denoiser, layer).cpu() == live.originals.tensor(layer)).all())
        _check(back, f"{layer.name} did not come back bit for bit")
    weights = sum(structure.layer(n).weights for n in block.layers)
    return {"layers": len(structure.layers), "weights": sum(x.weights for x in structure.layers),
            "block": block.label, "block_layers": len(block.layers), "block_weights": weights,
            **{f"{name}_s": median(values) for name, values in took.items()}}


def _check(holds: bool, problem: str) -> None:
    if not holds:
        raise EngineError(f"{problem}; this is a defect of the program.")
