"""`torchao`: a diffusers directory with torchao's int2 to int8 weights, a configuration per Linear layer.

torchao computes w' = (code - zero) * scale per output channel or group of inputs, with zero points that may be
fractions: uaq, rtn_g64 and int8 fit without quantizing again. Codes take a byte each whatever their width, so files of
few bits are not smaller than those of eight; convolutions stay at full precision in diffusers.
"""

from __future__ import annotations

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
from engine.core.sizes import stored_bytes
from engine.export.components import write_config
from engine.export.content import dense, module_weights, others, users
from engine.export.format import Format, Written
from engine.export.packages import DIFFUSERS, TORCHAO
from engine.export.plan import ExportPlan, Held, make_plan, modules
from engine.export.sdnq_layout import AFFINE, Layout, arranged, layout, nearest
from engine.export.verify import Difference, compare, reopen
from engine.live.model import Model
from engine.quant.qweight import QuantizedWeight

WEIGHTS = "diffusion_pytorch_model.safetensors"
CONVOLUTION = "torchao in diffusers takes Linear layers only"
NO_KIND = "torchao has no codebooks and no blocks across channels"
HALF_UNTOUCHED = "the other half is untouched, and torchao stores both as one"
PARAMETER_BYTES = 8  # scale and zero point, float32 each


def plan(structure: Structure, recipe: Recipe) -> ExportPlan:
    """uaq, rtn_g64 and int8 on Linear layers are exact."""
    precision = structure.precision_bits

    def holder(layers: tuple[Layer, ...], options: tuple[Option, ...]) -> tuple[Held, ...]:
        if layers[0].kind != "linear" or any(o.is_untouched for o in options):
            reason = HALF_UNTOUCHED if layers[0].kind == "linear" else CONVOLUTION
            return tuple(Held(FP16, stored_bytes(x, FP16, precision), reason) for x in layers)
        held = tuple(o if o.method in AFFINE else nearest(o) for o in options)
        found = _layout(layers, held)
        return tuple(Held(o, x.weights + x.shape[0] * PARAMETER_BYTES * (x.shape[1] // _width(found, layers)), NO_KIND)
                     for x, o in zip(layers, held, strict=True))

    return make_plan(structure, recipe, "torchao", holder, (DIFFUSERS, TORCHAO),
                     ("torchao stores a byte per weight at every width; its point is running, not size.",))


def _layout(layers: tuple[Layer, ...], options: tuple[Option, ...]) -> Layout:
    found = layout(layers, options, is_packed=False)
    assert found is not None, f"{layers[0].module}: {[str(o) for o in options]} do not share a layout"
    return found


def _width(found: Layout, layers: tuple[Layer, ...]) -> int:
    """Inputs that share a scale."""
    return found.group_size if found.groups > 1 else sum(layer.shape[1] for layer in layers)


def write(model: Model, plan: ExportPlan, directory: Path) -> Iterator[Written]:
    """Codes with their scales as torchao's tensors, and a configuration that names every Linear layer held."""
    from safetensors.torch import save_file
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict

    own = modules(model.structure)
    state: dict[str, Any] = others(model)
    configurations: dict[str, Any] = {}
    for number, (path, layers) in enumerate(own.items(), 1):
        weights = module_weights(model, layers, plan.recipe)
        for user in users(layers[0]):
            if any(w.option.is_untouched for w in weights):
                state[f"{user}.weight"] = dense(weights).clone()
            else:
                state[f"{user}.weight"], configurations[user] = _tensor(layers, weights)
        yield Written(number, len(own), path)
    flat, metadata = flatten_tensor_state_dict(state)
    folder = write_config(model, directory, _configuration(configurations))
    save_file({name: tensor.contiguous() for name, tensor in flat.items()}, folder / WEIGHTS,
              {**metadata, "format": "pt"})


def _tensor(layers: tuple[Layer, ...], weights: tuple[QuantizedWeight, ...]) -> tuple[Any, Any]:
    """torchao's tensor of a module and the configuration that describes it."""
    from torchao.quantization import IntxUnpackedToInt8Tensor, IntxWeightOnlyConfig, MappingType, PerAxis, PerGroup

    found = _layout(layers, tuple(w.option for w in weights))
    codes, scale, zero = codes_scale_zero(found, weights)
    width = _width(found, layers)
    kind = getattr(torch, f"int{found.bits}")
    tensor = IntxUnpackedToInt8Tensor(
        qdata=codes, scale=scale, zero_point=zero, target_dtype=kind, block_size=(1, width), dtype=torch.float32,
        activation_quantization=None)
    symmetric = not bool(zero.any())
    return tensor, IntxWeightOnlyConfig(
        weight_dtype=kind, granularity=PerGroup(width) if found.groups > 1 else PerAxis(0),
        mapping_type=MappingType.SYMMETRIC if symmetric else MappingType.ASYMMETRIC)


def codes_scale_zero(found: Layout, weights: tuple[QuantizedWeight, ...]
                     ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """int8 [O, I], float32 [O, groups] twice: w' = (code - zero) * scale."""
    parts = arranged(found, weights)
    out = weights[0].shape[0]
    scale = parts["scale"].reshape(out, -1).float()
    codes = parts["codes"].reshape(out, -1)
    if found.is_signed:
        return codes.to(torch.int8), scale, torch.zeros_like(scale)
    offset = parts["zero_point"].reshape(out, -1)
    groups = scale.shape[1]
    # Codes are centred by their own width, not by that of the wider half: zero points stay small, and so exact.
    half = torch.cat([torch.full((w.shape[1],), 2 ** (w.option.bits - 1)) for w in weights])
    half_of_group = half.reshape(groups, -1)[:, 0]
    if all(w.option.method == "uaq" for w in weights):
        zero = torch.cat([w.tensors["zero"].float()[:, None].expand(-1, groups * w.shape[1] // codes.shape[1])
                          for w in weights], dim=1)
    else:
        # A group of one value has scale 0 and code 0: (0 - -1) * value.
        constant = scale == 0
        zero = torch.where(constant, -1.0, -offset / torch.where(constant, 1.0, scale))
        scale = torch.where(constant, offset, scale)
    return (codes.short() - half).to(torch.int8), scale, zero - half_of_group


def _configuration(configurations: Mapping[str, Any]) -> dict[str, Any]:
    from collections import OrderedDict

    from diffusers import TorchAoConfig
    from torchao.quantization import FqnToConfig

    data: dict[str, Any] = TorchAoConfig(FqnToConfig(OrderedDict(configurations))).to_dict()
    return {**data, "quant_method": "torchao"}


def verify(model: Model, plan: ExportPlan, directory: Path) -> Difference:
    """Loaded by diffusers through torchao; every type is read back, weights agree to a few roundings."""
    found = reopen(model, directory)
    for layers in modules(model.structure).values():
        options = tuple(plan.recipe.option(x.choice) for x in layers)
        wanted = None if any(o.is_untouched for o in options) else getattr(torch, f"int{_layout(layers, options).bits}")
        for path in users(layers[0]):
            read = getattr(found.get_submodule(path).weight, "target_dtype", None)
            if read != wanted:
                raise EngineError(f"torchao reads {path} as {read}, expected {wanted}; nothing was left behind.")

    def weight_of(module: nn.Module) -> torch.Tensor:
        weight: Any = module.weight
        return weight.dequantize() if hasattr(weight, "target_dtype") else weight

    return compare(model, found, weight_of, exact=False)


def snippet(plan: ExportPlan, directory: str) -> str:
    """Python that loads the export."""
    return f"""# pip install {' '.join(map(str, plan.packages))}
import torch
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained({directory!r}, dtype=torch.float32)
"""


FORMAT = Format("torchao", "torchao", "int2 to int8 Linear layers that torchao runs and compiles; a byte per weight.",
                True, plan, write, verify, snippet)
