"""The Export tab knows every format, and says plans as text that no name from a file can turn into markup."""

from __future__ import annotations

from engine.core.recipe import uniform
from engine.export.exporting import plan_export
from engine.export.formats import FORMATS
from engine.models.structure import read_structure
from explorer.exports import _plain, plan_text
from explorer.panels.export import ABOUT


def test_every_format_is_offered() -> None:
    assert set(ABOUT) == set(FORMATS)


def test_a_plan_says_counts_sizes_and_changes() -> None:
    structure = read_structure("emoji-unet")
    exact = plan_export(structure, uniform(structure, "uaq-4"), "packed")
    assert f"**{len(structure.layers)}** layers exact" in plan_text(exact) and "cannot hold" not in plan_text(exact)
    changed = plan_export(structure, uniform(structure, "uaq-4"), "bitsandbytes")
    assert "cannot hold" in plan_text(changed) and changed.changes[0].layer.replace("_", "\\_") in plan_text(changed)


def test_names_are_no_markup() -> None:
    assert _plain("<img src=x onerror=alert(1)> [a](b) `c` *d*") == " img src x onerror alert(1)>  a (b)  c   d "
