"""One contract for every format: what the plan says is what the file holds, and nothing half-done is ever left."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.core.activation import Activation
from engine.core.errors import EngineError, InputError, RecipeError
from engine.core.option import FP16, parse_option
from engine.core.recipe import ModelRef, Recipe, load_recipe, model_ref, uniform
from engine.export import exporting
from engine.export.exporting import Exported, export, plan_export, snippet
from engine.export.formats import FORMATS
from engine.export.plan import Fate
from engine.export.recipe_format import FILE
from engine.live.model import Model

Mixed = Callable[[Model], Recipe]
EXACT = ("packed", "recipe", "dequantized")


def finish(model: Model, recipe: Recipe, name: str, target: Path, accept: bool = True) -> Exported:
    *_, last = export(model, recipe, name, target, accept_requantized=accept)
    assert isinstance(last, Exported)
    return last


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("which", ["unet", "transformer"])
def test_the_reloaded_file_is_the_preview(name: str, which: str, mixed: Mixed, tmp_path: Path,
                                          request: pytest.FixtureRequest) -> None:
    model: Model = request.getfixturevalue(which)
    before = {k: v.clone() for k, v in model.denoiser.state_dict().items()}
    done = finish(model, mixed(model), name, tmp_path / "out")
    assert done.directory == tmp_path / "out" and list(tmp_path.iterdir()) == [done.directory]
    assert load_recipe(done.directory / FILE).options == dict(done.plan.recipe.options)
    assert (done.directory / "model_index.json").exists() == FORMATS[name].is_pipeline
    if name in EXACT:
        assert (done.difference.output, done.difference.weight) == (0.0, 0.0)
        assert done.plan.counts == {"exact": len(model.structure.layers), "requantized": 0, "left": 0}
    else:
        assert done.difference.weight < 1e-6
        limit = 0.05 if parse_option("int8") in done.plan.recipe.options.values() else 1e-5
        assert done.difference.output <= limit * done.difference.output_scale
    assert not FORMATS[name].is_pipeline or done.difference.tensors == len(before)
    assert all(torch.equal(v, before[k]) for k, v in model.denoiser.state_dict().items()), "the preview was not undone"
    assert not model.recipe.options


@pytest.mark.parametrize("name", FORMATS)
def test_plans_account_for_every_layer(name: str, unet: Model, mixed: Mixed) -> None:
    recipe = mixed(unet)
    plan = plan_export(unet.structure, recipe, name)
    assert [p.layer for p in plan.layers] == [layer.name for layer in unet.structure.layers]
    assert sum(plan.counts.values()) == len(plan.layers)
    assert plan.bytes == sum(p.bytes for p in plan.layers) <= plan.file_bytes
    for planned, layer in zip(plan.layers, unet.structure.layers, strict=True):
        assert planned.wanted == recipe.option(layer.choice)
        assert planned.held == plan.recipe.option(layer.choice)
        assert (planned.fate is Fate.EXACT) == (planned.held == planned.wanted) == (planned.reason == "")
        assert (planned.fate is Fate.LEFT) == (planned.held == FP16 != planned.wanted)
    assert plan_export(unet.structure, plan.recipe, name).changes == (), "what a format holds it can hold"


@pytest.mark.parametrize("name", FORMATS)
def test_snippets_are_python_that_names_the_directory(name: str, unet: Model, mixed: Mixed) -> None:
    code = snippet(plan_export(unet.structure, mixed(unet), name), "/some/where")
    assert "/some/where" in code
    ast.parse(code)


@pytest.mark.parametrize("name", [n for n in FORMATS if n not in EXACT])
def test_changed_layers_have_to_be_accepted(name: str, unet: Model, mixed: Mixed, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"cannot hold .* layers as previewed"):
        export(unet, mixed(unet), name, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_differs_fails_and_leaves_nothing(name: str, transformer: Model, tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe is changed behind the writer's back: as if the file held something else."""
    honest = FORMATS[name]
    wrong = uniform(transformer.structure, "rtn_g64-3")
    other = plan_export(transformer.structure, wrong, name)

    def write(model: Model, plan: object, directory: Path) -> object:
        yield from honest.write(model, other, directory)

    broken = type(honest)(**{**{f: getattr(honest, f) for f in honest.__dataclass_fields__}, "write": write})
    monkeypatch.setattr(exporting, "format_named", lambda _: broken)
    with pytest.raises(EngineError, match=r"nothing was left|no packed export"):
        finish(transformer, uniform(transformer.structure, "rtn_g64-5"), name, tmp_path / "out")
    assert not list(tmp_path.iterdir())
    assert not transformer.recipe.options


@pytest.mark.parametrize("name", ["sdnq", "torchao", "bitsandbytes"])
def test_a_missing_package_is_named_with_its_version(name: str, unet: Model, mixed: Mixed, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.export import packages

    wanted = plan_export(unet.structure, mixed(unet), name).packages[-1]
    real = packages._installed
    monkeypatch.setattr(packages, "_installed", lambda p: "" if p == wanted.name else real(p))
    with pytest.raises(EngineError, match=f"needs {wanted.name} {wanted.version}.*pip install {wanted}"):
        export(unet, mixed(unet), name, tmp_path / "out", accept_requantized=True)
    monkeypatch.setattr(packages, "_installed", lambda p: "0.0.9" if p == wanted.name else real(p))
    with pytest.raises(EngineError, match=r"installed: .* 0\.0\.9"):
        export(unet, mixed(unet), name, tmp_path / "out", accept_requantized=True)


def test_an_existing_target_is_refused_and_untouched(unet: Model, mixed: Mixed, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(EngineError, match="exists already"):
        finish(unet, mixed(unet), "packed", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_a_recipe_of_another_model_is_refused(unet: Model, tmp_path: Path) -> None:
    ref = model_ref(unet.structure)
    stranger = Recipe(ModelRef("twin", ref.denoiser_class, "f" * 64), {})
    with pytest.raises(RecipeError, match="another model"):
        export(unet, stranger, "packed", tmp_path / "out")
    unknown = Recipe(ref, {"no.such.layer": parse_option("uaq-4")})
    with pytest.raises(RecipeError, match=r"no\.such\.layer"):
        export(unet, unknown, "packed", tmp_path / "out")
    active = Recipe(ref, {}, {unet.structure.choices[0].name: Activation(8)})
    with pytest.raises(RecipeError, match="activations"):
        export(unet, active, "dequantized", tmp_path / "out")
    with pytest.raises(InputError, match="no export format 'zip'"):
        export(unet, Recipe(ref, {}), "zip", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_sentence(unet: Model, mixed: Mixed, tmp_path: Path,
                                     monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    from engine.export.tensorfile import TensorFile

    def full(self: TensorFile, tensor: torch.Tensor) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(EngineError, match="No space left on device; nothing was"):
        patched.setattr(TensorFile, "append", full)
        finish(unet, mixed(unet), "packed", tmp_path / "out")
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(EngineError, match=r"takes 0\.\d MB, but .* has 0\.0 MB free"):
        finish(unet, mixed(unet), "packed", tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["sdnq", "torchao", "bitsandbytes", "dequantized"])
def test_a_disk_that_fills_under_a_library_s_file_is_one_sentence(unet: Model, mixed: Mixed, tmp_path: Path, name: str,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors import SafetensorError

    def full(*given: Any) -> Any:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        yield

    monkeypatch.setitem(FORMATS, name, replace(FORMATS[name], write=full))
    with pytest.raises(EngineError, match=r"No space left on device.*; nothing was left behind"):
        finish(unet, plan_export(unet.structure, mixed(unet), name).recipe, name, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["packed", "dequantized"])
@pytest.mark.parametrize("failure", [
    MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    torch.OutOfMemoryError("CUDA out of memory"),
])
def test_memory_that_runs_out_while_comparing_is_said_so(unet: Model, mixed: Mixed, tmp_path: Path, name: str,
                                                         failure: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*given: Any, **more: Any) -> Any:
        raise failure

    monkeypatch.setattr("diffusers.DiffusionPipeline.from_pretrained", none_left)
    monkeypatch.setattr("engine.export.packed_loader._fill_layers", none_left)
    with pytest.raises(EngineError, match="not enough memory to reload the export"):
        finish(unet, mixed(unet), name, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_stopping_half_way_leaves_nothing(unet: Model, mixed: Mixed, tmp_path: Path) -> None:
    steps = export(unet, mixed(unet), "packed", tmp_path / "out")
    for step in steps:
        if getattr(step, "stage", "") == "layers" and step.done == 5:
            break
    assert [p.name.startswith(".out.exporting-") for p in tmp_path.iterdir()] == [True]
    steps.close()
    assert not list(tmp_path.iterdir())


def test_other_components_come_along_without_code_or_pickles(unet: Model, mixed: Mixed, tmp_path: Path) -> None:
    assert unet.directory
    (unet.directory / "vae" / "evil.bin").write_bytes(b"x")
    (unet.directory / "vae" / "run.py").write_text("1")
    done = finish(unet, mixed(unet), "packed", tmp_path / "out")
    names = {p.relative_to(done.directory).as_posix() for p in done.directory.rglob("*") if p.is_file()}
    own = {p.relative_to(unet.directory).as_posix() for p in unet.directory.rglob("*") if p.is_file()}
    expected = {n for n in own if not n.startswith("unet/") and not n.endswith((".bin", ".py"))}
    assert names == expected | {FILE, "quantscape.json", "unet/config.json", "unet/quantscape.safetensors"}
    config = json.loads((done.directory / "unet" / "config.json").read_text())
    assert not any(key.startswith("_name") for key in config), "no path of this machine is passed on"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["packed", "sdnq", "torchao"])
def test_a_model_that_computes_in_half_precision_exports_too(name: str, transformer: Model, tmp_path: Path) -> None:
    from engine.live.model import open_model

    model = open_model(str(transformer.directory), dtype="bfloat16", store=tmp_path / "store")
    done = finish(model, uniform(model.structure, "uaq-4"), name, tmp_path / "out")
    assert done.difference.output <= (0.0 if name in EXACT else 0.1) * done.difference.output_scale
    model.close()


def test_a_pipeline_in_memory_exports_too(tmp_path: Path) -> None:
    from engine.live.model import open_model
    from engine.models.tiny import TINY

    model = open_model(TINY["ddpm"](), store=tmp_path / "store")
    done = finish(model, uniform(model.structure, "uaq-4"), "packed", tmp_path / "out")
    assert done.difference.output == 0.0
    assert {p.name for p in done.directory.iterdir()} == {"model_index.json", "quantscape.json", FILE, "scheduler",
                                                          "unet"}
    model.close()
