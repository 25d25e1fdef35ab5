"""Single-file checkpoints: a tiny pipeline written in the layout of its training code opens as what it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.core.errors import ModelError
from engine.core.option import Option
from engine.core.recipe import uniform
from engine.live.apply import applied
from engine.live.model import open_model
from engine.live.originals import find_originals, live_weight
from engine.live.store import build, requests
from engine.live.streaming import opened_store, streamable
from engine.models import loading, single_file
from engine.models.catalog import MODELS
from engine.models.checkpoint import TensorInfo
from engine.models.loading import load_pipeline
from engine.models.single_file import recognised
from engine.models.structure import read_structure, structure_of

RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
          "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}
ENDS = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
        "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2"}


def places(levels: int, layers: int) -> dict[str, str]:
    """Module path in diffusers -> path in the training code, for the U-Net."""
    table = dict(ENDS)
    for i in range(levels):
        first = 1 + i * (layers + 1)
        for j in range(layers):
            table[f"down_blocks.{i}.resnets.{j}"] = f"input_blocks.{first + j}.0"
            table[f"down_blocks.{i}.attentions.{j}"] = f"input_blocks.{first + j}.1"
        table[f"down_blocks.{i}.downsamplers.0.conv"] = f"input_blocks.{first + layers}.0.op"
        for j in range(layers + 1):
            number = i * (layers + 1) + j
            table[f"up_blocks.{i}.resnets.{j}"] = f"output_blocks.{number}.0"
            table[f"up_blocks.{i}.attentions.{j}"] = f"output_blocks.{number}.1"
    return table


def old_name(name: str, table: dict[str, str], unet: Any) -> str:
    """Name of a U-Net tensor in the training code's layout."""
    if ".upsamplers.0." in name:
        level = int(name.split(".")[1])
        last = (level + 1) * (unet.config.layers_per_block + 1) - 1
        inner = 2 if hasattr(unet.up_blocks[level], "attentions") else 1
        return f"output_blocks.{last}.{inner}.conv.{name.rpartition('.')[2]}"
    place = max((p for p in table if name.startswith(f"{p}.")), key=len)
    rest = name[len(place) + 1:]
    if ".resnets." in f".{place}.":
        part, _, kind = rest.rpartition(".")
        rest = f"{RESNET[part]}.{kind}"
    return f"{table[place]}.{rest}"


def old_vae_name(name: str, levels: int) -> str:
    """Name of an autoencoder tensor in the training code's layout."""
    words = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut").split(".")
    if "mid_block" in words:
        at = words.index("mid_block")
        if words[at + 1] == "resnets":
            words[at:at + 3] = ["mid", f"block_{int(words[at + 2]) + 1}"]
        else:
            inner = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out": "proj_out"}
            words[at:] = ["mid", "attn_1", inner[words[at + 3]], words[-1]]
    for side, level in (("down", lambda i: i), ("up", lambda i: levels - 1 - i)):
        if f"{side}_blocks" in words:
            at = words.index(f"{side}_blocks")
            kind, rest = words[at + 2], words[at + 3:]
            new = ["block", *rest] if kind == "resnets" else [f"{side}sample", *rest[1:]]
            words[at:] = [side, str(level(int(words[at + 1]))), *new]
    return ".".join(words)


def save_single_file(pipeline: Any, path: Path) -> None:
    """The pipeline's U-Net, autoencoder and text encoder in one file."""
    unet, vae = pipeline.unet, pipeline.vae
    table = places(len(unet.config.block_out_channels), unet.config.layers_per_block)
    tensors = {f"model.diffusion_model.{old_name(n, table, unet)}": t for n, t in unet.state_dict().items()}
    for name, tensor in vae.state_dict().items():
        as_convolution = ".attentions." in name and tensor.dim() == 2
        old = old_vae_name(name, len(vae.config.block_out_channels))
        tensors[f"first_stage_model.{old}"] = tensor[:, :, None, None] if as_convolution else tensor
    for name, tensor in pipeline.text_encoder.state_dict().items():
        inner = name if name.startswith("text_model.") else f"text_model.{name}"
        tensors[f"cond_stage_model.transformer.{inner}"] = tensor
    save_file({n: t.contiguous() for n, t in tensors.items()}, path)


@pytest.fixture
def checkpoint(tiny: Callable[[str], Any], saved: Callable[[str], Path], tmp_path: Path) -> Path:
    """A single file with a directory of configurations (no weights) beside it."""
    shutil.copytree(saved("sd1"), tmp_path / "one", ignore=shutil.ignore_patterns("*.safetensors"))
    save_single_file(tiny("sd1"), tmp_path / "one.safetensors")
    return tmp_path / "one.safetensors"


def test_it_opens_as_the_model_it_was(checkpoint: Path, tiny, capfd: pytest.CaptureFixture[str]) -> None:
    pipeline, original = load_pipeline(checkpoint), tiny("sd1")
    for name in ("unet", "vae", "text_encoder"):
        expected = getattr(original, name).state_dict()
        found = getattr(pipeline, name).state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert capfd.readouterr() == ("", "")


def test_its_structure_is_that_of_the_model(checkpoint: Path, saved) -> None:
    structure = read_structure(checkpoint)
    directory = read_structure(saved("sd1"))
    assert structure.identity == directory.identity
    assert structure.layers == directory.layers
    assert structure_of(load_pipeline(checkpoint), str(checkpoint)) == structure


def test_precision_is_that_of_the_file(checkpoint: Path) -> None:
    save_file({n: t.half() for n, t in load_file(checkpoint).items()}, checkpoint)
    structure = read_structure(checkpoint)
    assert structure.precision_bits == 16
    assert structure_of(load_pipeline(checkpoint), str(checkpoint)) == structure


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_its_weights_are_read_from_the_file_whatever_computes(checkpoint: Path, dtype: str, tmp_path: Path) -> None:
    """Nothing is copied, and recipes of the file fit it in any precision."""
    model = open_model(checkpoint, dtype=dtype, store=tmp_path / "store")
    stored = read_structure(checkpoint)
    assert model.originals.is_checkpoint
    assert (model.structure.identity, model.structure.precision_bits) == (stored.identity, stored.precision_bits)
    layer = next(x for x in model.structure.layers if x.kind == "conv2d")
    assert torch.equal(model.originals.tensor(layer).to(model.denoiser.dtype), live_weight(model.denoiser, layer))
    before = {k: v.clone() for k, v in model.denoiser.state_dict().items()}
    with applied(model, uniform(stored, "uaq-4")):
        assert not torch.equal(live_weight(model.denoiser, layer), before[f"{layer.module}.weight"])
    assert all(torch.equal(v, before[k]) for k, v in model.denoiser.state_dict().items())
    model.close()


def test_tensors_that_were_converted_are_copied_aside_and_the_rest_is_not(checkpoint: Path, tmp_path: Path) -> None:
    tensors = load_file(checkpoint)
    pipeline = load_pipeline(checkpoint)
    structure = read_structure(checkpoint)
    layer = structure.layers[0]
    weight = live_weight(pipeline.unet, layer)
    name = next(n for n, t in tensors.items() if t.shape == weight.shape and torch.equal(t, weight))
    save_file({**tensors, name: tensors[name].flatten()}, tmp_path / "other.safetensors")
    found = find_originals(pipeline.unet, structure.layers, (), tmp_path / "other.safetensors")
    assert not found.is_checkpoint
    for each in structure.layers:
        assert torch.equal(found.tensor(each), live_weight(pipeline.unet, each))
    found.close()


def test_a_file_that_does_not_fit_the_configuration_beside_it(checkpoint: Path, saved) -> None:
    shutil.rmtree(checkpoint.with_suffix(""))
    shutil.copytree(saved("sdxl"), checkpoint.with_suffix(""))
    for opening in (load_pipeline, read_structure):
        with pytest.raises(ModelError, match=r"does not hold the UNet2DConditionModel that .* describes"):
            opening(checkpoint)


def test_an_unknown_architecture(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint.with_suffix(""))
    for opening in (load_pipeline, read_structure):
        with pytest.raises(ModelError, match="holds no denoiser of a known architecture"):
            opening(checkpoint)


def test_a_truncated_file(checkpoint: Path) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[:-7])
    for opening in (load_pipeline, read_structure):
        with pytest.raises(ModelError, match="truncated or corrupt"):
            opening(checkpoint)


def test_a_known_architecture_without_its_tokenizers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint of SD1.5's shape (header only) is recognised, and the sentence says what is missing."""
    import diffusers

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    row = MODELS["sd15"]
    with torch.device("meta"):
        unet = getattr(diffusers, row.denoiser_class).from_config(row.config)
    table = places(4, 2)
    header = {
        f"model.diffusion_model.{old_name(n, table, unet)}": TensorInfo(tmp_path / "x", "F16", tuple(t.shape))
        for n, t in unet.state_dict().items()
    }
    assert recognised(tmp_path / "x.safetensors", header) is row
    monkeypatch.setattr("engine.models.single_file.read_header", lambda path: header)
    from engine.models.single_file import load_single_file

    with pytest.raises(ModelError, match=r"is a Stable Diffusion 1\.5 checkpoint, but the configuration"):
        load_single_file(tmp_path / "x.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_its_store_is_built_without_opening_it(checkpoint: Path, dtype: torch.dtype, tmp_path: Path,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    save_file({n: t.to(dtype) for n, t in load_file(checkpoint).items()}, checkpoint)
    options = (Option("uaq", 4), Option("nf4", 4))
    with monkeypatch.context() as patched:
        for module, name in ((loading, "load_pipeline"), (single_file, "load_single_file")):
            patched.setattr(module, name, lambda *a, **k: pytest.fail("the model was opened"))
        with opened_store(checkpoint, tmp_path / "store") as store:
            list(build(store, requests(store, options)))
    model = open_model(checkpoint, store=tmp_path / "store")
    other = open_model(checkpoint, store=tmp_path / "other")
    assert requests(model.store, options) == [] and store.structure.layers == model.structure.layers
    for layer in model.structure.layers:
        for option in options[:1 + (layer.kind == "linear")]:
            ours, theirs = model.store.load(layer.name, option), other.store.load(layer.name, option)
            assert torch.equal(ours.dequantize(), theirs.dequantize())
    assert model.store.repaired == []
    for each in (model, other):
        each.close()


@pytest.mark.slow
def test_weights_that_the_converter_changes_are_those_of_the_opened_model(checkpoint: Path, tmp_path: Path,
                                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    """As it joins and cuts up tensors of SD3 and Flux."""
    convert = single_file._converted
    monkeypatch.setattr(single_file, "_converted", lambda *a: {
        name: tensor * 1 if name == "conv_in.weight" else tensor for name, tensor in (convert(*a) or {}).items()})
    assert streamable(checkpoint) is None
    with opened_store(checkpoint, tmp_path / "store") as store:
        assert len(list(build(store, [(store.structure.layers[0], (Option("uaq", 4),))]))) == 1


def test_a_file_that_is_no_whole_checkpoint_has_no_store(checkpoint: Path, tmp_path: Path) -> None:
    tensors = load_file(checkpoint)
    name = "model.diffusion_model.time_embed.0.weight"
    save_file({**tensors, name: tensors[name].to(torch.int8)}, checkpoint)
    with pytest.raises(ModelError, match=r"stores .* as I8"):
        streamable(checkpoint)
    save_file({n: t for n, t in tensors.items() if n != name}, checkpoint)
    with pytest.raises(ModelError, match="does not hold the UNet2DConditionModel"):
        streamable(checkpoint)
