"""MPQ-Diff on the command line: scores, activation errors, weight and pair allocations, and clear refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.calibrate.beta import BETAS, Choice, choose
from engine.cli.main import main
from engine.core.errors import InputError
from engine.core.places import CACHE_VARIABLE
from engine.core.recipe import load_recipe, uniform
from engine.live.model import open_model
from engine.models.tiny import TINY


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("models") / "tiny"
    TINY["pixart-alpha"]().save_pretrained(path)
    return str(path)


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> Any:
    assert main([*words, *([] if code else ["--json"])]) == code
    out, err = capsys.readouterr()
    return err if code else json.loads(out)


@pytest.mark.slow
def test_from_scores_to_a_pair_recipe(home: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--images", "6", "--steps", "3", "--profiled", "2"]
    error = said(capsys, "allocate", home, "--bits", "5", "--method", "mpq-diff", code=2)
    assert "--provider orthogonality" in error
    found = said(capsys, "sensitivity", home, "--provider", "orthogonality", *small, "--partial", str(tmp_path / "run"))
    assert found["provider"] == "orthogonality" and found["providers"] == ["orthogonality", "orthogonality-linear"]
    assert "6 pictures" in found["note"] and found["about"]["profiled"] == "2"
    again = said(capsys, "sensitivity", home, "--provider", "orthogonality", *small, "--partial", str(tmp_path / "run"))
    assert again["scores"] == found["scores"]

    searched = said(capsys, "sensitivity", home, "--provider", "orthogonality", *small, "--beta", "auto", "--auto-bits",
                    "6", "--partial", str(tmp_path / "run"), "--out", str(tmp_path / "auto.json"))
    assert float(searched["about"]["beta"]) in BETAS

    answers = {m: said(capsys, "allocate", home, "--bits", "5", "--method", m, "--quantize-all")
               for m in ("mpq-diff", "mpq-diff-useful")}
    assert all(a["bytes"] <= a["budget_bytes"] for a in answers.values())
    beside = {row["method"]: row["damage"] for row in answers["mpq-diff-useful"]["beside"]}
    assert {"uniform", "size-only", "random", "mpq-flat", "mpq-projection", "weight-error"} == set(beside)
    assert answers["mpq-diff-useful"]["damage"] <= min(beside.values()) * (1 + 1e-3)

    pairs = ["--bits", "5", "--activations", "8", "6", "4", "--bops", "2.6%"]  # of 32 x 32 bits
    assert "activation-error" in said(capsys, "allocate", home, "--method", "mpq-diff-useful", *pairs, code=2)
    errors = said(capsys, "sensitivity", home, "--provider", "activation-error", "--images", "2", "--steps", "3")
    assert errors["scheme"] == "token" and errors["macs"]
    out = tmp_path / "pair.recipe.json"
    best = said(capsys, "allocate", home, "--method", "mpq-diff-useful", *pairs, "--out", str(out))
    assert best["bops"] <= best["budget_bops"] and best["slack_bytes"] >= 0
    controls = {row["method"]: row["damage"] for row in best["beside"]}
    assert {"uniform", "size-only", "random", "mpq-flat", "weight-error"} == {*controls, *best["beside_left_out"]}
    assert best["damage"] <= min(controls.values()) * (1 + 1e-3)
    recipe = load_recipe(out)
    assert recipe.activations and len({a.bits for a in recipe.activations.values()}) > 1
    for method in ("mpq-diff", "uniform", "random", "size-only", "knapsack"):
        other = said(capsys, "allocate", home, "--method", method, *pairs, "--provider", "orthogonality")
        assert ("beside" in other) == (method == "mpq-diff")
        assert other["bops"] <= other["budget_bops"], method
    pinned = said(capsys, "allocate", home, "--method", "mpq-diff-useful", "--bits", "6", "--exclude", "first-last",
                  "--out", str(out))
    ends = [n for n, o in load_recipe(out).options.items() if n in ("pos_embed.proj", "proj_out")]
    assert ends and all(str(load_recipe(out).options[n]) == "uaq-8" for n in ends) and pinned["bytes"]


@pytest.mark.parametrize(("words", "sentence"), [
    (["sensitivity", "--provider", "orthogonality", "--images", "1"], "at least 4 pictures"),
    (["sensitivity", "--provider", "orthogonality", "--images", "0"], "--images must be"),
    (["sensitivity", "--provider", "orthogonality", "--images", "4", "--steps", "2", "--profiled", "3"], "3 of 2"),
    (["sensitivity", "--provider", "orthogonality", "--beta", "0"], "beta must be above 0"),
    (["sensitivity", "--provider", "orthogonality", "--beta", "much"], "a number above 0, or auto"),
    (["sensitivity", "--provider", "orthogonality", "--images", "4", "--steps", "2", "--profiled", "2", "--beta",
      "1e9"], "--beta 1e+09 rounds the importance of"),
    (["sensitivity", "--provider", "orthogonality", "--first", "999999"], "--first must be from 0 to 27"),
    (["sensitivity", "--provider", "activation-error", "--first", "28"], "got 28"),
    (["allocate"], "needs a budget"),
    (["allocate", "--activations", "8"], "needs a budget"),
    (["allocate", "--bits", "4", "--method", "size-only", "--exclude", "all"], "--exclude takes"),
    (["allocate", "--bits", "4", "--method", "size-only", "--activations", "3"], "--activations takes 4, 5"),
    (["allocate", "--method", "size-only", "--activations", "8", "--bops", "-1"], "no budget of bit operations"),
])
def test_bad_input_is_one_sentence(home: str, words: list[str], sentence: str, tmp_path: Path,
                                   monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))  # no scores that another test has left
    error = said(capsys, words[0], home, *words[1:], code=2)
    assert sentence in error and len(error.strip().splitlines()) == 1


def test_the_value_of_least_loss_is_chosen_and_equal_recipes_are_measured_once(home: str) -> None:
    model = open_model(home)
    recipes = {8.0: uniform(model.structure, "uaq-8"), 2.0: uniform(model.structure, "uaq-2"),
               9.0: uniform(model.structure, "uaq-8")}
    found = [*choose(model, recipes, images=2)][-1]
    assert isinstance(found, Choice) and found.value == 8.0
    assert found.losses[2.0] > found.losses[8.0] == found.losses[9.0] > 0
    assert model.recipe.options == {}
    with pytest.raises(InputError, match="no values"):
        next(choose(model, {}))
    model.close()
