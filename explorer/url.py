"""The address bar carries model, recipe and settings: compact, self-describing, and checked when read."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

from engine.core.errors import OptionError, RecipeError
from engine.core.option import FP16, Option, parse_option
from explorer.choices import Choices, activation_of, activation_text, choices_of, set_of, set_text
from explorer.state import MAX_COUNT, Settings

MAX_PACKED = 16_000
MAX_TEXT = 200_000
INPUTS, SETS = "a", "w"  # query parameters beside the options' own
ALWAYS = ("prompt", "seed", "steps", "guidance")  # their defaults are the model's; the others' are the same everywhere
# Longest texts read and written. What is longer could not be generated anyway, prompts of many lines excepted.
LONGEST = {"prompt": 40_000, "negative": 5_000, "scheduler": 100}

T = TypeVar("T")


def pack_options(options: Mapping[str, Option], order: Sequence[str]) -> str:
    """Options in layer order as a short URL-safe text."""
    return pack([str(options.get(name, FP16)) for name in order])


def unpack_options(packed: str, order: Sequence[str]) -> dict[str, Option]:
    """The options that `pack_options` wrote.

    Raises:
        RecipeError: damaged, oversized, or for a model with another number of layers.
    """
    return dict(zip(order, unpack(packed, len(order), parse_option), strict=True))


def pack_rest(options: Mapping[str, Option], order: Sequence[str]) -> dict[str, str | None]:
    """Query parameters for quantized inputs and weight sets; None where there are none: to be taken out."""
    now = choices_of(options)
    texts = {INPUTS: [activation_text(now.activations.get(n)) for n in order],
             SETS: [set_text(now.weights.get(n)) for n in order]}
    return {key: pack(row) if any(row) else None for key, row in texts.items()}


def with_rest(options: Mapping[str, Option], query: Mapping[str, str | None],
              order: Sequence[str]) -> Choices:
    """Options together with what `pack_rest` wrote of the same recipe.

    Raises:
        RecipeError: as `unpack_options`.
    """
    inputs = unpack(text, len(order), activation_of) if (text := query.get(INPUTS)) else []
    sets = unpack(text, len(order), set_of) if (text := query.get(SETS)) else []
    return Choices(dict(options), {n: a for n, a in zip(order, inputs, strict=False) if a},
                   {n: w for n, w in zip(order, sets, strict=False) if w and options[n] != FP16})


def pack_settings(settings: Settings) -> dict[str, Any]:
    """Query parameters for what is generated; None where it is the default or too long: to be taken out."""
    plain, found = Settings(), {f.name: getattr(settings, f.name) for f in fields(Settings)}
    return {key: value if (key in ALWAYS or value != getattr(plain, key)) and _fits(key, value) else None
            for key, value in found.items()}


def with_settings(settings: Settings, query: Mapping[str, str]) -> Settings:
    """Settings with what `pack_settings` wrote; nonsense is ignored, ranges are checked when pictures are made."""
    for field in fields(Settings):
        kind: Any = type(field.default)
        try:
            value = kind(query[field.name])
        except (KeyError, ValueError):
            continue
        if _fits(field.name, value):
            settings = replace(settings, **{field.name: value})
    return settings


def _fits(key: str, value: Any) -> bool:
    if key == "count":  # every picture of it is planned before anything is checked
        return bool(1 <= value <= MAX_COUNT)
    if isinstance(value, str):
        return len(value) <= LONGEST[key]
    return bool(abs(value) <= 2**53)  # NaN is no JSON, and a browser's whole numbers end there


def pack(texts: Sequence[str]) -> str:
    """A text per layer as one short URL-safe text: a legend and run lengths, deflated."""
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


def unpack(packed: str, count: int, parse: Callable[[str], T]) -> list[T]:
    """What `pack` wrote of `count` layers, parsed.

    Raises:
        RecipeError: damaged, oversized, or of another number of layers.
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
        legend = [parse(t) for t in legend_text.split(",")]
        expanded: list[T] = []
        for run in runs_text.split(","):
            index, length = (int(part) for part in run.split("x"))
            if not (0 <= index < len(legend) and 0 < length <= count - len(expanded)):
                raise ValueError("another model")
            expanded += [legend[index]] * length
        if len(expanded) != count:
            raise ValueError("another model")
    except (ValueError, binascii.Error, zlib.error, UnicodeError, OptionError, RecipeError):
        raise RecipeError(
            "The recipe in the address is damaged or belongs to another model; the model was opened without it."
        ) from None
    return expanded
