"""What an edit adds to plain generation: from dropping a slider to the finished image, over one in full precision.

Every round takes in turn, in one run: an image in plain full precision, then each edit with the image after it. An
edit starts from all layers at 4 bits and moves one block (the one with most layers) or all layers to 3 bits; bringing
the model back to where a side starts is not timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from engine.bench.machine import median, percentile

FROM, TO = 4, 3  # bits


def run(model: str = "emoji-unet", rounds: int = 15) -> dict[str, Any]:
    """One block (a dropped slider) and all layers, each against plain full-precision generation.

    `n` rounds after one that warms up; `peer` plain full-precision generation; `ratio` the peer's median seconds / the
    median of moving all layers and generating. Per edit, p50 and p95: `extra_*`, moving and generating - the
    full-precision image of the same round; `switch_*`, moving the layers alone. `*_processor_*` are the same in
    processor time over all threads, which a busy machine disturbs less.
    """
    from engine.core.recipe import Recipe, uniform_bits
    from engine.live.apply import apply_all
    from engine.live.generate import pictures
    from engine.live.model import open_model
    from engine.live.request import Request

    live = open_model(model)
    structure = live.structure
    low, start = uniform_bits(structure, TO), uniform_bits(structure, FROM)
    block = max(structure.level("block"), key=lambda b: len(b.layers))
    in_block = {structure.layer(n).choice for n in block.layers}
    edits = {"block": start.with_options({n: low.option(n) for n in in_block}), "all": low}
    request = Request(prompts=("red apple",) if live.limits.conditioning == "text" else ("",))
    seconds: dict[str, list[np.ndarray]] = {}  # per round: by the clock, of the processor

    def took(name: str, call: Callable[[], Any]) -> np.ndarray:
        begun = time.perf_counter(), time.process_time()
        call()
        seconds.setdefault(name, []).append(np.subtract((time.perf_counter(), time.process_time()), begun))
        return seconds[name][-1]

    for _ in range(rounds + 1):
        apply_all(live, Recipe(start.model, {}))
        plain = took("plain", lambda: pictures(live, request))
        for kind, recipe in edits.items():
            apply_all(live, start)
            switch = took(f"switch_{kind}", lambda recipe=recipe: apply_all(live, recipe))
            whole = switch + took(f"image_{kind}", lambda: pictures(live, request))
            seconds.setdefault(f"edit_{kind}", []).append(whole)
            seconds.setdefault(f"extra_{kind}", []).append(whole - plain)
    live.close()
    counted = {name: np.transpose(values[1:]).tolist() for name, values in seconds.items()}
    figures: dict[str, Any] = {}
    for name in (f"{what}_{kind}" for what in ("extra", "switch") for kind in edits):
        for clock, values in zip(("", "processor_"), counted[name], strict=True):
            figures[f"{name}_{clock}p50_s"] = median(values)
            figures[f"{name}_{clock}p95_s"] = percentile(values, 0.95)
    return {
        "model": model, "n": rounds, "peer": "plain full-precision generation, in turn with each edit in one run",
        "ratio": median(counted["plain"][0]) / median(counted["edit_all"][0]),
        "plain_full_precision_s": median(counted["plain"][0]),
        "bits": f"{FROM} to {TO}", "block_choices": len(in_block), "all_choices": len(structure.choices), **figures,
    }
