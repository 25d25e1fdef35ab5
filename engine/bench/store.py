"""`store`: build a whole store in a process of its own: weights per second, peak memory, bytes on disk.

Without weights here the model is a random twin of its full size, written once into the scratch folder. The options are
the six of Qua2SeDiMo (three methods at 3 and 4 bits). The store is removed afterwards, the twin is kept.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from engine.bench.process import engine_command, run_process
from engine.bench.scratch import measured_source, scratch_dir
from engine.core.errors import EngineError
from engine.core.graph import Structure
from engine.core.option import Option
from engine.core.sizes import full_bytes, stored_bytes
from engine.models.catalog import MODELS
from engine.models.structure import read_structure

OPTIONS = tuple(Option(m, b) for m in ("uaq", "kmeans_c", "kmeans_a") for b in (3, 4))
GOAL_SECONDS, GOAL_BYTES = 900.0, 4 * 2**30  # the six options of SDXL


def run(model: str = "sdxl", scratch: str | None = None) -> dict[str, Any]:
    """Build `OPTIONS` of every layer; see the keys for units.

    `ratio` of bytes, the weights in full precision / the store; `peer` the former; `n` layer options built.
    `extrapolated_minutes` takes the measured rate to the weights of every catalogue model, nothing else;
    `extrapolated_processor_minutes` the rate per second of processor time, which all cores share.

    Raises:
        EngineError: there is no room, or the build fails.
    """
    import torch

    source = str(measured_source(model, scratch))
    structure = read_structure(source)
    place = scratch_dir(scratch) / f"store-{Path(source).name}"
    shutil.rmtree(place, ignore_errors=True)
    try:
        ran = run_process(engine_command("quantize", source, "--store", str(place), "--json", "--options",
                                         *map(str, OPTIONS)))
        built = ran.record
        found = sum(p.stat().st_size for p in place.rglob("*") if p.is_file())
        again = run_process(engine_command("quantize", source, "--store", str(place), "--json", "--options",
                                           *map(str, OPTIONS))).record
    finally:
        shutil.rmtree(place, ignore_errors=True)
    if again["options_built"]:
        raise EngineError(f"A finished store was not found complete: {again['options_built']} options were built "
                          f"again; this is a defect of the program.")
    weights = sum(layer.weights for layer in structure.layers)
    rate, processor = built["weights_per_second"], built["processor_seconds"]
    return {
        "model": model, "source": Path(source).name, "threads": torch.get_num_threads(), "n": built["options_built"],
        "peer": f"the checkpoint's weights, against all {len(OPTIONS)} options of them on disk",
        "ratio": full_bytes(structure) / found,
        "weights": weights, "options": " ".join(map(str, OPTIONS)), "seconds": built["seconds"],
        "process_seconds": ran.seconds, "processor_seconds": processor,
        "option_weights_per_second": rate,
        "option_weights_per_processor_second": built["weights"] / max(processor, 1e-9),
        "peak_resident_gib": built["peak_bytes"] / 2**30, "peak_own_gib": ran.own_bytes / 2**30,
        "largest_layer_float32_gib": 4 * max(layer.weights for layer in structure.layers) / 2**30,
        "checkpoint_gb": full_bytes(structure) / 1e9, "store_gb": found / 1e9,
        "promised_gb": promised_bytes(structure) / 1e9,
        "extrapolated_minutes": extrapolated(rate),
        "extrapolated_processor_minutes": extrapolated(built["weights"] / max(processor, 1e-9)),
        "goal": f"SDXL in {GOAL_SECONDS / 60:.0f} minutes under {GOAL_BYTES / 2**30:.0f} GiB",
    }


def promised_bytes(structure: Structure) -> int:
    """Bytes of the options of all layers by the size formulas."""
    return sum(stored_bytes(layer, option, structure.precision_bits)
               for layer in structure.layers for option in OPTIONS)


def extrapolated(rate: float) -> str:
    """Minutes every catalogue model takes at so many weights times options per second."""
    found = {name: sum(layer.weights for layer in read_structure(name).layers) for name in MODELS}
    return ", ".join(f"{name} {weights * len(OPTIONS) / rate / 60:.1f}" for name, weights in found.items())
