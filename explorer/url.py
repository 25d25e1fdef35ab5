"""The address bar carries model, recipe and settings: compact, self-describing, and checked when read."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Mapping, Sequence

from engine.core.errors import OptionError, RecipeError
from engine.core.option import FP16, Option, parse_option

MAX_PACKED = 16_000
MAX_TEXT = 200_000


def pack_options(options: Mapping[str, Option], order: Sequence[str]) -> str:
    """Options in layer order as a short URL-safe text: a legend and run lengths, deflated."""
    texts = [str(options.get(name, FP16)) for name in order]
    legend = list(dict.fromkeys(texts))
    runs: list[list[int]] = []
    for text in texts:
        index = legend.index(text)
        if runs and runs[-1][0] == index:
            runs[-1][1] += 1
        else:
            runs.append([index, 1])
    body = ",".join(legend) + ";" + ",".join(f"{i}x{n}" for i, n in runs)
    return base64.urlsafe_b64encode(zlib.compress(body.encode(), 9)).rstrip(b"=").decode()


def unpack_options(packed: str, order: Sequence[str]) -> dict[str, Option]:
    """The options that `pack_options` wrote.

    Raises:
        RecipeError: damaged, oversized, or for a model with another number of layers.
    """
    try:
        if len(packed) > MAX_PACKED:
            raise ValueError("too long")
        padded = packed.encode("ascii") + b"=" * (-len(packed) % 4)
        inflater = zlib.decompressobj()
        text = inflater.decompress(base64.urlsafe_b64decode(padded), MAX_TEXT)
        if inflater.unconsumed_tail:
            raise ValueError("too long")
        legend_text, runs_text = text.decode("ascii").split(";")
        legend = [parse_option(t) for t in legend_text.split(",")]
        expanded: list[Option] = []
        for run in runs_text.split(","):
            index, count = (int(part) for part in run.split("x"))
            if not (0 <= index < len(legend) and 0 < count <= len(order) - len(expanded)):
                raise ValueError("another model")
            expanded += [legend[index]] * count
        if len(expanded) != len(order):
            raise ValueError("another model")
    except (ValueError, binascii.Error, zlib.error, UnicodeError, OptionError):
        raise RecipeError(
            "The recipe in the address is damaged or belongs to another model; the model was opened without it."
        ) from None
    return dict(zip(order, expanded, strict=True))
