"""The options of every verb that computes with a model: where, and in which precision."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import Any

from engine.cli.progress import remark
from engine.core.errors import InputError
from engine.core.placement import DTYPES

DEVICE = re.compile(r"cpu|mps|cuda(:\d+)?")


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

    if not DEVICE.fullmatch(args.device):
        raise InputError(f"--device takes cpu, cuda, cuda:1 or mps, not {args.device[:40]!r}.")
    remark(f"Opening {args.model}…")
    return open_model(args.model, device=args.device, dtype=args.dtype, offload=args.offload)


def new_file(path: str | os.PathLike[str]) -> None:
    """Refuse before minutes go into it what could not be written at their end.

    Raises:
        InputError: the folder is none or may not be written to, or the path is a folder.
    """
    place = Path(path)
    if place.is_dir():
        raise InputError(f"--out {place} is a folder; name a file in it.")
    above = next(p for p in place.absolute().parents if p.exists())
    if not above.is_dir():
        raise InputError(f"--out {place} cannot be made: {above} is a file, not a folder.")
    if not os.access(above, os.W_OK | os.X_OK):
        raise InputError(f"--out {place} cannot be written: {above} may not be written to; name another place.")
