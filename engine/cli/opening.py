"""The options of every verb that computes with a model: where, and in which precision."""

from __future__ import annotations

import argparse
from typing import Any

from engine.core.placement import DTYPES


def placement_arguments(parser: argparse.ArgumentParser, *, measures: bool = False) -> None:
    """`--device` and `--offload`; `--dtype` too, except for verbs that measure, which do so in float32."""
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 (default: cpu)")
    parser.add_argument("--offload", action="store_true",
                        help="keep the parts of the model in main memory, each on the device only while it computes")
    if measures:
        parser.set_defaults(dtype="float32")
    else:
        parser.add_argument("--dtype", default="float32", choices=DTYPES, help="precision to compute in")


def opened(args: argparse.Namespace) -> Any:
    """The model that was asked for, opened as asked for; errors as `engine.live.model.open_model`."""
    from engine.live.model import open_model

    return open_model(args.model, device=args.device, dtype=args.dtype, offload=args.offload)
