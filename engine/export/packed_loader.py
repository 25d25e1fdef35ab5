"""Load a packed export: `load_packed(directory)`. Needs torch, diffusers and safetensors alone; copy this file freely.

A packed export is a diffusers directory whose denoiser folder holds, instead of weights, `quantscape.safetensors`: the
byte string `layers` (codes and parameters of one layer after the other) and the byte string `others` (biases, norms,
tables). `quantscape.json` beside `model_index.json` says what lies in which order:

    format, version, precision_bits      "quantscape-packed", 1 or 2 (with scales or quantized inputs), and P:
                                         parameters of uaq and k-means, scales and ranges have P bits
    denoiser, weights, sha256            folder, file in it, and its checksum
    layers                               [name, option], [name, option, "tau"] or [name, "fp16", dtype], in order;
                                         halves end in :0 and :1; with tau the codes are of tau times the weight
    splits, shared                       module -> input channels of its first half; module -> modules with its weight
    others                               [dtype, [tensor names]], in order
    inputs                               quantized layer inputs: [name, bits] online, or with the tables (byte string
                                         `inputs`) of low, high [G], scale [in] and shifts [G, in] per layer

Codes of b bits are a little-endian bit stream over the flattened weight [O, I]. With float32 arithmetic:
uaq (code - zero) * delta; kmeans codebook[code]; rtn_g64 zero + code * scale, or (code - 2^(b-1)) * scale from 5 bits;
nf4, fp4 table[code] * absmax of its 64 weights (two codes to a byte, the first high); int8 code * absmax / 127.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

FORMAT = "quantscape-packed"
VERSION = 2
INDEX = "quantscape.json"
TAU = "tau"
MAX_ZERO = 1 << 14
MAX_INDEX_BYTES = 64_000_000
GROUP = 64
ASYMMETRIC_UP_TO = 4
_CHUNK = 1 << 20  # groups of eight codes unpacked together
_INT8_STEP = 0.007874015718698502
NF4 = (-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
       -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
       0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0)
FP4 = tuple(sign * value / 12 for sign in (1, -1) for value in (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0))

Shape = tuple[int, ...]
Parts = dict[str, torch.Tensor]


class PackedError(ValueError):
    """A directory that is no packed export, or one that is damaged."""


def load_packed(directory: str | Path, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Any:
    """The pipeline of a packed export, its denoiser with the dequantized weights.

    Raises:
        PackedError: the directory is no packed export, incomplete or altered; one sentence.
    """
    from diffusers import DiffusionPipeline

    index = read_index(directory)
    denoiser = torch.nn.Module.to(load_denoiser(directory, index), dtype)
    pipeline = DiffusionPipeline.from_pretrained(
        str(directory), **{index["denoiser"]: denoiser}, dtype=dtype, use_safetensors=True,
        local_files_only=True)
    return pipeline.to(device)


def read_index(directory: str | Path) -> dict[str, Any]:
    """The content of `quantscape.json`.

    Raises:
        PackedError: there is none, or it is of another format or version.
    """
    path = Path(directory) / INDEX
    try:
        if path.stat().st_size > MAX_INDEX_BYTES:
            raise PackedError(f"{path} is larger than any index; export the model again.")
        index = json.loads(path.read_bytes())
    except OSError as failure:
        raise PackedError(f"{directory} is no packed export: cannot read {INDEX} ({failure.strerror}).") from None
    except (ValueError, RecursionError):
        raise PackedError(f"{path} is not valid JSON; export the model again.") from None
    if not isinstance(index, dict) or index.get("format") != FORMAT or index.get("version") not in (1, VERSION):
        raise PackedError(f"{path} is no index of format {FORMAT}, version 1 or {VERSION}; use the loader of the "
                          f"program that wrote it.")
    names = (index.get("denoiser"), index.get("weights"))
    if not all(isinstance(n, str) and n and n == Path(n).name and n not in (".", "..") for n in names):
        raise PackedError(f"{path} names files outside its directory; export the model again.")
    return index


def load_denoiser(directory: str | Path, index: dict[str, Any] | None = None) -> torch.nn.Module:
    """The denoiser of a packed export alone, in float32 on the CPU.

    Raises:
        PackedError: as `load_packed`.
    """
    from safetensors import SafetensorError, safe_open

    index = index or read_index(directory)
    folder = Path(directory) / index["denoiser"]
    path = folder / index["weights"]
    try:
        if file_sha256(path) != index["sha256"]:
            raise PackedError(f"{path} is not the file that was exported (its checksum differs); export it again.")
        with safe_open(path, framework="pt", device="cpu") as file:
            layers, others = file.get_tensor("layers"), file.get_tensor("others")
            tables = file.get_tensor("inputs") if "inputs" in file.keys() else torch.empty(0, dtype=torch.uint8)
            model = _empty_model(folder)
            scales = _fill_layers(model, index, layers)
            _fill_others(model, index, others)
            if "inputs" in index:
                _quantize_inputs(model, index, tables, scales)
    except (OSError, SafetensorError) as failure:
        raise PackedError(f"Cannot read {path} ({failure}); export the model again.") from None
    except (KeyError, IndexError, TypeError, AttributeError, RuntimeError, ValueError) as failure:
        if isinstance(failure, (PackedError, torch.OutOfMemoryError)) or "allocate memory" in str(failure):
            raise
        raise PackedError(f"{INDEX} does not describe the model in {folder} ({failure}); export it again.") from None
    return model.eval()


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _empty_model(folder: Path) -> torch.nn.Module:
    """The model class that config.json names, its weights not initialized."""
    import diffusers
    from diffusers.models.modeling_utils import ModelMixin, no_init_weights

    config = json.loads((folder / "config.json").read_bytes())
    cls = getattr(diffusers, str(config["_class_name"]), None)
    if not (isinstance(cls, type) and issubclass(cls, ModelMixin)):
        raise PackedError(f"diffusers {diffusers.__version__} has no model {str(config['_class_name'])[:60]!r}; "
                          f"install a newer one.")
    with no_init_weights(), torch.random.fork_rng(devices=[]):
        model: torch.nn.Module = cls.from_config(config)
    return model


def _fill_layers(model: torch.nn.Module, index: dict[str, Any], blob: torch.Tensor) -> Parts:
    """Put the weights in place; returns layer name -> scale of the scaled ones."""
    precision = {16: torch.float16, 32: torch.float32}[index["precision_bits"]]
    place, scales = 0, {}
    for name, option, *extra in index["layers"]:
        path, _, half = name.partition(":")
        module: Any = model.get_submodule(path)
        weight = module.weight.detach()
        if half:
            cut = index["splits"][path]
            weight = weight[:, :cut] if half == "0" else weight[:, cut:]
        scaled = extra == [TAU]
        stored = getattr(torch, extra[0]) if extra and not scaled else precision
        parts, place = _read_parts(blob, place, part_table(option, tuple(weight.shape), stored, scaled))
        weight.copy_(dequantize(option, tuple(weight.shape), parts))
        if scaled:
            scales[name] = parts[TAU].float()
    if place != blob.numel():
        raise PackedError(f"the layers take {place} bytes, the file has {blob.numel()}")
    for path, sharers in index["shared"].items():
        for other in sharers:
            model.get_submodule(other).weight = model.get_submodule(path).weight
    return scales


def _fill_others(model: torch.nn.Module, index: dict[str, Any], blob: torch.Tensor) -> None:
    state = model.state_dict()
    place, seen = 0, set()
    for dtype, names in index["others"]:
        for name in names:
            size = state[name].numel() * getattr(torch, dtype).itemsize
            state[name].copy_(_view(blob[place:place + size], getattr(torch, dtype)).view(state[name].shape))
            place += size
            seen.add(name)
    modules = {name.partition(":")[0] for name, *_ in index["layers"]}
    modules |= {other for sharers in index["shared"].values() for other in sharers}
    missing = set(state) - seen - {f"{path}.weight" for path in modules}
    if missing or place != blob.numel():
        raise PackedError(f"{len(missing)} tensors are missing, first: {sorted(missing)[:1]}; {blob.numel() - place} "
                          f"bytes are left over")


def _quantize_inputs(model: torch.nn.Module, index: dict[str, Any], blob: torch.Tensor, scales: Parts) -> None:
    """Register the hooks that quantize layer inputs while the model runs; the timestep is read from its own calls."""
    inputs, place, clock = index["inputs"], 0, _Clock()
    stored = {16: torch.float16, 32: torch.float32}[index["precision_bits"]]
    static = "groups" in inputs
    if static:
        clock.watch(model, inputs)
    for name, bits, *table in inputs["layers"]:
        path, _, half = name.partition(":")
        weight: Any = model.get_submodule(path).weight
        start, cut = inputs["starts"].get(name, 0), index["splits"].get(path, weight.shape[1])
        size = weight.shape[1] if not half else cut if half == "0" else weight.shape[1] - cut
        grid = None
        if table:
            parts = [("low", stored, (inputs["groups"],)), ("high", stored, (inputs["groups"],))]
            parts += [(TAU, stored, (size,))] * (table[0]["scale"] == "own")
            parts += [("shifts", torch.uint8, (-(-inputs["groups"] * size // 4),))] * table[0]["shifted"]
            found, place = _read_parts(blob, place, parts)
            if table[0]["scale"] == "weight":
                found[TAU] = scales[name]
            grid = _grid(found, bits, size)
        # A grouped convolution's weight knows the channels of one group; a layer that is no half takes its whole input.
        hook = _input_hook(bits, grid, clock, start, size if half else None, 1 if weight.ndim > 2 else -1)
        for other in inputs["shared"].get(name, [path]):
            model.get_submodule(other).register_forward_pre_hook(hook, with_kwargs=True)
    if place != blob.numel():
        raise PackedError(f"the activation tables take {place} bytes, the file has {blob.numel()}")


class _Clock:
    """The timestep group of the running call: a number, or one per sample."""

    group: Any = 0

    def watch(self, model: torch.nn.Module, inputs: dict[str, Any]) -> None:
        """Read the group from every call's timestep argument."""
        name, names = inputs["time"], list(inspect.signature(model.forward).parameters)
        high, low, gap = inputs["timesteps"]

        def read(_: Any, args: Any, kwargs: Any) -> None:
            times = torch.as_tensor(kwargs[name] if name in kwargs else args[names.index(name)]).double().reshape(-1)
            if bool(((times > high + gap) | (times < low - gap)).any()):
                raise ValueError(f"The activations were calibrated for timesteps {high:g} to {low:g}; choose the "
                                 f"scheduler they were made with.")
            groups = torch.stack([torch.zeros_like(times), *((times < edge).double() for edge in inputs["edges"])])
            found = groups.sum(0).long()
            self.group = int(found[0]) if bool((found == found[0]).all()) else found

        model.register_forward_pre_hook(read, with_kwargs=True)


def _affine(low: torch.Tensor, high: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Step and zero point of the grid from low to high."""
    step = torch.maximum((high - low) / ((1 << bits) - 1), torch.maximum(low.abs(), high.abs()) / MAX_ZERO)
    step = torch.where(step > 0, step, torch.ones_like(step))
    return step, torch.round(-low / step)


def _grid(parts: Parts, bits: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Step [G, in or 1] and zero point [G, 1] of a static layer."""
    step, zero = _affine(parts["low"].float().clamp(max=0), parts["high"].float().clamp(min=0), bits)
    step, zero = step[:, None], zero[:, None]
    if "shifts" in parts:
        step = step * torch.exp2(-_unpacked(parts["shifts"], 2, len(step) * size).view(-1, size).float())
    return (step * parts[TAU].float() if TAU in parts else step), zero


def _input_hook(bits: int, grid: Any, clock: _Clock, start: int, size: int | None, axis: int) -> Callable[..., Any]:
    def simulate(x: torch.Tensor) -> torch.Tensor:
        wide = x if x.dtype == torch.float64 else x.float()
        if grid is None:
            axes = (-1,) if axis == -1 else tuple(range(2, x.ndim))
            step, zero = _affine(wide.amin(axes, keepdim=True), wide.amax(axes, keepdim=True), bits)
        else:
            group = clock.group
            rows = group.repeat_interleave(len(x) // len(group)) if isinstance(group, torch.Tensor) else [group]
            shape = [len(rows), *[1] * (x.ndim - 1)]
            found = []
            for t in grid:
                shape[axis] = t.shape[1]
                found.append(t.to(x.device)[rows].reshape(shape))
            step, zero = found
        codes = (wide / step).round_().add_(zero).clamp_(0, (1 << bits) - 1)
        return codes.sub_(zero).mul_(step).to(x.dtype)

    def replace(_: Any, args: Any, kwargs: Any) -> Any:
        name = "" if args else next(k for k in ("input", "hidden_states", "x") if k in kwargs)
        x = args[0] if args else kwargs[name]
        if size is None:
            x = simulate(x)
        else:
            rest = x.shape[axis] - start - size
            before, own, after = x.split((start, size, rest), dim=axis)
            x = torch.cat([before, simulate(own), after], dim=axis)
        return ((x, *args[1:]), kwargs) if args else (args, {**kwargs, name: x})

    return replace


def part_table(option: str, shape: Shape, stored: torch.dtype,
               scaled: bool = False) -> list[tuple[str, torch.dtype, Shape]]:
    """Name, dtype and shape of a layer's tensors under an option, in the order of the file.

    Args:
        option: such as `uaq-4`.
        shape: [O, in, *kernel].
        stored: dtype of parameters (of the weight itself under `fp16`).
        scaled: whether a scale per input channel comes last.
    """
    if scaled:
        return [*part_table(option, shape, stored), (TAU, stored, (shape[1],))]
    method, _, bits = option.partition("-")
    width = int(bits) if bits else {"nf4": 4, "fp4": 4, "int8": 8, "fp16": 16}[method]
    out, weights, single = shape[0], math.prod(shape), torch.float32
    codes = ("codes", torch.uint8, ((weights * width + 7) // 8,))
    if method == "uaq":
        return [codes, ("delta", stored, (out,)), ("zero", stored, (out,))]
    if method in ("kmeans_c", "kmeans_a"):
        return [codes, ("codebook", stored, ((out,) if method == "kmeans_c" else ()) + (2**width,))]
    if method == "rtn_g64":
        scale = ("scale", single, (out, group_count(shape[1]), math.prod(shape[2:])))
        return [codes, scale, ("zero", *scale[1:])] if width <= ASYMMETRIC_UP_TO else [codes, scale]
    if method in ("nf4", "fp4"):
        return [codes, ("absmax", single, (-(-weights // GROUP),))]
    if method == "int8":
        return [codes, ("absmax", single, (out,))]
    return [("weight", stored, shape)]


def group_count(channels: int) -> int:
    """Groups of input channels: of 64 where that fits, else the largest smaller number of equal groups."""
    if channels % GROUP == 0:
        return max(channels // GROUP, 1)
    return next((n for n in range(channels // GROUP - 1, 1, -1) if channels % n == 0), 1)


def dequantize(option: str, shape: Shape, parts: Parts) -> torch.Tensor:
    """The weight [O, in, *kernel] in float32 (under `fp16`, as stored)."""
    method, _, bits = option.partition("-")
    weight = DEQUANTIZERS[method](parts, int(bits) if bits else 0, shape).view(shape)
    return weight if TAU not in parts else weight / parts[TAU].float().view(1, -1, *[1] * (len(shape) - 2))


def _read_parts(blob: torch.Tensor, place: int, table: list[tuple[str, torch.dtype, Shape]]) -> tuple[Parts, int]:
    parts = {}
    for name, dtype, size in table:
        end = place + math.prod(size) * dtype.itemsize
        parts[name] = _view(blob[place:end], dtype).view(size)
        place = end
    return parts, place


def _view(data: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return data if dtype == torch.uint8 else data.clone().view(dtype)  # a clone is aligned


def _unpacked(codes: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """float32 [count]: eight codes are `bits` bytes."""
    groups = -(-count // 8)
    padded = torch.nn.functional.pad(codes, (0, groups * bits - codes.numel())).view(groups, bits)
    bytewise = torch.arange(bits) * 8
    codewise = torch.arange(8) * bits
    words = [((part.long() << bytewise).sum(1, keepdim=True) >> codewise & (2**bits - 1)).to(torch.uint8)
             for part in padded.split(_CHUNK)]
    return torch.cat(words).reshape(-1)[:count]


def _uaq(parts: Parts, bits: int, shape: Shape) -> torch.Tensor:
    codes = _unpacked(parts["codes"], bits, math.prod(shape)).view(shape[0], -1).float()
    return (codes - parts["zero"].float()[:, None]) * parts["delta"].float()[:, None]


def _kmeans(parts: Parts, bits: int, shape: Shape) -> torch.Tensor:
    codes = _unpacked(parts["codes"], bits, math.prod(shape)).view(shape[0], -1).long()
    codebook = parts["codebook"].float()
    return codebook[codes] if codebook.ndim == 1 else codebook.gather(1, codes)


def _rtn(parts: Parts, bits: int, shape: Shape) -> torch.Tensor:
    out, groups, positions = parts["scale"].shape
    codes = _unpacked(parts["codes"], bits, math.prod(shape)).view(out, groups, -1, positions).float()
    scale = parts["scale"].unsqueeze(2)
    if "zero" in parts:
        return torch.addcmul(parts["zero"].unsqueeze(2), codes, scale)  # rounds once, as sdnq does
    return (codes - 2 ** (bits - 1)) * scale


def _four_bits(table: tuple[float, ...]) -> Callable[[Parts, int, Shape], torch.Tensor]:
    def dequantize(parts: Parts, bits: int, shape: Shape) -> torch.Tensor:
        weights = math.prod(shape)
        codes = torch.stack((parts["codes"] >> 4, parts["codes"] & 15), 1).reshape(-1)[:weights]
        return torch.tensor(table)[codes.long()] * parts["absmax"].repeat_interleave(GROUP)[:weights]

    return dequantize


def _int8(parts: Parts, bits: int, shape: Shape) -> torch.Tensor:
    return parts["codes"].view(torch.int8).view(shape) * parts["absmax"][:, None] * _INT8_STEP


DEQUANTIZERS: dict[str, Callable[[Parts, int, Shape], torch.Tensor]] = {
    "uaq": _uaq,
    "kmeans_c": _kmeans,
    "kmeans_a": _kmeans,
    "rtn_g64": _rtn,
    "nf4": _four_bits(NF4),
    "fp4": _four_bits(FP4),
    "int8": _int8,
    "fp16": lambda parts, bits, shape: parts["weight"],
}
