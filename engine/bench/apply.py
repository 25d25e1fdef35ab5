"""What editing costs on top of generating: one image under a changed recipe against plain full precision.

`ratio` = (switch all layers between 4 and 3 bits and generate) / (generate in full precision), the two
taken in turn in one run; `switch_*` are the seconds of moving layers alone, `extra_s` what an edit adds.
"""

from __future__ import annotations

import itertools
import time
from typing import Any

from engine.bench.machine import interleaved, median, percentile


def run(model: str = "emoji-unet", rounds: int = 15) -> dict[str, Any]:
    """One block (a dropped slider) and all layers, each against plain generation."""
    from engine.core.recipe import Recipe, uniform_bits
    from engine.live.apply import apply
    from engine.live.generate import generate
    from engine.live.model import open_model
    from engine.live.request import Request

    live = open_model(model)
    structure = live.structure
    three, four = uniform_bits(structure, 3), uniform_bits(structure, 4)
    block = max(structure.level("block"), key=lambda b: len(b.layers))
    in_block = {structure.layer(n).choice for n in block.layers}
    one = four.with_options({n: three.option(n) for n in in_block})
    full = Recipe(four.model, {})
    request = Request(prompts=("red apple",) if live.limits.conditioning == "text" else ("",))
    switches: dict[str, list[float]] = {"all": [], "block": []}
    turns = {"all": itertools.cycle([three, four]), "block": itertools.cycle([one, four])}

    def picture() -> None:
        list(generate(live, request))

    def edit(kind: str) -> None:
        start = time.perf_counter()
        list(apply(live, next(turns[kind])))
        switches[kind].append(time.perf_counter() - start)
        picture()

    list(apply(live, full))
    untouched = interleaved({"plain": picture}, rounds)["plain"]
    list(apply(live, four))
    both = interleaved({"plain": picture, "block": lambda: edit("block")}, rounds)
    list(apply(live, four))
    every = interleaved({"plain": picture, "all": lambda: edit("all")}, rounds)
    live.close()
    return {
        "model": model, "n": rounds, "peer": "plain generation, interleaved with each edit in one run",
        "ratio": median(both["plain"]) / median(both["block"]),
        "plain_full_precision_s": median(untouched),
        "extra_block_s": median(both["block"]) - median(both["plain"]),
        "extra_all_s": median(every["all"]) - median(every["plain"]),
        "switch_block_layers": len(in_block),
        "switch_block_s": median(switches["block"][1:]), "switch_all_s": median(switches["all"][1:]),
        "switch_all_p95_s": percentile(switches["all"][1:], 0.95),
    }
