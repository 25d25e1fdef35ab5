"""What calibration did channel by channel, on disk: ranges before and after, scales, shifts and how far votes agreed.

One safetensors file beside the activation tables it describes, found by their id; nothing needs it to run a recipe.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from engine.calibrate.dmq import Calibrated
from engine.calibrate.files import Cost
from engine.core.errors import StoreError
from engine.core.files import parse_json, write_atomic
from engine.core.graph import Structure
from engine.live.tables import tables_path

VERSION = 1
KIND = "calibration report"
SUFFIX = ".channels.safetensors"
_PARTS = ("low", "high", "tau", "shifts", "agreement")


@dataclass(frozen=True, eq=False)
class Channels:
    """One layer's inputs.

    Attributes:
        low, high: range per input channel over all sampling steps, [C], before any scaling.
        tau: scale per channel, [C], or None.
        shifts, agreement: per timestep group and channel, [G, C], or None.
        figures: held-out error without and with the scaling (`scaling_before`, `scaling_after`), and without and
            with the shifts (`shifts_before`, `shifts_after`), as far as they were taken. A layer with `agreement` but
            no shifts was refused them on held-out pictures.
    """

    low: Tensor
    high: Tensor
    tau: Tensor | None = None
    shifts: Tensor | None = None
    agreement: Tensor | None = None
    figures: Mapping[str, float] = field(default_factory=dict)

    def after(self, group: int | None = None) -> tuple[Tensor, Tensor]:
        """The range per channel as the common grid meets it: divided by tau and, in one group, times 2^shift.

        With shifts a channel that uses the grid well reaches as far as the widest one.
        """
        factor = torch.ones_like(self.low) if self.tau is None else 1 / self.tau
        if group is not None and self.shifts is not None:
            factor = factor * torch.exp2(self.shifts[group].float())
        return self.low * factor, self.high * factor


@dataclass(frozen=True, eq=False)
class ChannelReport:
    """All layers of one calibration.

    Attributes:
        model: identity.
        tables: id of the activation tables.
        layers: layer name -> its channels.
        blocks: block -> held-out error rounded to nearest and with learned rounding, share of weights moved.
        stages: stage -> seconds and peak megabytes, None where not noted.
    """

    model: str
    tables: str
    layers: Mapping[str, Channels]
    blocks: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    stages: Mapping[str, Cost] = field(default_factory=dict)


def channel_report(found: Calibrated) -> ChannelReport | None:
    """The report of a calibration; None where it has no activation tables."""
    if found.tables is None or found.ranges is None:
        return None
    layers = {}
    for name, table in found.tables.layers.items():
        chosen, scaling = found.shifts.get(name), found.scalings.get(name)
        figures = {} if scaling is None else {"scaling_before": scaling.before, "scaling_after": scaling.after}
        if chosen is not None:
            figures |= {"shifts_before": chosen.before, "shifts_after": chosen.after}
        layers[name] = Channels(found.ranges.low[name].amin(0), found.ranges.high[name].amax(0), table.tau,
                                table.shifts, chosen.agreement if chosen else None, figures)
    blocks = {name: (r.before, r.after, r.moved) for name, r in found.roundings.items() if r.iterations}
    return ChannelReport(found.tables.model, found.tables.id, layers, blocks, dict(found.stages))


def report_path(structure: Structure, tables: str) -> Path:
    """Where the report on activation tables belongs: beside them."""
    place = tables_path(structure, tables)
    return place.with_name(f"{place.name.partition('.')[0]}.{tables}{SUFFIX}")


def save_report(path: str | Path, report: ChannelReport) -> None:
    """Write a report, whole or not at all."""
    tensors: dict[str, Tensor] = {}
    for i, layer in enumerate(report.layers.values()):
        parts = {part: getattr(layer, part) for part in _PARTS}
        tensors |= {f"{i}.{part}": t.contiguous() for part, t in parts.items() if t is not None}
    head = {"kind": KIND, "version": VERSION, "model": report.model, "tables": report.tables,
            "layers": [[name, dict(layer.figures)] for name, layer in report.layers.items()],
            "blocks": {k: list(v) for k, v in report.blocks.items()},
            "stages": {k: list(v) for k, v in report.stages.items()}}
    write_atomic(path, save(tensors, {"head": json.dumps(head)}))


def load_report(path: str | Path) -> ChannelReport:
    """Read a report.

    Raises:
        StoreError: missing, damaged, of another kind or version; one sentence.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            head = parse_json((file.metadata() or {}).get("head", "null"), path.name, StoreError)
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError) as failure:
        raise StoreError(f"{path} cannot be read as a calibration report ({str(failure)[:100]}); calibrate "
                         f"again.") from None
    if not isinstance(head, dict) or head.get("kind") != KIND or head.get("version") != VERSION:
        raise StoreError(f"{path.name} holds no {KIND} of version {VERSION}; calibrate again.")
    try:
        layers = {str(name): _channels(i, tensors, figures) for i, (name, figures) in enumerate(head["layers"])}
        blocks: dict[str, Any] = {str(k): tuple(map(float, v)) for k, v in head["blocks"].items()}
        stages: dict[str, Any] = {str(k): tuple(None if x is None else float(x) for x in v)
                                  for k, v in head["stages"].items()}
        return ChannelReport(str(head["model"]), str(head["tables"]), layers, blocks, stages)
    except (KeyError, TypeError, ValueError, AttributeError) as failure:
        raise StoreError(f"{path.name} holds a broken {KIND} ({str(failure)[:100]}); calibrate again.") from None


def _channels(index: int, tensors: Mapping[str, Tensor], figures: Mapping[str, Any]) -> Channels:
    parts: dict[str, Any] = {part: tensors.get(f"{index}.{part}") for part in _PARTS}
    return Channels(**parts, figures={str(k): float(v) for k, v in figures.items()})
