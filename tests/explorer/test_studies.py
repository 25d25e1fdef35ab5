"""Study files as the page shows them: what they hold, whose they are, and what is wrong with them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from engine.core.errors import InputError, StudyError
from engine.core.places import assets_dir
from engine.models.structure import read_structure
from engine.study.summary import summary
from explorer.studies import Measured, best_trials, find_studies, own_file, remember, study_view
from explorer.studying import fit_text, labels_of, trials_figure, view_text, writable

SHIPPED = assets_dir() / "studies" / "emoji-unet.sqlite"


def test_a_study_in_words_and_dots() -> None:
    view = study_view(SHIPPED, read_structure("emoji-unet"), labels_of("2*psnr - 3*bits"))
    assert view.trials == len(view.rows) > 100 and view.metrics["psnr"] and not view.metrics["image_mse"]
    assert view.planned >= max(view.presets.values())
    text = view_text(view)
    assert f"**{view.trials} trials**" in text
    # What is shown is the reliability of the target's label, as `study show` tells it.
    told = summary(SHIPPED, "psnr")["label_reliability"]
    assert f"PSNR: **{told['median']:.3f} over" in text and "uncorrected" in text and list(view.reliability) == ["psnr"]
    assert told["median"] != summary(SHIPPED, "image_mse")["label_reliability"]["median"]
    other = study_view(SHIPPED, read_structure("emoji-unet"), ("nothing",))
    assert "of nothing: **unknown (" in view_text(other) and "per image" in view_text(other)
    with pytest.raises(InputError):
        labels_of("psnr +")
    figure = trials_figure(view.rows, "psnr")
    assert sum(len(t.x) for t in figure.data) == view.trials
    assert figure.data[0].customdata[0].startswith("t:emoji-unet:")


def test_studies_of_other_models_and_no_studies_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="another model"):
        study_view(SHIPPED, read_structure("emoji-dit"))
    cut = tmp_path / "cut.sqlite"
    cut.write_bytes(SHIPPED.read_bytes()[:200_000])
    with pytest.raises(StudyError, match="damaged or cut short"):
        study_view(cut, read_structure("emoji-unet"))
    text = tmp_path / "text.sqlite"
    text.write_text("no database at all, but long enough to be looked at " * 40)
    with pytest.raises(StudyError, match="no SQLite file"):
        study_view(text, read_structure("emoji-unet"))
    with pytest.raises(StudyError, match="no study file"):
        study_view(tmp_path / "none.sqlite", read_structure("emoji-unet"))


def test_best_trials_are_those_none_beats() -> None:
    rows = tuple(Measured("s", i, "p", {}, bits, {"psnr": p, "mse": -p}) for i, (bits, p) in
                 enumerate([(3, 20.0), (3.5, 19.0), (4, 25.0), (4, 24.0), (5, 25.0), (6, 30.0)]))
    for metric, higher in (("psnr", True), ("mse", False)):
        assert [r.number for r in best_trials(rows, metric, higher)] == [0, 2, 5]
    many = tuple(Measured("s", i, "p", {}, i, {"psnr": float(i)}) for i in range(100))
    thinned = best_trials(many, "psnr", True)
    assert len(thinned) == 12 and (thinned[0].number, thinned[-1].number) == (0, 99)


def test_shipped_studies_are_copied_before_they_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTSCAPE_CACHE", str(tmp_path))
    structure = read_structure("emoji-unet")
    before = SHIPPED.read_bytes()
    path = writable(SHIPPED, own_file(structure))
    assert path.parent == tmp_path / "studies" and path.read_bytes() == before
    path.write_bytes(b"")
    assert writable(SHIPPED, path).read_bytes() == b"", "a copy that has grown is not overwritten"
    shutil.copyfile(SHIPPED, path)
    assert [p for p in find_studies(structure) if p in (path, SHIPPED)] == [path, SHIPPED]
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="cannot be copied"):
        writable(SHIPPED, tmp_path / "taken" / "x.sqlite")


def test_a_file_opened_by_its_path_is_remembered(tmp_path: Path) -> None:
    structure, other = read_structure("emoji-unet"), tmp_path / "mine.sqlite"
    shutil.copyfile(SHIPPED, other)
    assert other not in find_studies(structure)
    remember(structure.identity, other)
    assert other in find_studies(structure)
    other.unlink()
    assert other not in find_studies(structure)


def test_a_fit_is_told_beside_its_controls() -> None:
    row = {"spearman": 0.98, "spearman_in_bins": 0.85, "mae": 0.5}
    text = fit_text({"kind": "damage", "seconds": 12.0, "report": {"trials": 223, "quality": {}, "target": {
        "ridge": {**row, "spearman_in_bins": None}, "damage": row}}})
    assert "223 trials in 12 s" in text
    assert "| **damage** | 0.980 | 0.850 | 0.5 |" in text and "| ridge | 0.980 | –" in text
