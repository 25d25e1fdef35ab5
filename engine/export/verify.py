"""Compare a reopened export with the preview: every weight, and what the denoiser computes.

On a CPU the same weights give outputs that differ by a rounding when they lie at other addresses (vector kernels treat
the first values apart). Weights mapped from a file lie anywhere, so both sides are moved to aligned memory first.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.core.errors import EngineError
from engine.export.content import weight_names
from engine.live.model import Model
from engine.models.inputs import TIME_NAMES, example_inputs
from engine.models.memory import ran_out

Dense = Callable[[nn.Module], torch.Tensor]

SEED = 20_240_601
TIME = 500.0
# Formats that compute a weight in another order differ by roundings of float32; narrower types round once more.
ROUNDINGS = {torch.float32: 8, torch.float16: 2, torch.bfloat16: 2}
# Of the largest output, and in roundings of the type that computes: far above what such differences add up to.
OUTPUT_TOLERANCE, OUTPUT_ROUNDINGS = 1e-3, 16
ALIGNMENT = 64  # bytes
REUSE_BYTES = 1_000_000_000  # other components are not loaded a second time above this


@dataclass(frozen=True, slots=True)
class Difference:
    """How far a reopened export is from the preview.

    Attributes:
        output: largest absolute difference of the denoiser's outputs on the same inputs; 0.0 for bit-equal.
        output_scale: largest absolute output.
        weight: largest absolute difference of a weight.
        tensors: how many tensors were compared.
    """

    output: float
    output_scale: float
    weight: float
    tensors: int


def reopen(model: Model, directory: Path, **components: Any) -> nn.Module:
    """The denoiser of a directory, loaded by diffusers as part of the whole pipeline, on the model's device and dtype.

    Raises:
        EngineError: diffusers cannot load what was written.
    """
    from diffusers import DiffusionPipeline

    from engine.models.loading import denoiser_of
    from engine.models.quiet import quiet

    if sum(c.bytes for c in model.structure.components) > REUSE_BYTES:
        kept = {name: c for name, c in model.pipeline.components.items() if name != model.denoiser_name}
        components = {**kept, **components}
    try:
        with quiet():
            pipeline = DiffusionPipeline.from_pretrained(
                str(directory), dtype=getattr(torch, model.dtype), local_files_only=True, use_safetensors=True,
                **components)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError) as failure:
        if ran_out(failure):
            raise
        raise EngineError(f"diffusers cannot load the export ({str(failure).splitlines()[0][:200]}); nothing was "
                          f"left behind.") from None
    denoiser: nn.Module = denoiser_of(pipeline)[1]
    return denoiser.to(model.device).eval()


def plain_weight(module: nn.Module) -> torch.Tensor:
    """The weight of a module that stores it densely."""
    return module.get_parameter("weight")


def compare(model: Model, found: nn.Module, weight_of: Dense = plain_weight, *, exact: bool = True,
            executes: bool = True) -> Difference:
    """Compare every tensor and the outputs.

    Args:
        model: has the recipe of the export applied.
        found: the reopened denoiser.
        weight_of: module of `found` -> its dense weight.
        exact: weights must be bit-equal; otherwise equal up to a few roundings.
        executes: `found` computes with those very weights; otherwise (activations are rounded too) its outputs are
            measured, not judged.

    Raises:
        EngineError: the file does not hold what was previewed.
    """
    worst, tensors = _compare_tensors(model, found, weight_of, exact)
    inputs = example_call(model)
    _align(model.denoiser)
    _align(found)
    with torch.no_grad():
        ours, theirs = _output(model.denoiser, inputs), _output(found, inputs)
    scale = float(ours.abs().max())
    output = _distance(ours, theirs)
    tolerance = max(OUTPUT_TOLERANCE, OUTPUT_ROUNDINGS * torch.finfo(getattr(torch, model.dtype)).eps)
    if executes and not output <= tolerance * scale:
        raise EngineError(f"The reloaded export computes something else than the preview (difference {output:.3g} of "
                          f"{scale:.3g}) although its weights agree; nothing was left behind.")
    gc.collect()
    return Difference(output, scale, worst, tensors)


def _compare_tensors(model: Model, found: nn.Module, weight_of: Dense, exact: bool) -> tuple[float, int]:
    owners = weight_names(model)
    state: Mapping[str, torch.Tensor] = model.denoiser.state_dict()
    others = found.state_dict()
    worst = 0.0
    for name, ours in state.items():
        if name in owners:
            theirs = weight_of(found.get_submodule(name.removesuffix(".weight")))
        elif name in others:
            theirs = others[name]
        else:
            raise EngineError(f"The export lacks the tensor {name}; nothing was left behind.")
        theirs = theirs.detach().to(ours.device, ours.dtype)
        if theirs.shape != ours.shape:
            raise EngineError(f"The export holds {name} with shape {list(theirs.shape)}, the preview with "
                              f"{list(ours.shape)}; nothing was left behind.")
        distance = _distance(ours, theirs)
        slack = 0.0
        if not exact and name in owners and ours.numel():
            slack = ROUNDINGS.get(ours.dtype, 0) * torch.finfo(ours.dtype).eps * float(ours.abs().max())
        if not distance <= slack:
            raise EngineError(f"The reloaded export differs from the preview in {name} by {distance:.3g}; nothing was "
                              f"left behind.")
        worst = max(worst, distance)
    return worst, len(state)


def _align(module: nn.Module) -> None:
    """Move what lies at odd addresses of the CPU's memory; values and sharing stay."""
    for tensor in (*module.parameters(), *module.buffers()):
        if type(tensor.data) is torch.Tensor and tensor.device.type == "cpu" and tensor.data_ptr() % ALIGNMENT:
            tensor.data = tensor.data.clone()


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest absolute difference; 0 for bit-equal tensors, NaN included."""
    if a.numel() == 0 or torch.equal(a, b):
        return 0.0
    if not a.is_floating_point():
        return float((a != b).any())
    if torch.equal(torch.nan_to_num(a, nan=0.5), torch.nan_to_num(b, nan=0.5)):
        return 0.0
    return float((a.float() - b.float()).abs().max())


def example_call(model: Model) -> dict[str, Any]:
    """Seeded arguments for the denoiser, on its device and in its dtype."""
    generator = torch.Generator().manual_seed(SEED)
    dtype = getattr(torch, model.dtype)
    return {name: _filled(name, value, generator, dtype, model.device)
            for name, value in example_inputs(model.denoiser, model.denoiser.config).items()}


def _filled(name: str, value: Any, generator: torch.Generator, dtype: torch.dtype, device: str) -> Any:
    if isinstance(value, Mapping):
        return {key: _filled(key, v, generator, dtype, device) for key, v in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_filled(name, v, generator, dtype, device) for v in value)
    if not isinstance(value, torch.Tensor):
        return value
    if not value.is_floating_point():
        return torch.full(value.shape, value.dtype == torch.bool, dtype=value.dtype, device=device)
    if name in TIME_NAMES:
        return torch.full(value.shape, TIME, dtype=dtype, device=device)
    if "mask" in name:
        return torch.ones(value.shape, dtype=dtype, device=device)
    return torch.randn(value.shape, generator=generator).to(device, dtype)


def _output(denoiser: nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
    result = denoiser(**inputs)
    first = result[0] if isinstance(result, (tuple, list)) else result
    return first.detach().float().cpu()
