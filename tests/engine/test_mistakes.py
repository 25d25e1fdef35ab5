"""What people get wrong on the command line is said at once, in one sentence, and costs them nothing."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.cli import main as main_module
from engine.cli.main import RESUMED, main
from engine.cli.pairs import bounded
from engine.cli.sensitivity import _shown
from engine.core.places import assets_dir
from engine.core.record import Scores
from engine.models.structure import read_structure
from engine.providers.files import find_scores


@pytest.fixture
def unopened(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model may be opened: that takes seconds, and minutes where it is large."""
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was opened")

    monkeypatch.setattr("engine.live.model.open_model", refuse)


@pytest.mark.parametrize(("words", "sentence"), [
    (["sensitivity", "--provider", "weight-error", "--options", "uaq-4"], "name a file of their own with --out"),
    (["sensitivity", "--provider", "measured", "--images", "1"], "name a file of their own with --out"),
    (["sensitivity", "--provider", "measured", "--levels", "stage"], "scores of emoji-unet with single layers"),
    (["sensitivity", "--provider", "outliers", "--out", f"{__file__}/x.json"], "is a file, not a folder"),
    (["allocate", "--bits", "3.5", "--bops", "9%"], "name activation widths with --activations"),
    (["generate", "--recipe", "uaq-99", "--out", "p.png"], "no preset of that name; name a file, or one of fp16, uaq-"),
    (["generate", "--out", "."], "is a folder"),
    (["generate", "--out", f"{__file__}/p.png"], "is a file, not a folder"),
    (["generate", "--device", "banana", "--out", "p.png"], "--device takes cpu"),
    (["generate", "--out", "p.txt"], "name a .png file with --out"),
    (["calibrate", "--method", "dmq", "--preset", "banana", "--out", "r.json"], "A preset is written like"),
    (["export", "--recipe", "uaq-4", "--out", str(Path(__file__).parent)], "exists already"),
])
def test_it_is_said_before_anything_is_opened(words: list[str], sentence: str, unopened: None, tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
                                              ) -> None:
    monkeypatch.chdir(tmp_path)
    code = main([words[0], "emoji-unet", *words[1:]])
    said = capsys.readouterr().err
    assert code == 2 and sentence in said and said.count("\n") == 1, said
    assert not list(tmp_path.iterdir())


def test_fuller_scores_may_replace_what_is_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.cli.sensitivity import _check_narrower

    structure = read_structure("emoji-unet")
    images = int(find_scores(structure)["measured"].about["images"])
    for more in (None, images, images + 1):
        _check_narrower(argparse.Namespace(model="emoji-unet", provider="measured", options=None, levels=["layer"],
                                           images=more))


@pytest.mark.parametrize("verb", ["evaluate", "export", "study", "calibrate"])
def test_what_an_interrupt_leaves(verb: str, monkeypatch: pytest.MonkeyPatch,
                                  capsys: pytest.CaptureFixture[str]) -> None:
    def stopped(_: Any) -> None:
        raise KeyboardInterrupt

    words = {"evaluate": ["m", "--recipe", "r"], "export": ["m", "--recipe", "r"], "study": ["run", "m"],
             "calibrate": ["m", "--method", "dmq", "--out", "o"]}
    real = main_module.importlib.import_module
    monkeypatch.setattr(main_module.importlib, "import_module", lambda name: SimpleNamespace(
        run=stopped, arguments=real(name).arguments))
    assert main([verb, *words[verb]]) == 130
    assert ("goes on from there" in capsys.readouterr().err) == (verb in RESUMED)


def test_scores_of_blocks_alone_are_shown(tmp_path: Path) -> None:
    structure = read_structure("emoji-unet")
    blocks = {b.id: {"uaq-4": float(i)} for i, b in enumerate(structure.level("block"))}
    scores = Scores("measured", structure.identity, "image_mse", {}, blocks)
    args = argparse.Namespace(out=str(tmp_path / "s.json"), node_data=None, model="emoji-unet")
    _, text = _shown(SimpleNamespace(structure=structure), args, [scores])
    assert f"{len(blocks)} blocks" in text and list(blocks)[-1] in text


def test_bounds_in_words() -> None:
    found = {(1.2, 0.2, False): "no recipe of this size has less than 0.2 (6 times less)",
             (1.0, 1.0, True): "proved optimal: no recipe of this size has less",
             (1.0, -1e-16, False): "with no bound on how much less another recipe of this size could have"}
    for (cost, bound, proved), words in found.items():
        assert bounded(SimpleNamespace(cost=cost, bound=bound, proved=proved)) == words


@pytest.mark.slow
def test_a_fit_leaves_a_shipped_study_as_it_is(tmp_path: Path) -> None:
    shipped = assets_dir() / "studies" / "emoji-unet.sqlite"
    before = hashlib.sha256(shipped.read_bytes()).hexdigest()
    assert main(["fit", str(shipped), "--kinds", "damage", "--trials", "40", "--no-overlays", "--out",
                 str(tmp_path)]) == 0
    assert hashlib.sha256(shipped.read_bytes()).hexdigest() == before


def test_damaged_json_is_said_to_be_that(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.json").write_text('{"a": ')
    assert main(["import", str(tmp_path / "x.json"), "--model", "emoji-unet", "--out", str(tmp_path / "y.json")]) == 2
    assert "x.json is not valid JSON" in capsys.readouterr().err
