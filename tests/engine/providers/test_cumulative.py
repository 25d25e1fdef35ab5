"""Apple's signal: its decibels by hand, the order in which layers join, going on after a kill, and the command line."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.cli.main import main
from engine.core.option import Option
from engine.core.recipe import Recipe, model_ref
from engine.core.record import Scores
from engine.live.apply import apply_all
from engine.live.cancel import Cancelled
from engine.live.generate import pictures
from engine.live.model import Model
from engine.live.request import checked
from engine.models.tiny import TINY
from engine.providers.cumulative import Pass, cumulative, decibels
from engine.providers.progress import Progress
from engine.providers.prompts import request_for, split_of

K3 = Option("kmeans_a", 3)
SMALL = Pass((K3,), images=2)


def test_decibels_by_hand() -> None:
    full = torch.zeros(3, 4)
    changed = torch.tensor([[2.0, 0, 0, 0], [4.0, 4, 4, 4], [0.0, 0, 0, 0]])
    # Peak 2 over an error of 1: 6.02 dB; peak over an error of the same size: 0 dB; no error at all counts as 200 dB.
    assert decibels(full, changed) == pytest.approx((6.0 + 0.0 + 200.0) / 3)
    assert decibels(full[:1], changed[:1]) == 6.0


def run(model: Model, partial: Path, stop_at: int | None = None) -> Any:
    seen = []
    for step in cumulative(model, SMALL, partial=partial):
        if isinstance(step, Scores):
            return seen, step
        seen.append(step)
        if len(seen) == stop_at:
            return seen, None
    raise AssertionError("it ends with the scores")


def latents(model: Model, options: dict[str, Option]) -> torch.Tensor:
    request = checked(request_for(split_of(model), "calibration", SMALL.images, steps=SMALL.steps), model.limits)
    apply_all(model, Recipe(model_ref(model.structure), options))
    return torch.stack([p.latents[-1] for p in pictures(model, request, record_latents=True)])


@pytest.mark.slow
def test_layers_join_in_order_of_what_each_does_alone(fragile: Model, tmp_path: Path) -> None:
    steps, scores = run(fragile, tmp_path / "p.jsonl")
    assert all(isinstance(s, Progress) and s.seconds_left is not None for s in steps)
    records = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()[1:]]
    alone = {r["layer"]: r["db"] for r in records if r["pass"] == "alone"}
    joined = [r["layer"] for r in records if r["pass"] == "joined"]
    assert set(joined) == set(alone) and len(records) == 2 * len(alone) == steps[-1].of == int(
        scores.about["evaluations"])
    assert [alone[n] for n in joined] == sorted(alone.values(), reverse=True) and len(set(alone.values())) > 3
    full = latents(fragile, {})
    # The second signal holds the first two layers, the last one all of them: measured here once more.
    for count in (2, len(joined)):
        db = decibels(full, latents(fragile, dict.fromkeys(joined[:count], K3)))
        assert scores.layers[joined[count - 1]][str(K3)] == pytest.approx(10 ** (-db / 10))
    assert scores.layers[joined[0]][str(K3)] == pytest.approx(10 ** (-alone[joined[0]] / 10))
    assert all(row for row in scores.layers.values())


@pytest.mark.slow
def test_a_cancelled_run_goes_on(fragile: Model, tmp_path: Path) -> None:
    whole, scores = run(fragile, tmp_path / "a.jsonl")
    run(fragile, tmp_path / "b.jsonl", stop_at=len(whole) // 2 + 2)
    stop = threading.Event()
    stop.set()
    with pytest.raises(Cancelled):
        list(cumulative(fragile, SMALL, partial=tmp_path / "b.jsonl", cancel=stop))
    rest, again = run(fragile, tmp_path / "b.jsonl")
    assert again.layers == scores.layers and len(rest) == len(whole) - len(whole) // 2 - 2


@pytest.mark.slow
def test_from_the_signal_to_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTSCAPE_CACHE", str(tmp_path / "cache"))
    TINY["ddpm"]().save_pretrained(tmp_path / "tiny")
    asked = ["allocate", str(tmp_path / "tiny"), "--bits", "5", "--method", "threshold"]
    assert main(asked) == 2
    error = capsys.readouterr().err
    assert "no cumulative scores" in error and "--provider cumulative makes them" in error
    assert main(["sensitivity", str(tmp_path / "tiny"), "--provider", "cumulative", "--images", "1", "--options",
                 "kmeans_a-4", "kmeans_a-6", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["about"]["steps"] == "1"
    assert main([*asked, "--json", "--provider", "no-such"]) == 0  # the rule insists on its own signal
    answer = json.loads(capsys.readouterr().out)
    assert answer["provider"] == "cumulative" and answer["bytes"] <= answer["budget_bytes"]
