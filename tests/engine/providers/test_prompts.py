"""Prompt splits: disjoint, stable when prompts are added, hashed, and fixed images per part."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.core.errors import InputError
from engine.providers.prompts import (
    PARTS,
    find_captions,
    first_prompt,
    read_captions,
    request_for,
    split_prompts,
    text_split,
)

MANY = [f"caption {i}" for i in range(1000)]


def test_parts_are_disjoint_complete_and_of_the_stated_shares() -> None:
    split = split_prompts("text", MANY, "test")
    parts = [split.part(name) for name in PARTS]
    assert sorted(p for part in parts for p in part) == sorted(MANY)
    assert [round(len(part) / 1000, 1) for part in parts] == [0.4, 0.2, 0.4]


def test_adding_a_prompt_moves_no_other() -> None:
    before, after = split_prompts("text", MANY, "x"), split_prompts("text", [*MANY[::-1], "new"], "x")
    for name in PARTS:
        assert set(before.part(name)) == set(after.part(name)) - {"new"}
    assert before.hash != after.hash
    assert before.hash == split_prompts("text", MANY[::-1] * 2, "another source").hash


def test_images_of_a_part_are_fixed_and_differ_between_parts() -> None:
    split = split_prompts("text", MANY, "test")
    whole = request_for(split, "study", 10, steps=5)
    assert whole == request_for(split, "study", 10, steps=5) and whole.steps == 5
    later = request_for(split, "study", 4, first=6)
    assert (later.prompts, later.seeds) == (whole.prompts[6:], whole.seeds[6:])
    final = request_for(split, "final", 10)
    assert not set(final.prompts) & set(whole.prompts) and not set(final.seeds) & set(whole.seeds)


def test_few_prompts_are_used_again_with_other_seeds() -> None:
    split = split_prompts("text", MANY[:12], "test")
    request = request_for(split, "study", 40)
    assert len(set(request.prompts)) == len(split.study) and len(set(request.seeds)) == 40


def test_labels_and_nothing() -> None:
    labels = request_for(split_prompts("class", [str(i) for i in range(100)], "labels"), "final", 8)
    assert len(labels.labels) == 8 and labels.prompts == ("",)
    bare = request_for(split_prompts("none", [], ""), "study", 3)
    assert bare.prompts == ("",) and bare.count == 3 and not bare.labels


def test_captions_beside_a_model_are_found(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "model").mkdir()
    path = tmp_path / "data" / "captions.json"
    path.write_text(json.dumps({"version": 1, "glyphs": [{"caption": c} for c in MANY[:50]]}))
    assert find_captions(tmp_path / "model") == path
    assert text_split(tmp_path / "model").source == "data"
    assert set(text_split(tmp_path / "model").study) < set(MANY[:50])
    assert first_prompt(str(tmp_path / "model")) in MANY[:50]
    path.write_text(json.dumps(MANY[:3]))
    assert read_captions(path) == MANY[:3]
    path.write_text('{"version": 1}')
    with pytest.raises(InputError, match="no captions"):
        read_captions(path)


def test_other_models_get_neutral_prompts(tmp_path: Path) -> None:
    split = text_split(None)
    assert split.source == "neutral prompts" and min(len(split.part(p)) for p in PARTS) >= 16
    with pytest.raises(InputError, match="no part 'test'"):
        split.part("test")
