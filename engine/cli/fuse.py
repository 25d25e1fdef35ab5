"""`fuse`: adapters (LoRA) added to a model's weights, written as a plain diffusers directory."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def arguments(parser: argparse.ArgumentParser) -> None:
    """The model, its adapters, and where to."""
    parser.add_argument("model", metavar="MODEL", help="catalogue name, diffusers directory, .safetensors or hub id")
    parser.add_argument("--lora", metavar="FILE", nargs="+", required=True, help="adapter files (.safetensors)")
    parser.add_argument("--scale", metavar="S", type=float, nargs="+", default=[1.0],
                        help="how strongly, one for all or one each (default: 1)")
    parser.add_argument("--out", metavar="DIR", required=True, help="new directory")


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Open in float32, add, and write in the precision of the checkpoint."""
    import torch

    from engine.core.errors import InputError
    from engine.export.directory import staged
    from engine.models.loading import load_pipeline, stored_dtype
    from engine.models.lora import fuse_lora
    from engine.models.quiet import quiet
    from engine.models.structure import read_structure

    if len(args.scale) not in (1, len(args.lora)):
        raise InputError(f"{len(args.lora)} adapters take one scale or {len(args.lora)}, not {len(args.scale)}.")
    scales = args.scale * len(args.lora) if len(args.scale) == 1 else args.scale
    stored = getattr(torch, stored_dtype(args.model))
    pipeline = load_pipeline(args.model)
    changed = {Path(file).name: fuse_lora(pipeline, Path(file), scale)
               for file, scale in zip(args.lora, scales, strict=True)}
    with staged(args.out) as directory, quiet():
        pipeline.to(dtype=stored).save_pretrained(directory)
    structure = read_structure(args.out)
    said = ", ".join(f"{name} changes {count} weights" for name, count in changed.items())
    return ({"out": args.out, "identity": structure.identity, "changed": changed},
            f"{args.out}: {said}; open it like any other model")
