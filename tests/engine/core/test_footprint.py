"""What a pipeline keeps in memory: every part counted once, and the smallest card named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.cli.allocate import _budget
from engine.cli.main import build_parser
from engine.core.errors import InputError
from engine.core.footprint import Footprint, full_footprint
from engine.core.graph import Component
from engine.core.recipe import uniform
from engine.core.sizes import file_bytes, full_bytes
from engine.export.exporting import plan_export
from engine.models.structure import read_structure
from explorer.exports import plan_text
from tests.engine.core.records import structure

PARTS = (Component("text_encoder", "T", 10, 3_000_000_000), Component("vae", "V", 10, 400_000))


def test_every_part_counts_once() -> None:
    made = replace(structure(4), components=PARTS)
    found = full_footprint(made)
    assert found.denoiser == file_bytes(made, {}) and found.total == found.denoiser + 3_000_400_000
    assert "text_encoder 3.00 GB" in found.sentence() and "vae 0.40 MB" in found.sentence()


@pytest.mark.parametrize(("size", "card"), [(0, 4), (4 * 10**9, 4), (4 * 10**9 + 1, 6), (80 * 10**9, 80),
                                            (80 * 10**9 + 1, None)])
def test_the_smallest_card(size: int, card: int | None) -> None:
    assert Footprint(size, ()).card_gb == card
    assert ("fits no card" in Footprint(size, ()).sentence()) == (card is None)


def test_plans_say_it_in_words_and_on_the_page() -> None:
    made = read_structure("emoji-unet")
    plan = plan_export(made, uniform(made, "uaq-4"), "packed")
    assert plan.footprint.total == plan.file_bytes + sum(c.bytes for c in made.components)
    assert plan.footprint.sentence() in plan.lines()
    assert "Whole pipeline: denoiser" in plan_text(plan) and "together 1" in plan_text(plan)


def test_budgets_that_leave_room_for_the_rest() -> None:
    made = replace(structure(4), components=PARTS)
    rest = full_footprint(made).total - full_bytes(made)
    parser = build_parser(["allocate"])

    def budget(*words: str) -> int:
        return _budget(parser.parse_args(["allocate", "m", *words]), made)

    room = rest + full_bytes(made) // 2
    assert budget("--fits", f"{room}b", "--working", "0b") == full_bytes(made) // 2
    assert budget("--fits", f"{room}b", "--working", "1kb") == full_bytes(made) // 2 - 1000
    assert budget("--fits", "80GB", "--working", "0GB") == full_bytes(made), "never more than full precision"
    with pytest.raises(InputError, match="rest of the pipeline alone needs"):
        budget("--fits", "3GB", "--working", "0GB")
    for text in ("8", "many", "8 elephants", "50%"):
        with pytest.raises(InputError, match="no amount of memory"):
            budget("--fits", "8GB", "--working", text)
