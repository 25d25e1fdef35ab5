"""`bitsandbytes`: a diffusers directory whose Linear layers are nf4, fp4 or int8, one of them for the whole file.

Constraints this answers:
* A file has one kind; every Linear layer that is not named in the skip list has it. The kind is the one that most
  weights ask for. Narrower options are promoted to it, wider ones stay at full precision, and all of that is listed.
* diffusers skips a layer also where its last name alone is in the list, so a skipped top-level `proj_out` skips every
  other `proj_out`: those are left as well.
* diffusers refuses bitsandbytes without a GPU although bitsandbytes runs on the CPU: there, reading back goes through
  diffusers with that one refusal lifted.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.core.errors import EngineError, RecipeError
from engine.core.graph import Structure
from engine.core.layer import Layer
from engine.core.option import FP16, Option, parse_option
from engine.core.recipe import Recipe
from engine.core.sizes import BNB_BLOCK, stored_bytes
from engine.export.components import write_config
from engine.export.content import dense, module_weights, others, users
from engine.export.format import Format, Written
from engine.export.packages import BITSANDBYTES, DIFFUSERS
from engine.export.plan import ExportPlan, Held, make_plan, modules
from engine.export.verify import Difference, compare, reopen
from engine.live.model import Model
from engine.quant.bnb import TABLES, packed_linear
from engine.quant.qweight import QuantizedWeight

WEIGHTS = "diffusion_pytorch_model.safetensors"
NF4, INT8 = parse_option("nf4"), parse_option("int8")
KINDS = (NF4, parse_option("fp4"), INT8)
CONVOLUTION = "bitsandbytes takes Linear layers only"
HALF = "bitsandbytes has no split layers"
SKIPPED = "diffusers skips it together with a layer of the same name at full precision"


def plan(structure: Structure, recipe: Recipe) -> ExportPlan:
    """Layers of the file's kind are exact.

    Raises:
        RecipeError: nothing of the recipe could be held.
    """
    precision, kind = structure.precision_bits, _kind(structure, recipe)
    own = modules(structure)
    skipped = {path for path, layers in own.items() if layers[0].kind == "linear"
               and _held(layers, tuple(recipe.option(x.choice) for x in layers), kind)[0].is_untouched}

    def holder(layers: tuple[Layer, ...], options: tuple[Option, ...]) -> tuple[Held, ...]:
        option, reason = _held(layers, options, kind)
        if not option.is_untouched and is_skipped(layers[0].module, skipped):
            option, reason = FP16, SKIPPED
        return tuple(Held(option, stored_bytes(x, option, precision), reason) for x in layers)

    return make_plan(structure, recipe, "bitsandbytes", holder, (DIFFUSERS, BITSANDBYTES),
                     (f"One kind for the whole file: {kind}. diffusers loads it on a GPU only.",))


def _kind(structure: Structure, recipe: Recipe) -> Option:
    """The kind that most weights ask for: an option of bitsandbytes by name, others by their bits."""
    votes: Counter[Option] = Counter()
    for layers in modules(structure).values():
        option = recipe.option(layers[0].choice)
        if len(layers) == 1 and layers[0].kind == "linear" and not option.is_untouched:
            votes[option if option in KINDS else NF4 if option.bits <= NF4.bits else INT8] += layers[0].weights
    if not votes:
        raise RecipeError("bitsandbytes takes Linear layers only, and the recipe quantizes none that it could hold; "
                          "choose another format.")
    return max(KINDS, key=lambda option: votes[option])


def _held(layers: tuple[Layer, ...], options: tuple[Option, ...], kind: Option) -> tuple[Option, str]:
    """What a file of this kind holds of a module, and why it is not what was asked for."""
    if len(layers) > 1:
        return FP16, HALF
    if layers[0].kind != "linear":
        return FP16, CONVOLUTION
    if options[0].is_untouched or options[0].bits > kind.bits:
        return FP16, f"a file has one kind, here {kind}, which is narrower"
    return kind, f"a file has one kind, here {kind}"


def is_skipped(path: str, keys: Iterable[str]) -> bool:
    """Whether diffusers leaves a Linear layer alone under a skip list (quantizers/bitsandbytes/utils.py)."""
    return any(key == path or key == path.rpartition(".")[2] or f"{key}." in path for key in keys)


def write(model: Model, plan: ExportPlan, directory: Path) -> Iterator[Written]:
    """bitsandbytes' own tensors, and a configuration whose skip list names every other Linear layer."""
    from safetensors.torch import save_file

    own = modules(model.structure)
    state: dict[str, torch.Tensor] = others(model)
    converted: list[str] = []
    for number, (path, layers) in enumerate(own.items(), 1):
        weights = module_weights(model, layers, plan.recipe)
        for user in users(layers[0]):
            if weights[0].option in KINDS:
                converted.append(user)
                state |= {f"{user}.{name}": tensor for name, tensor in _tensors(weights[0], _dtype(model)).items()}
            else:
                state[f"{user}.weight"] = dense(weights).clone()
        yield Written(number, len(own), path)
    kind = next(o for o in plan.recipe.options.values() if o in KINDS)
    folder = write_config(model, directory, _configuration(model, kind, converted))
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / WEIGHTS, {"format": "pt"})


def _dtype(model: Model) -> torch.dtype:
    return torch.float16 if model.structure.precision_bits == 16 else torch.float32


def _tensors(weight: QuantizedWeight, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The entries of a state dictionary that stand for one weight."""
    from bitsandbytes.functional import QuantState

    codes, absmax = weight.tensors["codes"].clone(), weight.tensors["absmax"].clone()
    if weight.option == INT8:
        return {"weight": codes.view(torch.int8).reshape(weight.shape), "SCB": absmax,
                "weight_format": torch.tensor(0, dtype=torch.uint8)}
    method = weight.option.method
    state = QuantState(absmax=absmax, shape=torch.Size(weight.shape), code=torch.tensor(TABLES[method]),
                       blocksize=BNB_BLOCK, quant_type=method, dtype=dtype)
    return {"weight": codes.unsqueeze(1)} | {f"weight.{k}": v for k, v in state.as_dict(packed=True).items()}


def _configuration(model: Model, kind: Option, converted: list[str]) -> dict[str, Any]:
    from diffusers import BitsAndBytesConfig

    keep = set(converted)
    linear = [path for path, module in model.denoiser.named_modules() if isinstance(module, nn.Linear)]
    skip = [path for path in linear if path not in keep]
    wrong = [path for path in converted if is_skipped(path, skip)]
    if wrong:
        raise EngineError(f"diffusers would skip {wrong[0]} together with a layer it has to skip; leave that layer at "
                          f"full precision.")
    four = {"load_in_4bit": True, "bnb_4bit_quant_type": kind.method, "bnb_4bit_compute_dtype": _dtype(model),
            "bnb_4bit_use_double_quant": False}
    choice = {"load_in_8bit": True} if kind == INT8 else four
    data: dict[str, Any] = BitsAndBytesConfig(**choice, llm_int8_skip_modules=skip).to_dict()
    return {key: getattr(value, "value", value) for key, value in data.items() if not key.startswith("_")}


def verify(model: Model, plan: ExportPlan, directory: Path) -> Difference:
    """Loaded by diffusers; weights are bit-equal but for float32 roundings. int8 also rounds activations when it runs,
    so its outputs are measured, not judged."""
    with _without_refusal():
        found = reopen(model, directory)
    kinds = {path: plan.recipe.option(layers[0].choice) for layers in modules(model.structure).values()
             for path in users(layers[0])}
    read: dict[str, QuantizedWeight] = {}
    for path, option in kinds.items():
        module: Any = found.get_submodule(path)
        kind, expected = _kind_read(module), option.method if option in KINDS else ""
        if kind != expected:
            raise EngineError(f"diffusers reads {path} as {kind or 'full precision'}, expected "
                              f"{expected or 'full precision'}; nothing was left behind.")
        if option in KINDS:
            read[path] = _read_back(module, option)
    if model.device == "cpu":
        # What was read executes as packed here, since the library's own CPU kernel is wrong at some widths.
        for path, weight in read.items():
            found.set_submodule(path, packed_linear(weight, found.get_submodule(path).bias))
    dense_of = {id(found.get_submodule(path)): weight for path, weight in read.items()}

    def weight_of(module: nn.Module) -> torch.Tensor:
        weight = dense_of.get(id(module))
        return weight.dequantize() if weight else module.get_parameter("weight")

    return compare(model, found, weight_of, exact=False, executes=INT8 not in kinds.values())


def _kind_read(module: Any) -> str:
    """The method of a layer as diffusers loaded it, "" for full precision."""
    from bitsandbytes.nn import Int8Params, Params4bit

    if isinstance(module.weight, Int8Params):
        return INT8.method
    return str(module.weight.quant_state.quant_type) if isinstance(module.weight, Params4bit) else ""


def _read_back(module: Any, option: Option) -> QuantizedWeight:
    """What diffusers made of a layer, as our record."""
    shape, weight = (module.out_features, module.in_features), module.weight
    codes = weight.data.detach().cpu().reshape(-1)
    if option == INT8:
        return QuantizedWeight(option, shape, {"codes": codes.view(torch.uint8), "absmax": weight.SCB.detach().cpu()})
    return QuantizedWeight(option, shape, {"codes": codes, "absmax": weight.quant_state.absmax.detach().cpu()})


@contextlib.contextmanager
def _without_refusal() -> Iterator[None]:
    """Within the block diffusers loads bitsandbytes weights without a GPU too."""
    if torch.cuda.is_available():
        yield
        return
    from diffusers.quantizers.bitsandbytes import bnb_quantizer

    classes = (bnb_quantizer.BnB4BitDiffusersQuantizer, bnb_quantizer.BnB8BitDiffusersQuantizer)
    before = [(c, c.validate_environment, c.update_device_map) for c in classes]
    try:
        for c in classes:
            c.validate_environment = lambda self, *args, **kwargs: None
            c.update_device_map = lambda self, device_map: {"": "cpu"}
        yield
    finally:
        for c, validate, place in before:
            c.validate_environment, c.update_device_map = validate, place


def snippet(plan: ExportPlan, directory: str) -> str:
    """Python that loads the export."""
    return f"""# pip install {' '.join(map(str, plan.packages))}; needs a GPU
import torch
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained({directory!r}, dtype=torch.float16).to("cuda")
"""


FORMAT = Format("bitsandbytes", "bitsandbytes", "nf4, fp4 or int8 Linear layers that run packed on a GPU.", True, plan,
                write, verify, snippet)
