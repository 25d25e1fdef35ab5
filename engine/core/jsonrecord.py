"""Frozen dataclasses to and from plain JSON values, by their type annotations; unknown keys are errors."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeVar

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """A record (or tuple, dict, enum, scalar) as JSON values; tuples become lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(v) for v in value]
    return value


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def from_json(cls: type[T], data: Any) -> T:
    """The record of type `cls` that `data` describes.

    Raises:
        ValueError: a key is missing or unknown, or a value has the wrong type.
    """
    if not isinstance(data, dict):
        raise ValueError(f"{cls.__name__}: expected an object, got {type(data).__name__}")
    hints = _hints(typing.cast("typing.Hashable", cls))
    unknown = set(data) - set(hints)
    if unknown:
        raise ValueError(f"{cls.__name__}: unknown key {sorted(unknown)[0]!r}")
    for f in dataclasses.fields(typing.cast(Any, cls)):
        if f.name not in data and f.default is f.default_factory is dataclasses.MISSING:
            raise ValueError(f"{cls.__name__}: missing key {f.name!r}")
    try:
        return cls(**{k: _value(hints[k], v) for k, v in data.items()})
    except TypeError as error:
        raise ValueError(f"{cls.__name__}: {error}") from None


def _value(hint: Any, data: Any) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if data is None and type(None) in args:
            return None
        return _value(next(a for a in args if a is not type(None)), data)
    if origin is tuple:
        items = _expect(list, data)
        hints = [args[0]] * len(items) if args[-1] is Ellipsis else args
        if len(hints) != len(items):
            raise ValueError(f"expected {len(hints)} items, got {len(items)}")
        return tuple(_value(h, v) for h, v in zip(hints, items, strict=True))
    if origin in (dict, Mapping):
        return {str(k): _value(args[1], v) for k, v in _expect(dict, data).items()}
    if hint is Any:
        return data
    if dataclasses.is_dataclass(hint):
        return from_json(typing.cast(type, hint), data)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(data)
    if hint is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    return _expect(hint, data)


def _expect(kind: type, data: Any) -> Any:
    if not isinstance(data, kind) or (isinstance(data, bool) and kind is not bool):
        raise ValueError(f"expected {kind.__name__}, got {type(data).__name__}")
    return data
