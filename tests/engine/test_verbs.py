"""`generate`, `quantize`, `evaluate` on the command line: what they make, their JSON, one sentence for the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.cli.main import main
from engine.core.option import parse_option
from engine.core.recipe import Recipe, model_ref, recipe_to_json, save_recipe, uniform
from engine.live.png import read_png
from engine.models.structure import read_structure
from engine.models.tiny import TINY

SHORT = ("--steps", "2")
FAMILIES = {"text": "sd1", "class": "dit", "none": "ddpm"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One saved pipeline per kind of conditioning."""
    paths = {kind: tmp_path_factory.mktemp("models") / name for kind, name in FAMILIES.items()}
    for kind, name in FAMILIES.items():
        TINY[name]().save_pretrained(paths[kind])
    return {kind: str(path) for kind, path in paths.items()}


@pytest.fixture(scope="module")
def recipes(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A good recipe of the class-conditioned model, and bad ones, by what is wrong with them."""
    place = tmp_path_factory.mktemp("recipes")
    structure = read_structure(models["class"])
    good = uniform(structure, "uaq-4")
    save_recipe(place / "good.json", good, structure)
    content = recipe_to_json(good)
    bad = {
        "layers": json.dumps(content | {"options": {"nowhere": "uaq-4"}}),
        "identity": json.dumps(content | {"model": content["model"] | {"identity": "1" * 32}}),
        "option": json.dumps(content | {"options": {structure.choices[0].name: "uaq-7"}}),
        "json": "{",
        "shape": "[]",
        "model": json.dumps({k: v for k, v in content.items() if k != "model"}),
    }
    for name, text in bad.items():
        (place / f"{name}.json").write_text(text)
    return {path.stem: str(path) for path in place.glob("*.json")}


def said(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """The JSON of a verb that succeeds; nothing else on standard output."""
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The sentence of a verb that refuses: alone on standard error, nothing on standard output."""
    assert main(list(words)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.endswith(".\n") and err.count("\n") == 1 and "Traceback" not in err
    return err.strip()


@pytest.mark.slow
def test_the_same_seed_draws_the_same_file(models: dict[str, str], tmp_path: Path,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    def drawn(name: str, seed: str) -> bytes:
        out = str(tmp_path / name)
        assert said(capsys, "generate", models["text"], "--prompt", "red apple", "--seed", seed, *SHORT, "--out",
                    out) == {"out": out, "seed": int(seed), "cut_tokens": 0}
        return Path(out).read_bytes()

    first = drawn("a.png", "7")
    assert first == drawn("b.png", "7") and first != drawn("c.png", "8")
    saved = read_png(tmp_path / "a.png")
    assert (saved.prompt, saved.seed, saved.recipe) == ("red apple", 7, None) and saved.settings["steps"] == 2


def test_a_recipe_is_drawn_beside_full_precision(models: dict[str, str], recipes: dict[str, str], tmp_path: Path,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    command = ("generate", models["class"], "--label", "2", "--seed", "7", *SHORT)
    said(capsys, *command, "--out", str(tmp_path / "full.png"))
    told = [said(capsys, *command, "--recipe", recipes["good"], "--out", str(tmp_path / n)) for n in ("a.png", "b.png")]
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    full, both = read_png(tmp_path / "full.png"), read_png(tmp_path / "a.png")
    width = full.pixels.shape[1]
    assert both.pixels.shape == (full.pixels.shape[0], 2 * width, 3)
    assert np.array_equal(both.pixels[:, :width], full.pixels)
    assert not np.array_equal(both.pixels[:, width:], full.pixels)
    assert both.recipe and both.recipe.hash == told[0]["recipe"] and (both.label, both.seed) == (2, 7)
    assert told[0]["metrics"] == told[1]["metrics"] and 0 < told[0]["metrics"]["psnr"]
    assert 4 < told[0]["bits_per_weight"] < 16
    assert main([*command, "--recipe", recipes["good"], "--out", str(tmp_path / "c.png")]) == 0
    assert "stored bits per weight, seed 7; psnr" in capsys.readouterr().out


def test_transfer_takes_a_recipe_of_another_identity(models: dict[str, str], recipes: dict[str, str], tmp_path: Path,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "a.png")
    told = said(capsys, "generate", models["class"], "--recipe", recipes["identity"], "--transfer", *SHORT,
                "--out", out)
    assert read_png(out).recipe and told["bits_per_weight"] < 16


@pytest.mark.slow
def test_without_a_prompt_the_picture_is_unconditional(models: dict[str, str], tmp_path: Path,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    for name, words in {"empty": ("--prompt", ""), "none": ()}.items():
        said(capsys, "generate", models["text"], *words, *SHORT, "--out", str(tmp_path / f"{name}.png"))
    assert (tmp_path / "empty.png").read_bytes() == (tmp_path / "none.png").read_bytes()
    said(capsys, "generate", models["none"], *SHORT, "--out", str(tmp_path / "d.png"))
    assert read_png(tmp_path / "d.png").prompt == ""


def test_a_prompt_beyond_what_the_model_reads_is_drawn_and_said(models: dict[str, str], tmp_path: Path,
                                                                capsys: pytest.CaptureFixture[str]) -> None:
    words = "red apple " * 200
    assert main(["generate", models["text"], "--prompt", words, *SHORT, "--out", str(tmp_path / "a.png")]) == 0
    assert "tokens of the prompt are beyond what" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "words", "part"), [
    ("class", ["--seed", "-1"], "A seed must be a whole number from 0"),
    ("class", ["--seed", str(2**32)], "A seed must be a whole number from 0"),
    ("class", ["--steps", "0"], "The number of steps must be a whole number from 1"),
    ("class", ["--steps", "1001"], "The number of steps must be"), ("class", ["--guidance", "nan"], "Guidance must be"),
    ("class", ["--label", "1000000"], "A class label must be"),
    ("class", ["--scheduler", "odd"], "no scheduler called"),
    ("text", ["--label", "3"], "--label 3 came, but MODEL draws from text; pass --prompt"),
    ("class", ["--prompt", "x"], "--prompt 'x' came, but MODEL draws from a class number; pass --label"),
    ("none", ["--prompt", "x"], "draws from the seed alone; leave it out."),
    ("none", ["--label", "0"], "draws from the seed alone; leave it out."),
    ("text", ["--prompt", "a" * 5001], "A prompt has 5,001 characters"),
    ("class", ["--recipe", "DIR/absent.json"], "Cannot read DIR/absent.json"),
])
def test_what_generate_refuses(kind: str, words: list[str], part: str, models: dict[str, str], tmp_path: Path,
                               capsys: pytest.CaptureFixture[str]) -> None:
    spelled = [w.replace("DIR", str(tmp_path)) for w in words]
    sentence = refused(capsys, "generate", models[kind], *spelled, "--out", str(tmp_path / "a.png"))
    assert part.replace("MODEL", models[kind]).replace("DIR", str(tmp_path)) in sentence
    assert not (tmp_path / "a.png").exists()


BAD_RECIPES = [("layers", "1 layers that"), ("identity", "made for another model"), ("option", "Unknown option"),
               ("json", "not valid JSON"), ("shape", "is no recipe"), ("model", "which model it was made for")]


@pytest.mark.slow
def test_a_recipe_that_does_not_fit_is_refused_before_anything_is_drawn(
        models: dict[str, str], recipes: dict[str, str], tmp_path: Path,
        capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    for verb in ("generate", "evaluate"):
        monkeypatch.setattr(f"engine.cli.{verb}.followed", lambda events, title: drawn.append(title) or events)
    out = ("--out", str(tmp_path / "a.png"))
    for name, part in BAD_RECIPES:
        assert part in refused(capsys, "generate", models["class"], "--recipe", recipes[name], *SHORT, *out)
        assert part in refused(capsys, "evaluate", models["class"], "--recipe", recipes[name], "--images", "2", *SHORT)
    assert drawn == []
    said(capsys, "generate", models["class"], "--recipe", recipes["good"], *SHORT, *out)
    assert drawn == ["full precision", "quantized"]  # what is watched here is what draws


def test_missing_tables_are_refused_before_anything_is_drawn(
        models: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch) -> None:
    structure = read_structure(models["class"])
    content = recipe_to_json(uniform(structure, "uaq-4"))
    content["activations"] = {structure.choices[0].name: {"bits": 6, "scheme": "static", "tables": "0" * 12,
                                                          "groups": 1}}
    path = tmp_path / "tables.json"
    path.write_text(json.dumps(content))
    monkeypatch.setattr("engine.live.generate._batches", None)  # drawing would fail otherwise than by a sentence
    out = str(tmp_path / "a.png")
    assert "0" * 12 in refused(capsys, "generate", models["class"], "--recipe", str(path), "--out", out)
    assert "0" * 12 in refused(capsys, "evaluate", models["class"], "--recipe", str(path), "--images", "2", *SHORT)


@pytest.mark.parametrize("words", [["generate", "--out", "a.png"], ["quantize", "--store", "s"],
                                   ["evaluate", "--recipe", "uaq-4"]])
def test_a_model_that_is_not_there(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    absent = str(tmp_path / "absent")
    assert f"There is no model '{absent}'" in refused(capsys, words[0], absent, *words[1:])
    assert list(tmp_path.iterdir()) == []


def test_a_store_is_built_and_resumed(models: dict[str, str], tmp_path: Path,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    structure, store = read_structure(models["class"]), str(tmp_path / "store")
    command = ("quantize", models["class"], "--store", store, "--options")
    first = said(capsys, *command, "uaq-4")
    assert set(first) == {"store", "layers", "options_built", "weights", "seconds", "processor_seconds", "peak_bytes",
                          "weights_per_second"}
    assert (first["store"], first["layers"], first["options_built"]) == (store, *[len(structure.layers)] * 2)
    assert first["weights"] == sum(layer.weights for layer in structure.layers) and first["weights_per_second"] > 0
    shards = {p.name: p.read_bytes() for p in Path(store).glob("shard-*")}
    again = said(capsys, *command, "uaq-4")
    assert (again["layers"], again["options_built"], again["weights"], again["weights_per_second"]) == (0, 0, 0, 0)
    more = said(capsys, *command, "uaq-4", "uaq-3", "fp16")
    assert more["options_built"] == len(structure.layers)  # only what was missing
    assert shards.items() <= {p.name: p.read_bytes() for p in Path(store).glob("shard-*")}.items()
    assert main([*command, "uaq-3"]) == 0 and "0 layer options in" in capsys.readouterr().out


@pytest.mark.parametrize(("place", "options", "part"), [
    ("new", ["uaq-7"], "Unknown option"), ("new", ["fp16"], "needs no store; name options that quantize"),
    ("file", ["uaq-4"], "is a file, but a store is a directory; name an empty or new one"),
    ("file/below", ["uaq-4"], "Not a directory"), ("others", ["uaq-4"], "holds no store but other files"),
])
def test_what_quantize_refuses(place: str, options: list[str], part: str, models: dict[str, str], tmp_path: Path,
                               capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "letter.txt").write_text("kept")
    sentence = refused(capsys, "quantize", models["class"], "--store", str(tmp_path / place), "--options", *options)
    assert part in sentence and "free space" not in sentence
    assert (tmp_path / "file").read_text() == (tmp_path / "others" / "letter.txt").read_text() == "kept"
    assert not (tmp_path / "new").exists()


def test_a_store_of_another_model_is_refused(models: dict[str, str], tmp_path: Path,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    store = ("--store", str(tmp_path / "store"), "--options", "uaq-4")
    said(capsys, "quantize", models["class"], *store)
    assert "another model" in refused(capsys, "quantize", models["text"], *store)


@pytest.mark.slow
def test_every_metric_says_on_how_many_pictures(models: dict[str, str], recipes: dict[str, str],
                                                capsys: pytest.CaptureFixture[str]) -> None:
    told = said(capsys, "evaluate", models["class"], "--recipe", recipes["good"], "--images", "3", *SHORT)
    assert (told["model"], told["images"]) == (models["class"], 3) and 4 < told["bits_per_weight"] < 16
    metrics = {m["name"]: m for m in told["metrics"]}
    assert {"psnr", "ssim"} <= set(metrics)
    assert all(set(m) == {"name", "value", "low", "high", "n", "unit"} and m["n"] > 0 for m in told["metrics"])
    psnr = metrics["psnr"]
    assert psnr["n"] == 3 and psnr["unit"] == "dB" and psnr["low"] <= psnr["value"] <= psnr["high"]
    finer = said(capsys, "evaluate", models["class"], "--recipe", "uaq-8", "--images", "3", *SHORT)
    assert next(m["value"] for m in finer["metrics"] if m["name"] == "psnr") > psnr["value"]
    assert main(["evaluate", models["class"], "--recipe", "uaq-8", "--images", "2", *SHORT]) == 0
    table = capsys.readouterr().out.splitlines()
    assert "stored bits per weight" in table[0] and table[1].split()[:2] == ["metric", "value"]


@pytest.mark.parametrize(("words", "part"), [
    (["--images", "0"], "--images must be from 1 to 4096"), (["--images", "4097"], "--images must be"),
    (["--steps", "0"], "The number of steps must be"), (["--guidance", "-1"], "Guidance must be"),
    (["--prompts", "DIR/absent.txt"], "Cannot read prompts"), (["--prompts", "DIR/empty.txt"], "holds no prompts"),
    (["--recipe", "uaq-7"], "uaq-7"),
])
def test_what_evaluate_refuses(words: list[str], part: str, models: dict[str, str], tmp_path: Path,
                               capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    spelled = [w.replace("DIR", str(tmp_path)) for w in words]
    assert part in refused(capsys, "evaluate", models["class"], "--recipe", "uaq-4", "--images", "2", *SHORT, *spelled)


@pytest.mark.parametrize(("verb", "words"), [("generate", ["--label", "2", "--out", "DIR/a.png"]),
                                             ("evaluate", ["--images", "2"])])
@pytest.mark.slow
def test_packed_kernels_execute_a_recipes_own_layers(verb: str, words: list[str], models: dict[str, str],
                                                     tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    structure = read_structure(models["class"])
    save_recipe(tmp_path / "r.json", Recipe(model_ref(structure), {
        layer.name: parse_option("nf4" if layer.kind == "linear" else "uaq-4") for layer in structure.choices}))
    command = (verb, models["class"], *SHORT, *(w.replace("DIR", str(tmp_path)) for w in words))
    dense = said(capsys, *command, "--recipe", str(tmp_path / "r.json"))
    told = said(capsys, *command, "--recipe", str(tmp_path / "r.json"), "--kernels", "packed")
    found = told.pop("kernels")
    assert told == dense, "nf4 multiplies with the very weights that are simulated"
    linear = sum(layer.kind == "linear" for layer in structure.layers)
    assert (found["executed"], found["simulated"]) == (linear, len(structure.layers) - linear)
    assert found["packed_bytes"] < found["dense_bytes"] * 0.2
    assert all(found[side][key] > 0 for side in ("full", "packed") for key in ("seconds_per_step", "resident_bytes"))
    assert main([*command, "--recipe", str(tmp_path / "r.json"), "--kernels", "packed"]) == 0
    assert f"{linear} layers executed on packed weights" in capsys.readouterr().out.splitlines()[-1]


def test_packed_kernels_without_a_layer_for_them(models: dict[str, str], recipes: dict[str, str], tmp_path: Path,
                                                 capsys: pytest.CaptureFixture[str],
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.live.generate._batches", None)  # drawing would fail otherwise than by a sentence
    packed, out = ("--kernels", "packed"), ("--out", str(tmp_path / "a.png"))
    good = ("--recipe", recipes["good"])
    assert "no whole Linear layer" in refused(capsys, "generate", models["class"], *good, *out, *packed)
    assert "no whole Linear layer" in refused(capsys, "evaluate", models["class"], *good, "--images", "2", *packed)
    assert "name one with --recipe" in refused(capsys, "generate", models["class"], *out, *packed)
