"""`lowbit`: Linear layers on bitsandbytes' packed kernels against full precision: resident memory and time per step.

Sides are taken in turn within one process: the originals are released while a packed side runs and read back from the
checkpoint afterwards, so that resident memory is what each side really needs. A step is one call of the denoiser.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from engine.bench.machine import median
from engine.bench.scratch import measured_source
from engine.core.layer import Layer
from engine.core.option import parse_option
from engine.core.resident import resident_bytes
from engine.export.verify import example_call
from engine.live.kernels import out_of_files
from engine.live.model import Model, open_model
from engine.quant.bnb import EXECUTABLE, executed
from engine.quant.qweight import QuantizedWeight

METHODS = EXECUTABLE
WARM_UP = 1


Progress = Callable[[int, int], None]  # steps taken, of how many


def run(model: str = "emoji-unet", rounds: int = 15, scratch: str | None = None,
        progress: Progress | None = None) -> dict[str, Any]:
    """Per side: seconds per step, resident megabytes, bytes of the Linear weights; `ratio` = full time / nf4 time.

    Args:
        model: what to open; a catalogue model without weights here is a random twin of its full size.
        rounds: steps per side, after one that does not count.
        scratch: where twins are kept.
        progress: told of every step.
    """
    opened = open_model(measured_source(model, scratch))
    try:
        return measured(opened, rounds, progress)
    finally:
        opened.close()


def measured(model: Model, rounds: int, progress: Progress | None = None) -> dict[str, Any]:
    """`run` on an open model, which is at full precision before and afterwards."""
    layers = [layer for layer in model.structure.layers if layer.kind == "linear" and layer.name == layer.module]
    by_module = {layer.module: layer for layer in layers}
    sizes = {}
    for method in METHODS:  # quantized and written before anything is timed
        held = _packed(model, by_module, method)
        sizes[method] = sum(weight.size_bytes for weight in held.values())
        del held
    model.store.flush()
    out_of_files(model.denoiser)  # whose pages are resident whoever needs them
    inputs = example_call(model)
    seconds: dict[str, list[float]] = {side: [] for side in ("full", *METHODS)}
    resident: dict[str, list[float]] = {side: [] for side in seconds}
    outputs: dict[str, torch.Tensor] = {}
    for turn in range(rounds + WARM_UP):
        for number, side in enumerate(seconds):
            if progress:
                progress(turn * len(seconds) + number, (rounds + WARM_UP) * len(seconds))
            found, took, memory = _side(model, by_module, side, inputs)
            outputs[side] = found
            if turn >= WARM_UP:
                seconds[side].append(took)
                resident[side].append(memory)
    total = sum(layer.weights for layer in model.structure.layers)
    return {
        "ratio": median(seconds["full"]) / median(seconds["nf4"]), "peer": "full precision, float32", "n": rounds,
        "linear_share": sum(layer.weights for layer in layers) / total, "layers": len(layers),
        **{f"{side}_seconds_per_step": median(values) for side, values in seconds.items()},
        **{f"{side}_resident_mb": median(values) / 1e6 for side, values in resident.items()},
        "full_linear_mb": sum(layer.weights for layer in layers) * torch.float32.itemsize / 1e6,
        **{f"{method}_linear_mb": size / 1e6 for method, size in sizes.items()},
        **{f"{method}_output_error": float((outputs[method] - outputs["full"]).norm() / outputs["full"].norm())
           for method in METHODS},
    }


def _packed(model: Model, by_module: Mapping[str, Layer], method: str) -> dict[str, QuantizedWeight]:
    return {name: model.store.load(layer.name, parse_option(method)) for name, layer in by_module.items()}


def _side(model: Model, by_module: Mapping[str, Layer], side: str,
          inputs: dict[str, Any]) -> tuple[torch.Tensor, float, float]:
    """Output, seconds and resident bytes of one step, with nothing of the other sides in memory."""
    if side not in METHODS:
        model.originals.release()
        return _step(model, inputs)
    # Handed over at once: the modules keep copies of their own, and then the store's files are let go.
    with executed(model.denoiser, _packed(model, by_module, side),
                  reload=lambda name: model.originals.tensor(by_module[name])):
        model.store.release()
        model.originals.release()
        return _step(model, inputs)


def _step(model: Model, inputs: dict[str, Any]) -> tuple[torch.Tensor, float, float]:
    memory = resident_bytes()
    with torch.no_grad():
        start = time.perf_counter()
        result = model.denoiser(**inputs)
        took = time.perf_counter() - start
    first = result[0] if isinstance(result, (tuple, list)) else result
    return first.detach().float(), took, memory
