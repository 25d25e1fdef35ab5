"""What an edit adds to plain generation: from dropping a slider to the finished image, over one in full precision.

Every round takes in turn, in one run: an image in plain full precision, then each edit with the image after it. An
edit starts from all layers at 4 bits and moves one block (the one with most layers) or all layers to 3 bits; bringing
the model back to where a side starts is not timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from engine.bench.machine import median, percentile

FROM, TO = 4, 3  # bits


def run(model: str = "emoji-unet", rounds: int = 15) -> dict[str, Any]:
    """One block (a dropped slider) and all layers, each against plain full-precision generation.

    `n` rounds after one that warms up; `peer` plain full-precision generation; `ratio` the peer's median seconds / the
    median of moving all layers and generating. Per edit, p50 and p95: `extra_*`, moving and generating - the
    full-precision image of the same round; `switch_*`, moving the layers alone.
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
    seconds: dict[str, list[float]] = {}

    def took(name: str, call: Callable[[], Any]) -> float:
        begun = time.perf_counter()
        call()
        seconds.setdefault(name, []).append(time.perf_counter() - begun)
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
    figures: dict[str, Any] = {}
    for kind in edits:
        for name in (f"extra_{kind}", f"switch_{kind}"):
            figures[f"{name}_p50_s"] = median(seconds[name][1:])
            figures[f"{name}_p95_s"] = percentile(seconds[name][1:], 0.95)
    return {
        "model": model, "n": rounds, "peer": "plain full-precision generation, in turn with each edit in one run",
        "ratio": median(seconds["plain"][1:]) / median(seconds["edit_all"][1:]),
        "plain_full_precision_s": median(seconds["plain"][1:]),
        "bits": f"{FROM} to {TO}", "block_choices": len(in_block), "all_choices": len(structure.choices), **figures,
    }
