"""The registry of export formats; a new one is one file and one row."""

from __future__ import annotations

from engine.core.errors import InputError
from engine.export import bnb_format, dequantized_format, packed_format, recipe_format, sdnq_format, torchao_format
from engine.export.format import Format

FORMATS: dict[str, Format] = {
    row.name: row
    for row in (packed_format.FORMAT, recipe_format.FORMAT, dequantized_format.FORMAT, sdnq_format.FORMAT,
                torchao_format.FORMAT, bnb_format.FORMAT)
}


def format_named(name: str) -> Format:
    """The format of that name.

    Raises:
        InputError: there is none.
    """
    if name not in FORMATS:
        raise InputError(f"There is no export format {str(name)[:40]!r}; choose one of {', '.join(FORMATS)}.")
    return FORMATS[name]
