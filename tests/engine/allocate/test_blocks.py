"""Joint costs of blocks, and scores that no trial supports: kept, found again, left out; on the command line too."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.allocate.blocks import JOINT, block_files, block_problem, find_blocks, load_blocks, save_blocks
from engine.allocate.faithful import faithful
from engine.allocate.problem import JointCosts, Limits, joint_problem
from engine.allocate.support import EXTRAPOLATED, extrapolated, supported, unsupported, with_support
from engine.cli.main import main
from engine.core.errors import InputError, StudyError
from engine.core.graph import Structure
from engine.core.option import FP16, Option
from engine.core.places import CACHE_VARIABLE
from engine.core.record import Scores
from engine.core.sizes import full_bytes
from engine.models.structure import read_structure
from engine.providers.files import find_scores, save_scores, scores_path

MODEL = "emoji-dit"
OPTIONS = (Option("uaq", 3), Option("uaq", 4), Option("kmeans_c", 3), Option("kmeans_c", 4))


@pytest.fixture(scope="module")
def structure() -> Structure:
    return read_structure(MODEL)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    return tmp_path


def joints_of(structure: Structure) -> tuple[JointCosts, ...]:
    """Pairs of neighbouring layers scored jointly."""
    rng, names = np.random.default_rng(0), [x.name for x in structure.choices]
    parts = [tuple(names[i:i + 2]) for i in range(0, len(names), 2)]
    return tuple(JointCosts(p, tuple(itertools.product(OPTIONS, repeat=len(p))),
                            tuple(rng.uniform(size=len(OPTIONS) ** len(p)).tolist())) for p in parts)


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> Any:
    assert main(["allocate", MODEL, *words, *([] if code else ["--json"])]) == code
    out, err = capsys.readouterr()
    return err if code else json.loads(out)


def test_costs_are_kept_for_the_networks_they_are_of(structure: Structure, cache: Path) -> None:
    operation, joints = find_scores(structure)["gnn-operation"], joints_of(structure)
    path = block_files(structure)[0]
    assert path.is_relative_to(cache) and find_blocks(structure, operation) is None
    save_blocks(path, joints, operation)
    assert find_blocks(structure, operation) == joints and find_blocks(structure, operation, OPTIONS) is None
    name, row = next(iter(operation.layers.items()))
    other = replace(operation, layers={**operation.layers, name: {o: d + 0.1 for o, d in row.items()}})
    assert find_blocks(structure, other) is None
    with pytest.raises(StudyError, match="other networks"):
        load_blocks(path, other)
    for spoilt in (b"nothing", path.read_bytes()[:500]):
        path.write_bytes(spoilt)
        with pytest.raises(StudyError, match=r"cannot be used .*faithful-blocks makes it again"):
            load_blocks(path, operation)
        assert find_blocks(structure, operation) is None


def test_dropping_what_is_beaten_changes_no_answer(structure: Structure) -> None:
    joints, full = joints_of(structure), full_bytes(structure)
    whole, less = joint_problem(structure, joints, full), block_problem(structure, joints, full)
    assert sum(len(u.costs) for u in less.units) < 0.5 * sum(len(u.costs) for u in whole.units)
    for bits in (3.3, 3.5, 4.0):
        budget = int(bits / 16 * full)
        a, b = faithful(whole.with_budget(budget)), faithful(less.with_budget(budget))
        assert a.recipe.options == b.recipe.options and a.bound == pytest.approx(b.bound)
    pinned = dict.fromkeys(joints[0].layers, Option("uaq", 6))  # an option that was not scored
    found = faithful(block_problem(structure, joints, full // 4, Limits(pinned=pinned))).recipe.options
    assert pinned.items() <= found.items()
    with pytest.raises(InputError, match="No candidate of the block"):
        block_problem(structure, joints, full, Limits(pinned={joints[0].layers[0]: Option("uaq", 6)}))


def test_what_no_trial_supports_is_left_out_where_there_is_a_choice() -> None:
    rows = {n: {"fp16": 0.0, "uaq-3": 1.0, "uaq-4": 0.5} for n in "abcd"}
    about = {EXTRAPOLATED: json.dumps({"a": ["uaq-3"], "b": ["uaq-3", "uaq-4"], "c": ["uaq-3"], "d": ["uaq-4"]}),
             "digest": "1"}
    scores = Scores("predictor", "m", "d", rows, about=about)
    kept = supported(scores, Limits(pinned={"d": Option("uaq", 4)})).layers
    assert [set(kept[n]) - {"fp16"} for n in "abcd"] == [{"uaq-4"}, {"uaq-3", "uaq-4"}, {"uaq-4"}, {"uaq-3", "uaq-4"}]
    # On offer is 3 bits alone: better an extrapolated score than a layer that cannot be quantized.
    assert set(supported(scores, Limits(options=(Option("uaq", 3),))).layers["a"]) == {"fp16", "uaq-3", "uaq-4"}
    assert unsupported(scores, {"a": Option("uaq", 3), "b": FP16, "c": Option("uaq", 4)}) == {"a": "uaq-3"}
    same, other = (Scores("gnn-operation", "m", "d", rows, about={"digest": x}) for x in "12")
    assert extrapolated(with_support(same, {"predictor": scores})) == extrapolated(scores)
    assert not extrapolated(with_support(other, {"predictor": scores}))
    assert not extrapolated(with_support(replace(same, about={}), {"predictor": replace(scores, about={})}))


def test_the_command_leaves_out_and_says_what_is_extrapolated(structure: Structure, cache: Path,
                                                              capsys: pytest.CaptureFixture[str]) -> None:
    names = [x.name for x in structure.choices]
    rows = {n: {"uaq-3": 1.0, "uaq-4": 0.9} for n in names}
    beyond = {names[0]: ["uaq-3"], names[1]: ["uaq-3", "uaq-4"]}
    save_scores(scores_path(structure, "predictor"),
                Scores("predictor", structure.identity, "d", rows, about={EXTRAPOLATED: json.dumps(beyond)}))
    words = ["--bits", "3.6", "--quantize-all", "--pin", f"{names[2]}=uaq-3"]
    found = said(capsys, *words, "--out", str(cache / "r.json"))
    options = json.loads((cache / "r.json").read_text())["options"]
    assert options[names[0]] == "uaq-4" and found["left_out"] == 1 and list(found["extrapolated"]) == [names[1]]
    assert main(["allocate", MODEL, *words]) == 0
    text = capsys.readouterr().out
    assert "left out: 1 scores" in text and "extrapolated: 1 layers hold an option" in text and names[1] in text


def test_qua2sedimo_goes_by_the_embeddings(structure: Structure, cache: Path, capsys: pytest.CaptureFixture[str],
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(capsys, "--bits", "3.5", "--method", "faithful")["provider"] == "gnn-operation"
    assert said(capsys, "--bits", "3.5", "--method", "faithful", "--provider", "predictor")["provider"] == "predictor"
    joints, asked = joints_of(structure), []

    def scored(_: object, options: object) -> Iterator[Any]:
        asked.append(options)
        yield joints

    monkeypatch.setattr("engine.evidence.blocks.scored_blocks", scored)
    first = said(capsys, "--bits", "3.5", "--method", "faithful-blocks")
    assert said(capsys, "--bits", "3.5", "--method", "faithful-blocks")["recipe"] == first["recipe"]
    assert len(asked) == 1, "the second time they were found"
    budget = first["budget_bytes"]
    assert first["damage"] == pytest.approx(faithful(joint_problem(structure, joints, budget)).cost)
    assert first["provider"] == JOINT and first["bytes"] <= budget
    said(capsys, "--bits", "3.5", "--method", "faithful-blocks", "--options", *map(str, OPTIONS))
    assert asked[1] == OPTIONS
    assert "leave --provider" in said(capsys, "--bits", "3", "--method", "faithful-blocks", "--provider", "x", code=2)


def test_a_sweep_over_budgets(capsys: pytest.CaptureFixture[str]) -> None:
    rows = said(capsys, "--sweep", "--method", "faithful")["sweep"]
    weights = [row["lambda"] for row in rows]
    assert len(rows) > 5 and weights == sorted(weights, reverse=True)
    assert [r["damage"] for r in rows] == sorted((r["damage"] for r in rows), reverse=True)
    assert all(r["bytes"] <= r["budget_bytes"] for r in rows)
    assert [r["lambda"] for r in said(capsys, "--sweep", "3", "4", "--method", "lagrangian")["sweep"]] == [None, None]
    assert main(["allocate", MODEL, "--sweep", "1", "4", "--method", "lagrangian"]) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 3
    for words, part in ((["--sweep", "1"], "No recipe is that small"), (["--sweep", "--bits", "3"], "leave --bits"),
                        (["--sweep", "-1"], "above 0")):
        assert part in said(capsys, *words, code=2)
