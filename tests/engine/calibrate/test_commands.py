"""The command line of calibration, and what it leaves for the explorer: scores, channels, votes."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.calibrate.allocation import preset_recipe
from engine.calibrate.channels import Channels, load_report, report_path, save_report
from engine.calibrate.presets import find_presets
from engine.cli import calibrate
from engine.cli.main import main
from engine.core.errors import StoreError
from engine.core.places import CACHE_VARIABLE
from engine.core.recipe import load_recipe, save_recipe
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


def calibrated(capsys: pytest.CaptureFixture[str], home: Path, tmp_path: Path, *words: str
               ) -> tuple[dict[str, Any], str]:
    """What the command answers in JSON and in text."""
    command = ["calibrate", str(home), "--out", str(tmp_path / "made.json"), "--directory", str(tmp_path / "work"),
               *SHORT, *words]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert main(command) == 0
    return found, capsys.readouterr().out


@pytest.mark.slow
def test_fuller_outlier_scores_are_left(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    structure = read_structure(str(home))
    found, _ = calibrated(capsys, home, tmp_path, "--method", "ranges")
    first = find_scores(structure)["outliers"]
    assert first.trust.images == 4 and found["notes"] == [], "none was known; then it is of equal reach"
    calibrated(capsys, home, tmp_path, "--method", "ranges", "--exclude", "none")
    whole = find_scores(structure)["outliers"]
    assert len(whole.layers) > len(first.layers)
    for words in ([], ["--images", "3", "--exclude", "none"]):
        found, text = calibrated(capsys, home, tmp_path, "--method", "ranges", *words)
        assert find_scores(structure)["outliers"] == whole
        assert f"outliers scores are left, of {len(whole.layers)} layers and 4 images" in found["notes"][0]
        assert found["notes"][0] in text.splitlines()


@pytest.mark.slow
def test_only_the_default_settings_make_a_preset(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    usual = argparse.ArgumentParser()
    calibrate.arguments(usual)
    chosen = vars(usual.parse_args(["m", "--method", "dmq", "--out", "o"]))
    elsewhere = {"model", "method", "preset", "recipe", "out", "directory", "device", "offload", "dtype"}
    assert set(calibrate.SETTINGS) == chosen.keys() - elsewhere
    found, text = calibrated(capsys, home, tmp_path, "--method", "dmq", "--preset", "W4A6")
    assert "Not made the calibrated preset W4A6, because --images, --steps, --rows," in found["notes"][0]
    assert found["notes"][0] in text.splitlines() and str(tmp_path / "made.json") in found["notes"][0]
    structure = read_structure(str(home))
    assert find_presets(structure) == {}
    short = [n.removeprefix("--").replace("-", "_") for n in SHORT[::2]]
    monkeypatch.setattr(calibrate, "SETTINGS", tuple(n for n in calibrate.SETTINGS if n not in short))
    found, _ = calibrated(capsys, home, tmp_path, "--method", "dmq", "--preset", "W4A6")
    assert found["notes"] == [] and find_presets(structure)["W4A6"].hash == found["recipe"]


def test_layers_that_a_weight_method_cannot_take_are_named(home: Path, tmp_path: Path,
                                                           capsys: pytest.CaptureFixture[str]) -> None:
    found, text = calibrated(capsys, home, tmp_path, "--method", "ranges", "--preset", "W4A6", "--weights", "nf4")
    recipe, structure = load_recipe(tmp_path / "made.json"), read_structure(str(home))
    left = found["not_taken"]
    assert left and {structure.layer(n).kind for n in left} == {"conv2d"} and not recipe.options.keys() & set(left)
    assert f"takes no such layers (layers: {len(left)}): {left[0]}, " in text


def test_inputs_of_untouched_layers_say_why_they_are_not_scaled(home: Path, tmp_path: Path,
                                                                capsys: pytest.CaptureFixture[str]) -> None:
    structure = read_structure(str(home))
    recipe = preset_recipe(structure, "W4A6")
    name = next(x.name for x in structure.choices if x.name in recipe.activations)
    options = {n: o for n, o in recipe.options.items() if n != name}
    save_recipe(tmp_path / "pair.json", replace(recipe, options=options, provenance={}), structure)
    found, text = calibrated(capsys, home, tmp_path, "--method", "dmq", "--recipe", str(tmp_path / "pair.json"))
    assert found["not_scaled"]["the layer is untouched"] == [name] == found["not_shifted"]["the layer is untouched"]
    for kind in ("scaling", "shifts"):
        assert f"no {kind}, because the layer is untouched (layers: 1): {name}" in text
    setting = load_recipe(tmp_path / "made.json").activations[name]
    assert not setting.scaled and not setting.shifted and found["not_taken"] == []


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
    (["--groups", "5000"], "--groups must be from 1 to 3, the sampling steps, got 5000"),
    (["--weights", "rtn"], "stored by one of uaq"), (["--weights", "int8", "--preset", "W4A8"], "not 'int8'"),
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
