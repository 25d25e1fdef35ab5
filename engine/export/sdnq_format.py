"""`sdnq`: a diffusers directory that SDNQ unpacks; Linear and convolutions, really packed, with a type per layer.

Constraints this answers:
* SDNQ matches parameter names with `.weight`; a name it does not find changes nothing and says nothing. So every
  module is named, and every module's type is read back.
* Its group size depends on the type unless it is given; so it is given.
* It skips small layers unless told not to, and compiles its kernels when it is imported unless told not to.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.core.errors import EngineError
from engine.core.graph import Structure
from engine.core.layer import Layer
from engine.core.option import FP16, Option
from engine.core.recipe import Recipe
from engine.core.sizes import RTN_GROUP, stored_bytes
from engine.export.components import write_config
from engine.export.content import dense, module_weights, others, users
from engine.export.format import Format, Written
from engine.export.packages import DIFFUSERS, SDNQ
from engine.export.plan import ExportPlan, Held, make_plan, modules
from engine.export.sdnq_layout import Layout, arranged, layout, layout_bytes, nearest
from engine.export.verify import Difference, compare, reopen
from engine.live.model import Model

WEIGHTS = "diffusion_pytorch_model.safetensors"
BLOCKS = "blocks of bitsandbytes run across channels, which SDNQ does not have"
HALVES = "the halves of a split layer need options of one kind in SDNQ"
BYTES = "its weights do not fill whole bytes in SDNQ's packing"
LARGE = "SDNQ keeps codebooks per channel and kernel position, here larger than the weights"
HALF_UNTOUCHED = "the other half is untouched, and SDNQ stores both as one"


def plan(structure: Structure, recipe: Recipe) -> ExportPlan:
    """Exact but for nf4, fp4 and some split layers."""
    precision = structure.precision_bits

    def holder(layers: tuple[Layer, ...], options: tuple[Option, ...]) -> tuple[Held, ...]:
        if any(o.is_untouched for o in options):
            return tuple(Held(FP16, stored_bytes(x, FP16, precision), HALF_UNTOUCHED) for x in layers)
        held, reason = _representable(layers, options, precision)
        found = layout(layers, held)
        if found is None:
            return tuple(Held(FP16, stored_bytes(x, FP16, precision), BYTES) for x in layers)
        total, whole = layout_bytes(found, layers, precision), sum(x.weights for x in layers)
        first = total * layers[0].weights // whole
        sizes = (first, total - first) if len(layers) > 1 else (total,)
        return tuple(Held(o, size, reason) for o, size in zip(held, sizes, strict=True))

    return make_plan(structure, recipe, "sdnq", holder, (DIFFUSERS, SDNQ))


def _representable(layers: tuple[Layer, ...], options: tuple[Option, ...],
                   precision: int) -> tuple[tuple[Option, ...], str]:
    """The options SDNQ can hold for a module, and why they are not those asked for."""
    held, reason = options, ""
    if any(o.method in ("nf4", "fp4") for o in held):
        held, reason = tuple(nearest(o) if o.method in ("nf4", "fp4") else o for o in held), BLOCKS
    if layout(layers, held) is None and len(layers) > 1:
        held, reason = tuple(nearest(o) if o.method.startswith("kmeans") else o for o in held), HALVES
    found = layout(layers, held)
    full = sum(stored_bytes(x, FP16, precision) for x in layers)
    if found and found.is_codebook and layout_bytes(found, layers, precision) >= full:
        held, reason = tuple(map(nearest, held)), LARGE
    return held, reason


def write(model: Model, plan: ExportPlan, directory: Path) -> Iterator[Written]:
    """Packed weights with their scales, and a configuration that names every module."""
    from safetensors.torch import save_file

    _library()
    from sdnq.packed_int import pack_int

    own = modules(model.structure)
    state: dict[str, torch.Tensor] = others(model)
    layouts: dict[str, Layout] = {}
    for number, (path, layers) in enumerate(own.items(), 1):
        weights = module_weights(model, layers, plan.recipe)
        found = layout(layers, [w.option for w in weights])
        for user in users(layers[0]):
            if found is None:
                state[f"{user}.weight"] = dense(weights).clone()
                continue
            layouts[user] = found
            parts = arranged(found, weights)
            codes = parts.pop("codes")
            state[f"{user}.weight"] = codes if found.bits == 8 else pack_int(_centred(codes, found), found.dtype)
            state |= {f"{user}.{name}": tensor.clone() for name, tensor in parts.items()}
        yield Written(number, len(own), path)
    folder = write_config(model, directory, _configuration(model.denoiser, layouts))
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / WEIGHTS, {"format": "pt"})


def _centred(codes: torch.Tensor, found: Layout) -> torch.Tensor:
    return codes.to(torch.int8) if found.is_signed else codes


def _configuration(denoiser: nn.Module, layouts: Mapping[str, Layout]) -> dict[str, Any]:
    """SDNQ's configuration: the type and grouping of every module, and all others named as not converted."""
    _library()
    from sdnq import SDNQConfig
    from sdnq.common import allowed_types

    kept = [f"{path}.weight" for path, module in denoiser.named_modules()
            if type(module).__name__ in allowed_types and path not in layouts]
    dtypes: dict[str, list[str]] = {}
    special: dict[str, dict[str, Any]] = {}
    for path, found in layouts.items():
        name = f"{path}.weight"
        dtypes.setdefault(found.dtype, []).append(name)
        special[name] = {"group_size": found.group_size}
        if found.is_codebook:
            special[name]["use_codebook"] = True
    config = SDNQConfig(
        weights_dtype="int8", group_size=RTN_GROUP, quant_conv=True, add_skip_keys=False, minimum_allowed_numel=0,
        minimum_allowed_channel_size=0, modules_to_not_convert=kept, modules_dtype_dict=dtypes,
        modules_quant_config=special, codebook_steps=1)  # codebooks are read, not sought: steps only slow loading
    data = config.to_dict()
    data["modules_to_not_convert"] = sorted(data["modules_to_not_convert"])
    data["modules_dtype_dict"] = {k: sorted(v) for k, v in sorted(data["modules_dtype_dict"].items())}
    return {**data, "quant_method": "sdnq"}


def verify(model: Model, plan: ExportPlan, directory: Path) -> Difference:
    """Loaded by diffusers through SDNQ; every type is read back, weights agree to a few roundings."""
    _library()
    from sdnq.utils import get_sdnq_params

    def weight_of(module: nn.Module) -> torch.Tensor:
        dequantizer: Any = getattr(module, "sdnq_dequantizer", None)
        if dequantizer is None:
            return module.get_parameter("weight")
        weight: torch.Tensor = dequantizer(**get_sdnq_params(module), skip_compile=True)
        return weight

    found = reopen(model, directory)
    for layers in modules(model.structure).values():
        wanted = layout(layers, [plan.recipe.option(x.choice) for x in layers])
        for path in users(layers[0]):
            module: Any = found.get_submodule(path)
            read = getattr(getattr(module, "sdnq_dequantizer", None), "weights_dtype", None)
            expected = wanted.dtype if wanted else None
            if read != expected:
                raise EngineError(f"SDNQ reads {path} as {read}, expected {expected}; nothing was left behind.")
    return compare(model, found, weight_of, exact=False)


def _library() -> None:
    # Compiling takes minutes on a CPU, and a comparison needs no speed.
    os.environ.setdefault("SDNQ_USE_TORCH_COMPILE", "0")
    import sdnq  # noqa: F401


def snippet(plan: ExportPlan, directory: str) -> str:
    """Python that loads the export."""
    return f"""# pip install {' '.join(map(str, plan.packages))}
import torch
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained({directory!r}, dtype=torch.float32)
"""


FORMAT = Format("sdnq", "SDNQ", "A packed diffusers directory that SDNQ loads, convolutions included.", True, plan,
                write, verify, snippet)
