"""Predictors on disk: the same predictions afterwards, found by identity, and one sentence for every damage."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.analysis.additive import distil, table_scores
from engine.analysis.library import find_predictor, predictor_stem
from engine.analysis.predictor import Kind, Predictor
from engine.analysis.predictor_files import load_predictor, save_predictor
from engine.analysis.ranking import spearman
from engine.analysis.trials import TrialTable
from engine.core.errors import StudyError
from engine.core.option import FP16


@pytest.fixture
def stem(predictor: Predictor, tmp_path: Path) -> Path:
    save_predictor(tmp_path / "kept", predictor)
    return tmp_path / "kept"


def test_a_round_trip_changes_no_prediction(stem: Path, predictor: Predictor, small: TrialTable) -> None:
    again = load_predictor(stem, predictor.subject.structure)
    for kind in (Kind.RIDGE, Kind.DAMAGE, Kind.GNN, Kind.GUIDED, Kind.BLEND):
        a, b = predictor.predict(small.picks[:9], kind), again.predict(small.picks[:9], kind)
        assert b.mean == pytest.approx(a.mean, rel=1e-5)
        assert b.spread == pytest.approx(a.spread, rel=1e-4)
        assert (b.unsupported == a.unsupported).all()
    assert again.quick(small.picks) == pytest.approx(predictor.quick(small.picks))
    assert (again.kind, again.formula, again.report, again.about) == (
        predictor.kind, predictor.formula, predictor.report, predictor.about)


def test_nothing_but_safetensors_and_json(stem: Path) -> None:
    assert sorted(p.name for p in stem.parent.iterdir()) == ["kept.json", "kept.safetensors"]
    assert json.loads(stem.with_suffix(".json").read_text())["version"] == 3


def test_damaged_files_get_one_sentence(stem: Path, predictor: Predictor) -> None:
    structure, text = predictor.subject.structure, stem.with_suffix(".json").read_text()
    tensors = stem.with_suffix(".safetensors").read_bytes()
    content = json.loads(text)

    def refused(words: str) -> None:
        with pytest.raises(StudyError, match=words) as failure:
            load_predictor(stem, structure)
        assert "\n" not in str(failure.value)

    for changed, words in (
        ({**content, "version": 9}, "no predictor of version 3"), ([], "no predictor"),
        ({**content, "features": "0"}, "other features"), ({**content, "identity": "e" * 64}, "another model"),
        ({k: v for k, v in content.items() if k != "kinds"}, "damaged"), ({**content, "options": ["x-9"]}, "damaged"),
    ):
        stem.with_suffix(".json").write_text(json.dumps(changed))
        refused(words)
    stem.with_suffix(".json").write_text(text[:100])
    refused("not valid JSON")
    stem.with_suffix(".json").write_text(text)
    stem.with_suffix(".safetensors").write_bytes(tensors[:-10])
    refused("truncated")
    stem.with_suffix(".safetensors").unlink()
    refused("Cannot read")


def test_a_predictor_is_found_by_identity(predictor: Predictor, tmp_path: Path,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    structure = predictor.subject.structure
    monkeypatch.setenv("QUANTSCAPE_CACHE", str(tmp_path))
    assert find_predictor(structure) is None
    save_predictor(predictor_stem(structure), predictor)
    assert predictor_stem(structure) == tmp_path / "predictors" / "planted-ffffffff"
    found = find_predictor(structure)
    assert found is not None
    assert found.report == predictor.report
    assert find_predictor(replace(structure, identity="e" * 64)) is None
    predictor_stem(structure).with_suffix(".json").write_text("{}")
    assert find_predictor(structure) is None  # passed over, not fatal


def test_the_table_is_the_additive_model(predictor: Predictor) -> None:
    scores = table_scores(predictor)
    assert scores.provider == "predictor"
    assert set(scores.layers) == set(predictor.subject.graph.choices)
    assert all(row[str(FP16)] == 0 and min(row.values()) == 0 for row in scores.layers.values())
    assert scores.about["study"] == "planted"
    assert int(scores.about["extrapolated"]) >= 0
    assert scores.trust.trials == 80
    assert "within bins" in scores.trust.note


def test_distilling_follows_the_predictor(predictor: Predictor, small: TrialTable) -> None:
    for kind in (Kind.DAMAGE, Kind.GUIDED):
        model = distil(predictor, small.picks, kind, recipes=200)
        fresh = np.random.default_rng(5).permuted(small.picks, axis=0)
        assert spearman(model.predict(fresh), predictor.quality(fresh, kind)) > 0.95
