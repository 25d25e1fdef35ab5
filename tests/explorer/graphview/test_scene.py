"""Scenes: everything is placed once, arms and rows as they should be, whatever the structure."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from engine.core.graph import Block, BlockEdge, Structure
from explorer.graphview.scene import conditioning, drawn_blocks, drawn_edges, scene, short_label
from tests.explorer.ui.models import STRUCTURES, small_unet, transformer


@pytest.mark.parametrize("name", STRUCTURES)
def test_every_choice_is_on_exactly_one_card_and_no_two_cards_meet(name: str) -> None:
    structure = STRUCTURES[name]()
    made = scene(structure)
    drawn = {b.id for b in drawn_blocks(structure)}
    cards = [c for c in made.cards if c.id in drawn]
    assert sorted(n for c in cards for n in c.layers) == sorted(layer.name for layer in structure.choices)
    assert sum(c.weights for c in cards) == sum(layer.weights for layer in structure.layers)
    for row in {c.y for c in cards}:
        places = sorted(c.x for c in cards if c.y == row)
        assert all(b - a >= 1 - 1e-6 for a, b in itertools.pairwise(places))
    assert all(0 <= c.x <= made.columns - 1 + 1e-6 and 0 <= c.y <= made.rows - 1 for c in cards)


def test_a_unet_is_a_u() -> None:
    made = scene(small_unet())
    at = {c.id: c for c in made.cards}
    assert at["down_blocks.0.resnets.0"].y == at["up_blocks.1.resnets.0"].y < at["down_blocks.1.resnets.0"].y
    assert at["mid_block.resnets.0"].y == made.rows - 1
    assert at["down_blocks.0.downsamplers.0"].x < at["up_blocks.1.resnets.0"].x
    left = [c.x for c in made.cards if c.side == "down" and c.level == "block" and c.kind != "embedding" and c.y == 0]
    assert left == sorted(left)
    assert at["time_embedding"].y == made.rows - 1, "what conditions the blocks stands in a free corner"


def test_transformers_read_like_text_in_a_few_rows() -> None:
    for count, most in ((10, 4), (28, 6), (57, 8)):
        made = scene(transformer(count))
        blocks = [c for c in made.cards if c.kind == "transformer"]
        assert [(c.y, c.x) for c in blocks] == sorted((c.y, c.x) for c in blocks)
        assert made.rows <= most and made.columns <= 16


def test_a_line_with_many_long_skips_folds_into_arms() -> None:
    made = scene(transformer(40, skips=True))
    at = {c.id: c for c in made.cards}
    for source, target, kind in made.edges:
        if kind == "skip":
            assert at[source].y == at[target].y and at[source].x < at[target].x


def test_a_very_wide_u_folds_its_rows() -> None:
    structure = small_unet()
    wide = tuple(
        Block(f"extra.{i}", "down_blocks.0", "block", f"Extra {i}", "resnet", (), 100 + i, 0, "down") for i in range(30)
    )
    made = scene(replace(structure, blocks=structure.blocks + wide))
    assert made.columns <= 18.5


def test_a_stage_without_blocks_gets_a_card_of_its_own() -> None:
    structure = small_unet()
    blocks = tuple(b for b in structure.blocks if b.id != "conv_out")
    blocks = tuple(replace(b, layers=("conv_out",)) if b.id == "tail" else b for b in blocks)
    made = scene(replace(structure, blocks=blocks))
    assert any(c.id == "tail" and c.layers == ("conv_out",) for c in made.cards)


def test_tied_copies_are_edited_where_their_choice_lives() -> None:
    made = scene(transformer(4))
    at = {c.id: c for c in made.cards}
    assert "transformer_blocks.0.emb" in at["transformer_blocks.0"].layers
    assert not any("emb" in n for n in at["transformer_blocks.3"].layers)


def test_edges_keep_their_kind_once_and_only_between_cards() -> None:
    structure = small_unet()
    more = (BlockEdge("conv_in", "conv_in", False, False), BlockEdge("nowhere", "conv_in", False, False))
    structure = replace(structure, block_edges=structure.block_edges * 2 + more)
    edges = drawn_edges(structure, drawn_blocks(structure))
    assert len(edges) == len({(a, b) for a, b, _ in edges})
    assert ("conv_in", "up_blocks.1.resnets.1", "skip") in edges
    assert all(a != b and "nowhere" not in (a, b) for a, b, _ in edges)


def test_conditioning_is_what_no_picture_flows_through() -> None:
    structure: Structure = transformer(6)
    blocks = drawn_blocks(structure)
    assert conditioning(blocks, drawn_edges(structure, blocks)) == {"adaln_single", "caption_projection"}


def test_an_empty_structure_has_an_empty_scene() -> None:
    bare = replace(small_unet(), blocks=(), block_edges=(), layers=())
    assert scene(bare).cards == ()


def test_short_labels() -> None:
    assert short_label("Down 0 · Attention 2") == "Attn 2"
    assert short_label("Time embedding") == "Time"
    assert short_label("Up 1 · Upsample") == "Up"
    assert short_label("Block 7") == "Block 7"
