"""`fit` says before it begins what it could not explain, and afterwards every figure it found."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.analysis.attribution import GRADIENTS as METHODS
from engine.analysis.attribution import Method
from engine.analysis.fitting import fit_predictor
from engine.analysis.library import predictor_stem
from engine.analysis.predictor import Kind
from engine.analysis.predictor_files import load_predictor
from engine.analysis.training import Ranked, Training
from engine.cli.fit import GRADIENTS
from engine.cli.main import main
from engine.core.places import assets_dir
from engine.evidence.studied import FIT_SECONDS, Studied
from engine.models.structure import read_structure


@pytest.mark.parametrize(("words", "error"), [
    (["--attributions", "saliency", "--kinds", "damage"], "follows gradients of a network; fit gnn or guided too"),
    (["--attributions", "ablation", "--no-overlays"], "leave one of them away"),
])
def test_attributions_that_cannot_be_made(words: list[str], error: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "no-such.sqlite", *words]) == 2
    assert error in capsys.readouterr().err


def test_every_method_of_captum_can_be_asked_for() -> None:
    assert {*GRADIENTS, "ablation"} == {str(m) for m in Method} - {Method.SHAPLEY, Method.INTEGRATED_GRADIENTS}
    assert set(GRADIENTS) <= {str(m) for m in METHODS}


def test_every_figure_of_every_hop_is_said_and_the_fit_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[Training] = []

    def learned(studied: Studied, training: Training, kinds: object) -> Iterator[Any]:
        asked.append(training)
        plan = replace(training, hidden=4, batch=16)
        return fit_predictor(studied.table, plan, [Kind.GNN], studied.about)

    monkeypatch.setattr("engine.evidence.learned.learn", learned)
    study = shutil.copy(assets_dir() / "studies" / "emoji-dit.sqlite", tmp_path)
    words = ["fit", study, "--kinds", "gnn", "--trials", "40", "--epochs", "1", "--ranked", "hops", "--no-overlays",
             "--out", str(tmp_path)]
    assert main(words) == 0
    assert asked[0].ranked is Ranked.HOPS
    text = capsys.readouterr().out
    table = text.partition("gnn: target by the embedding norm of a hop\n")[2].splitlines()
    assert table[0].split() == "spearman within 0.1 bits and preset kendall ndcg@10 mean error".split()
    hops = next(i for i, line in enumerate(table) if line.startswith("all blocks together"))
    assert [line.split("  ")[0] for line in table[1:hops]] == [f"hop {h}" for h in range(hops - 1)] and hops > 3
    assert all(len(line.split()) >= 7 for line in table[1:hops])
    assert table[hops + 1].startswith("spearman of the norms themselves")
    structure = read_structure("emoji-dit")
    predictor = load_predictor(predictor_stem(structure, tmp_path), structure)
    assert predictor.training.ranked is Ranked.HOPS and predictor.about[FIT_SECONDS].isdigit()
