"""The command line of calibration, and what it leaves for the explorer: scores, channels, votes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from engine.calibrate.channels import Channels, load_report, report_path, save_report
from engine.cli.main import main
from engine.core.errors import StoreError
from engine.core.recipe import load_recipe
from engine.models.quiet import quiet
from engine.models.structure import read_structure
from engine.models.tiny import TINY
from engine.providers.files import find_scores, load_scores

SHORT = ["--images", "4", "--steps", "3", "--rows", "12", "--iterations", "6", "--rounding-iterations", "6", "--groups",
         "3"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint on disk."""
    place = tmp_path_factory.mktemp("pipelines") / "plain"
    with quiet():
        TINY["ddpm"]().save_pretrained(place)
    return place


@pytest.mark.parametrize("method", ["ranges", "les", "dmq"])
def test_calibrate_writes_a_recipe(method: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "made.recipe.json"
    assert main(["calibrate", str(home), "--method", method, "--preset", "W4A6", "--out", str(out), "--json",
                 "--directory", str(tmp_path / "work"), *SHORT]) == 0
    found = json.loads(capsys.readouterr().out)
    recipe = load_recipe(out)
    assert found["recipe"] == recipe.hash and found["layers"] == len(recipe.options)
    assert {a.scheme for a in recipe.activations.values()} == {"static"}
    assert bool(found["blocks"]) == (method == "dmq")
    assert (found["shifted"] + found["shifts_refused"] > 0) == (method == "dmq")
    assert (found["weights"] is None) == (method == "ranges" or not recipe.weights)
    assert Path(found["tables"]).is_file() and found["stages"]["trajectories"]["peak_mb"] > 0
    structure = read_structure(str(home))
    tables = next(iter(recipe.activations.values())).tables
    report = load_report(report_path(structure, tables))
    assert report.tables == tables and report.layers.keys() == recipe.activations.keys()
    shifted = {n for n, c in report.layers.items() if c.agreement is not None}
    assert shifted >= {n for n, a in recipe.activations.items() if a.shifted}
    assert find_scores(structure)["outliers"].layers


@pytest.mark.slow
def test_what_could_not_be_calibrated_is_counted_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    """A channel that is always zero, and a layer of which no call shows an input."""
    from engine.calibrate.ranges import _Stream

    with quiet(), torch.no_grad():
        pipeline = TINY["ddpm"]()
        name, norm = next((n, m) for n, m in pipeline.unet.named_modules() if n.endswith("norm2"))
        norm.weight[3] = norm.bias[3] = 0  # and SiLU keeps zero
        pipeline.save_pretrained(tmp_path / "dead")
    dead, unseen = name.replace("norm2", "conv2"), name.replace("norm2", "conv1")
    take = _Stream.take
    monkeypatch.setattr(_Stream, "take", lambda self, x, v: None if x.name == unseen else take(self, x, v))
    words = ["calibrate", str(tmp_path / "dead"), "--method", "les", "--preset", "W4A6", "--out",
             str(tmp_path / "made.json"), "--directory", str(tmp_path / "work"), *SHORT]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    recipe = load_recipe(tmp_path / "made.json")
    assert found["dead_channels"] == {dead: 1} and found["never_executed"] == found["inputs_left"] == [unseen]
    assert unseen in recipe.options and unseen not in recipe.activations
    assert sum(map(len, found["not_scaled"].values())) + found["scaled"] == found["layers"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert f"zero in every step, 1 in all (layers: 1): {dead}\n" in text and "no scaling, because " in text
    assert f"no range of them was seen (layers: 1): {unseen}\n" in text


def test_an_allocation_instead_of_a_preset(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    assert main(["allocate", str(home), "--bits", "5", "--method", "uniform", "--out", str(first)]) == 0
    assert main(["calibrate", str(home), "--method", "les", "--recipe", str(first), "--out", str(second), *SHORT]) == 0
    assert "stored bits per weight" in capsys.readouterr().out
    assert load_recipe(second).options == load_recipe(first).options


@pytest.mark.slow
def test_outliers_as_scores(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "scores.json"
    assert main(["sensitivity", str(home), "--provider", "outliers", "--images", "2", "--out", str(out)]) == 0
    assert "largest / median" in capsys.readouterr().out and not load_scores(out).is_damage
    assert main(["allocate", str(home), "--bits", "5", "--method", "knapsack", "--provider", str(out), "--out",
                 str(tmp_path / "never.json")]) == 2
    assert "name scores of damage" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "said"), [
    (["--preset", "W9A9"], "preset is written like"), (["--images", "1"], "--images"),
    (["--iterations", "0"], "iterations"), (["--rows", "1"], "inputs"), (["--exclude", "all"], "full precision"),
])
def test_bad_input_is_one_sentence(words: list[str], said: str, home: Path, tmp_path: Path,
                                   capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "never.json"
    assert main(["calibrate", str(home), "--method", "les", "--out", str(out), *SHORT, *words]) == 2
    message = capsys.readouterr().err
    assert said in message and message.count("\n") == 1 and not out.exists()


def test_ranges_after_scales_and_shifts() -> None:
    channels = Channels(torch.tensor([-8.0, 0.0]), torch.tensor([8.0, 1.0]), torch.tensor([2.0, 1.0]),
                        torch.tensor([[0, 2]], dtype=torch.uint8))
    low, high = channels.after(0)
    assert low.tolist() == [-4, 0] and high.tolist() == [4, 4]
    assert channels.after()[1].tolist() == [4, 1]


def test_a_damaged_report(tmp_path: Path) -> None:
    from engine.calibrate.channels import ChannelReport

    path = tmp_path / "a.channels.safetensors"
    channels = Channels(torch.zeros(2), torch.ones(2), figures={"scaling_before": 0.5})
    save_report(path, ChannelReport("m", "0" * 12, {"x": channels}, {"b": (1.0, 0.5, 0.1)}, {"scaling": (1.0, 2.0)}))
    found = load_report(path)
    assert found.layers["x"].figures == {"scaling_before": 0.5} and found.blocks == {"b": (1.0, 0.5, 0.1)}
    path.write_bytes(b"junk")
    with pytest.raises(StoreError, match="calibration report"):
        load_report(path)
