"""The command line of exports, and the bench of packed kernels, on tiny pipelines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from engine.cli import export as command
from engine.cli.main import main
from engine.core.option import parse_option
from engine.export.formats import FORMATS
from engine.live.model import Model


def test_the_command_offers_every_format() -> None:
    assert tuple(FORMATS) == command.FORMATS


def test_export_writes_verifies_and_reports(transformer: Model, tmp_path: Path,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    home = str(transformer.directory)
    words = ["export", home, "--recipe", "uaq-4", "--format", "packed", "--out", str(out), "--json"]
    assert main(words) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result["max_difference"] == 0.0 and result["weight_difference"] == 0.0
    assert result["layers"] == {"exact": len(transformer.structure.layers), "requantized": 0, "left": 0}
    assert 0 < result["bytes"] < result["file_bytes"]
    assert abs((out / "transformer" / "quantscape.safetensors").stat().st_size / result["file_bytes"] - 1) < 0.01
    assert "load_packed" in result["python"] and "layers exact" in printed.err
    assert main(words) == 2
    assert "exists already" in capsys.readouterr().err


def test_the_plan_is_shown_without_writing(transformer: Model, tmp_path: Path,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    home = str(transformer.directory)
    assert main(["export", home, "--recipe", "kmeans_c-4", "--format", "torchao", "--plan", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["layers"]["requantized"] == sum(x.kind == "linear" for x in transformer.structure.layers)
    assert {c["held"] for c in result["changes"]} == {"uaq-4", "fp16"}
    assert main(["export", home, "--recipe", "kmeans_c-4", "--format", "torchao", "--out", str(tmp_path / "o")]) == 2
    assert "--accept-requantized" in capsys.readouterr().err
    assert main(["export", home, "--recipe", "uaq-4"]) == 2
    assert "--out" in capsys.readouterr().err
    assert main(["export", home, "--recipe", str(tmp_path / "none.json"), "--plan"]) == 2
    assert not list(tmp_path.iterdir())


def test_a_recipe_of_another_model_needs_transfer(transformer: Model, tmp_path: Path,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    from engine.core.recipe import ModelRef, Recipe, save_recipe

    layer = transformer.structure.choices[0].name
    save_recipe(tmp_path / "r.json", Recipe(ModelRef("a twin", "", "0" * 64), {layer: parse_option("uaq-4")}))
    words = ["export", str(transformer.directory), "--recipe", str(tmp_path / "r.json"), "--plan", "--json"]
    assert main(words) == 2
    assert "made for another model" in capsys.readouterr().err
    assert main([*words, "--transfer"]) == 0
    assert json.loads(capsys.readouterr().out)["layers"]["exact"] == len(transformer.structure.layers)


def test_scores_are_written_for_model_explorer(transformer: Model, tmp_path: Path,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sensitivity", str(transformer.directory), "--provider", "weight-error", "--options", "uaq-4", "--out",
             str(tmp_path / "scores.json"), "--node-data", str(tmp_path / "nodes.json")]
    assert main(words) == 0
    (found,) = json.loads((tmp_path / "nodes.json").read_text()).values()
    assert len(found["results"]) == len(transformer.structure.layers)


def test_import_writes_a_recipe_and_lists_what_differs(transformer: Model, tmp_path: Path,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    from engine.cli import importing
    from engine.core.recipe import load_recipe
    from engine.export.importers import IMPORTERS

    assert tuple(IMPORTERS) == importing.KINDS
    name = transformer.structure.choices[0].name
    (tmp_path / "apple.json").write_text(json.dumps({name: 1, "gone": 4}))
    words = ["import", str(tmp_path / "apple.json"), "--kind", "apple", "--model", str(transformer.directory), "--out"]
    assert main([*words, str(tmp_path / "r.json"), "--json"]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert list(result["nearly"]) == [name] and result["unknown"] == ["gone"] and result["layers"] == 1
    assert "unknown: gone" in printed.err
    assert str(load_recipe(tmp_path / "r.json").option(name)) == "kmeans_a-2"
    (tmp_path / "apple.json").write_text('{"gone": 4}')
    assert main([*words, str(tmp_path / "s.json")]) == 2
    assert not (tmp_path / "s.json").exists()


@pytest.mark.slow
def test_lowbit_measures_every_side_and_restores(unet: Model) -> None:
    from engine.bench.lowbit import METHODS, measured

    before = {k: v.clone() for k, v in unet.denoiser.state_dict().items()}
    modules = dict(unet.denoiser.named_modules())
    result = measured(unet, rounds=1)
    linear = [x for x in unet.structure.layers if x.kind == "linear"]
    assert result["layers"] == len(linear)
    assert result["full_linear_mb"] == pytest.approx(4e-6 * sum(x.weights for x in linear))
    for method in METHODS:
        assert result[f"{method}_seconds_per_step"] > 0 and result[f"{method}_resident_mb"] > 1
        assert result[f"{method}_linear_mb"] < result["full_linear_mb"] / 2
        assert 1e-4 < result[f"{method}_output_error"] < 0.5
    assert result["int8_output_error"] < result["nf4_output_error"]
    assert dict(unet.denoiser.named_modules()) == modules
    assert all(torch.equal(v, before[k]) for k, v in unet.denoiser.state_dict().items())
