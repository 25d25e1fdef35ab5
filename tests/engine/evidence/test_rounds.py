"""Rounds of improvement: recipes near the best, an interrupted round goes on, and every round has images of its own."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engine.advisor import Advisor
from engine.allocate.baselines import random_recipes
from engine.allocate.problem import Limits, blind_scores, layer_problem
from engine.analysis.fitting import fit_predictor, fitted
from engine.analysis.planted import Plan as Planted
from engine.analysis.planted import measure, plant
from engine.analysis.predictor import Kind
from engine.analysis.trials import subject_of, trial_table
from engine.cli.main import main
from engine.core.sizes import bits_per_weight, recipe_bytes
from engine.evidence import near as near_module
from engine.evidence import rounds as rounds_module
from engine.evidence.cost import workers
from engine.evidence.gauge import Gauge, Setting
from engine.evidence.near import HIGH_BITS, LOW_BITS, drawn, measure_near, near_draws
from engine.evidence.rounds import earlier, first_unused, keep_round, open_round, round_of, rounds
from engine.evidence.studied import near_round
from engine.live.model import open_model
from engine.providers.progress import Progress
from engine.study.storage import read_study
from engine.study.trial import State


def test_draws_lie_near_the_best_at_every_size() -> None:
    truth = plant(Planted(blocks=4), 0)
    trials = measure(truth, 80, 1)
    table = trial_table(subject_of(truth.structure, truth.errors, trials), trials, "psnr")
    advisor = Advisor(fitted(fit_predictor(table, kinds=[Kind.DAMAGE])))
    draws = near_draws(advisor, 12, 1)
    assert [(d.preset, d.number) for d in draws] == [("near:1", i) for i in range(12)]
    bits = [bits_per_weight(truth.structure, d.options) for d in draws]
    assert LOW_BITS < min(bits) and max(bits) <= HIGH_BITS and max(bits) - min(bits) > 0.5
    assert near_draws(advisor, 12, 1) == draws and near_draws(advisor, 12, 2)[0].options != draws[0].options
    limits = Limits(options=advisor.options(), keep_untouched=False)
    for d in draws:  # better than what chance gives at the same bytes
        problem = layer_problem(truth.structure, blind_scores(truth.structure),
                                recipe_bytes(truth.structure, d.options), limits)
        chance = [truth.psnr(dict(r.recipe.options)) for r in random_recipes(problem, 8, d.number)]
        assert truth.psnr(dict(d.options)) > np.median(chance)


def test_presets_tell_their_round() -> None:
    assert [near_round(p) for p in ("near:1", "near:12", "paper-6", "paper-6:0.2-0.8", "near")] == [1, 12, 0, 0, 0]


def evidence(number: int, first: int, images: int, ours: float, lead: float) -> dict[str, Any]:
    """What the chapter reads of one round."""
    figures = {"anchored": {"spearman_in_bins": 0.8 + number / 100}}
    rows = [{"contender": "ours", "metrics": {"psnr": [ours, ours - 1, ours + 1]}, "differences": {"psnr": [0, 0, 0]}},
            {"contender": "size-only", "metrics": {}, "differences": {"psnr": [lead + 1, lead, lead + 2]}},
            {"contender": "uniform", "metrics": {}, "differences": {"psnr": [lead, lead - 0.5, lead + 0.5]}}]
    return {"model": "m", "identity": "a" * 64, "round": number, "kind": "anchored",
            "scale": {"first": first, "images": images}, "report": {"quality": {}, "target": figures},
            "study": {"trials": 10 + number, "presets": [{"preset": "wide", "trials": 10},
                                                         *([{"preset": "near:1", "trials": 1}] if number else [])]},
            "contest": {"prompts": 549, "budgets": [{"budget": "3.5 bits", "rows": rows}]}}


def test_rounds_are_kept_and_compared(tmp_path: Path) -> None:
    before = evidence(0, 0, 100, 25.0, -0.25)
    assert rounds(before) == "" and first_unused([]) == 0
    keep_round(tmp_path, before)
    known = earlier(tmp_path, "m", "a" * 64, 1)
    assert known == [before] and first_unused(known) == 100
    assert not earlier(tmp_path, "m", "a" * 64, 0), "a round that is measured again is not judged by itself"
    text = rounds(evidence(1, 100, 50, 26.0, 0.75) | {"rounds": known})
    assert "| 3.5 bits | 25.00 (24.00 to 26.00); -0.25 (-0.75 to +0.25) on uniform | " \
           "26.00 (25.00 to 27.00); +0.75 (+0.25 to +1.25) on uniform |" in text
    assert "| 1 | 11 | 1 | 101 to 150 | anchored | 0.810 |" in text


def test_a_round_is_over_once_its_trials_and_its_evidence_are_there(tmp_path: Path,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    trials: list[tuple[str, State]] = [("paper-6", State.DONE), ("wide", State.WAITING)]

    class Fake:
        def trials(self, state: State | None = State.DONE) -> list[Any]:
            return [SimpleNamespace(preset=p, state=s) for p, s in trials if state in (None, s)]

    monkeypatch.setattr(rounds_module, "read_study", lambda _: nullcontext(Fake()))

    def now() -> int:
        return open_round(tmp_path / "s.sqlite", tmp_path, "m", "a" * 64)

    assert (now(), round_of(tmp_path)) == (1, 0)
    trials += [("near:1", State.DONE), ("near:1", State.WAITING)]
    assert (now(), round_of(tmp_path), round_of(tmp_path, 1)) == (1, 1, 0)
    trials[-1] = ("near:1", State.FAILED)
    assert now() == 1, "it is not proved yet: the same command goes on"
    keep_round(tmp_path, evidence(1, 0, 2, 25.0, 0.0))
    assert now() == 2
    trials.append(("near:1", State.RUNNING))
    assert now() == 1


@pytest.mark.parametrize(("words", "error"), [
    (["--near", "3", "--trials", "5"], "--trials would leave them out again"), (["--round", "0"], "--round must be"),
])
def test_senseless_rounds(words: list[str], error: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evidence", "no-such.sqlite", *words]) == 2
    assert error in capsys.readouterr().err


@pytest.mark.slow
def test_an_interrupted_round_goes_on_with_its_own_draws(tiny: Path, tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    db, kept, source = tiny / "study.sqlite", tmp_path / "near-1.json", str(tiny / "model")
    kinds = [Kind.DAMAGE, Kind.ANCHORED]

    def draws(path: Path, number: int = 1) -> Any:
        *steps, found = drawn(db, path, 4, number, source=source, kinds=kinds)
        return steps, found

    steps, first = draws(kept)
    assert steps and all(isinstance(s, Progress) for s in steps)
    # Drawn around the optimum of the kind in use, whichever of the kinds that is.
    assert json.loads(kept.read_text())["kind"] in kinds and len(first) == 4
    records = measure_near(db, source, first)
    while next(records).event != "done":
        pass
    records.close()  # interrupted after one trial of four
    assert round_of(db) == 1
    # The trial that is there changes nothing: fitted anew (another file) the draws are the same, and kept they need
    # no fit at all.
    assert draws(tmp_path / "other.json")[1] == first
    monkeypatch.setattr(near_module, "learn", lambda *_: pytest.fail("it was fitted again"))
    assert draws(kept) == ([], first)
    list(measure_near(db, source, first))
    with read_study(db) as study:
        here = {t.number: t for t in study.trials(preset="near:1")}
        assert all(dict(here[d.number].options).items() >= dict(d.options).items() for d in first)
        assert study.counts()[State.WAITING] == 0 and len(here) == 4


@pytest.mark.slow
def test_every_round_is_judged_on_images_of_its_own(tiny: Path, tmp_path: Path,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evidence", str(tiny / "study.sqlite"), "--model", str(tiny / "model"), "--images", "2", "--judged", "1",
             "--switched", "0", "--signal", "0", "--steps", "1", "--sizes", "--kinds", "damage", "anchored", "--timed",
             "0", "--assets", str(tmp_path), "--out", str(tmp_path / "page.md")]
    assert main(words) == 0
    assert "### Rounds" not in (tmp_path / "page.md").read_text()
    assert main([*words, "--near", "3", "--round", "2"]) == 0
    text = (tmp_path / "page.md").read_text()
    assert "### Rounds" in text and text.index("### Rounds") < text.index("## Held by tests")
    kept = {p.name.rpartition("round-")[2]: json.loads(p.read_text())
            for p in (tmp_path / "evidence").glob("*.evidence-round-*.json")}
    (_, a), (_, b) = sorted(kept.items())
    assert b["scale"]["first"] == a["scale"]["first"] + a["scale"]["images"] == 2 and b["round"] == 2
    assert len(list((tmp_path / "evidence").glob("*.final-2.jsonl"))) == 1
    model = open_model(str(tiny / "model"))
    try:
        seeds = [set(Gauge(model, None, Setting("final", 2, 1, first=f))._request.seeds) for f in (0, 2)]
    finally:
        model.close()
    assert not seeds[0] & seeds[1]
    capsys.readouterr()
    assert main([*words, "--near", "3", "--json"]) == 0
    out, err = capsys.readouterr()
    assert "study: round 3 of trials near the best" in err and list(json.loads(out)["rounds"].values()) == [3]


@pytest.mark.slow
def test_workers_are_timed_on_the_same_trials(tiny: Path) -> None:
    *steps, found = workers(str(tiny / "model"), trials=2, images=1)
    assert [s.doing for s in steps] == ["1 workers", "2 workers"]
    assert (found["trials"], found["images"], set(found["workers"])) == (2, 1, {"1", "2"})
    assert found["ratio"] == pytest.approx(found["workers"]["1"] / found["workers"]["2"])
    assert all(s > 0 for s in found["workers"].values())
