"""Opening models: what works, and one clear sentence for everything that cannot."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.core.errors import ModelError
from engine.models.loading import denoiser_of, load_pipeline
from engine.models.structure import read_structure
from engine.models.tiny import TINY

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def copy(saved: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """name -> a directory of that pipeline that may be damaged."""

    def make(name: str) -> Path:
        return Path(shutil.copytree(saved(name), tmp_path / name))

    return make


def refused(source: object, words: str, *, structure: bool = True) -> None:
    """Both ways of opening refuse with one sentence that says what is wrong."""
    for opening in (load_pipeline, read_structure) if structure else (load_pipeline,):
        with pytest.raises(ModelError, match=words) as caught:
            opening(source)
        sentence = str(caught.value)
        assert sentence.endswith(".")
        assert "\n" not in sentence
        assert len(sentence) < 500


@pytest.mark.parametrize("name", sorted(TINY))
def test_every_family_opens_with_its_weights(name: str, tiny, saved) -> None:
    attribute, denoiser = denoiser_of(load_pipeline(saved(name)))
    expected = getattr(tiny(name), attribute).state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in denoiser.state_dict().items())
    assert not denoiser.training


def test_dtype_and_silence(saved, capfd: pytest.CaptureFixture[str]) -> None:
    pipeline = load_pipeline(saved("sd1"), dtype="float16")
    assert {p.dtype for p in pipeline.unet.parameters()} == {torch.float16}
    assert {p.dtype for p in pipeline.vae.parameters()} == {torch.float16}
    assert capfd.readouterr() == ("", "")
    with pytest.raises(ModelError, match="float32, float16, bfloat16, not in 'int4'"):
        load_pipeline(saved("sd1"), dtype="int4")


def test_a_relative_path_and_a_path_object(saved, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = saved("dit")
    monkeypatch.chdir(directory.parent)
    assert load_pipeline(directory.name).transformer is not None
    assert load_pipeline(Path(directory.name)).transformer is not None


def test_only_a_half_precision_variant(tmp_path: Path) -> None:
    from engine.models.quiet import quiet

    with quiet():
        TINY["sd1"]().to(torch.float16).save_pretrained(tmp_path / "half", variant="fp16")
    assert (tmp_path / "half" / "unet" / "diffusion_pytorch_model.fp16.safetensors").is_file()
    assert load_pipeline(tmp_path / "half").unet is not None
    assert read_structure(tmp_path / "half").precision_bits == 16


def test_sharded_checkpoints(tmp_path: Path, saved) -> None:
    from engine.models.quiet import quiet

    with quiet():
        TINY["sd1"]().save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    assert len(list((tmp_path / "shards" / "unet").glob("*.safetensors"))) > 2
    load_pipeline(tmp_path / "shards")
    assert read_structure(tmp_path / "shards").identity == read_structure(saved("sd1")).identity
    first = sorted((tmp_path / "shards" / "unet").glob("*-00001-of-*.safetensors"))[0]
    first.unlink()
    refused(tmp_path / "shards", "00001-of-.* is missing.*finish the download")
    next((tmp_path / "shards" / "unet").glob("*.index.json")).unlink()
    refused(tmp_path / "shards", "shards of a checkpoint but not their index")


# --- things that are no model ---------------------------------------------------------------------------------

@pytest.mark.parametrize(("name", "words"), [
    ("", "no model ''|no diffusers pipeline"), ("nonsense", "no model 'nonsense'"),
    ("/does/not/exist", "no model '/does/not/exist'"),
    ("a\0b", "cannot be a path"), ("x" * 5000, "cannot be a path"), ("model.ckpt", "pickled checkpoint"),
    ("some/folder/model.bin", "pickled checkpoint"), ("missing.safetensors", "no model 'missing.safetensors'"),
])
def test_names_of_nothing(name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused(name, words)


@pytest.mark.parametrize("suffix", [".ckpt", ".bin", ".pt", ".pth", ".pkl"])
def test_pickles_are_never_opened(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    refused(path, "pickled checkpoint, which can run code")
    assert not Path("pwned").exists()


def test_files_and_folders_that_are_something_else(tmp_path: Path, saved) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    refused(tmp_path / "notes.txt", "notes.txt is no checkpoint: expected")
    refused(tmp_path, "no diffusers pipeline: it has no model_index.json")
    refused(saved("sd1") / "unet", "one component, not a whole pipeline.*directory above")


def test_hub_ids_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    refused("nobody/nothing-of-this-name", "not on this machine and could not be downloaded")
    refused("sdxl", "not on this machine and could not be downloaded", structure=False)


def test_missing_demo_weights_say_how_to_make_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("engine.models.catalog.assets_dir", lambda: tmp_path)
    refused("emoji-unet", "missing from assets/models/emoji-unet; make them with the scripts", structure=False)
    assert read_structure("emoji-unet").identity == ""


def test_a_snapshot_in_the_hubs_cache_is_opened(saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--someone--tiny" / "snapshots" / "0"
    shutil.copytree(saved("dit"), snapshot)
    assert load_pipeline("someone/tiny").transformer is not None
    assert read_structure("someone/tiny").model == "someone/tiny"


# --- damaged directories --------------------------------------------------------------------------------------

CONFIGS = ["model_index.json", "unet/config.json", "vae/config.json", "text_encoder/config.json"]


@pytest.mark.parametrize("file", CONFIGS)
@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "nonsense", '{"a": NaN}', "[" * 100_000])
def test_broken_json(file: str, text: str, copy) -> None:
    directory = copy("sd1")
    (directory / file).write_text(text)
    refused(directory, "not valid JSON|no JSON object|does not say which pipeline")


def test_broken_scheduler_and_tokenizer(copy) -> None:
    directory = copy("sd1")
    (directory / "scheduler" / "scheduler_config.json").write_text("{")
    refused(directory, "cannot be opened as a diffusion pipeline", structure=False)
    directory = Path(shutil.copytree(copy("dit"), directory.parent / "other"))
    shutil.rmtree(directory / "scheduler")
    refused(directory, "has no scheduler/ although")


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize(("damage", "words"), [
    (lambda data: data[:-1], "truncated or corrupt"), (lambda data: data[: len(data) // 2], "truncated or corrupt"),
    (lambda data: data + b"\0", "truncated or corrupt"), (lambda data: data[:100], "no whole safetensors file"),
    (lambda data: b"", "no whole safetensors file"), (lambda data: b"\xff" * 8 + data[8:], "no whole safetensors file"),
    (lambda data: data[:8] + b"!" + data[9:], "not valid JSON"),
    (lambda data: struct.pack("<Q", 4) + b"[{}]", "no JSON object"),
])
def test_damaged_weights(component: str, damage: Callable[[bytes], bytes], words: str, copy) -> None:
    directory = copy("sd1")
    file = next((directory / component).glob("*.safetensors"))
    file.write_bytes(damage(file.read_bytes()))
    refused(directory, words)


def rewritten(file: Path, change: Callable[[dict], None]) -> None:
    """Change the header of a safetensors file, keeping its data."""
    data = file.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + length])
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length:])


@pytest.mark.parametrize(("change", "words"), [
    (lambda h: h["conv_in.weight"].update(shape=[1, 1, 1, 1]), "contradicts itself at 'conv_in.weight'"),
    (lambda h: h["conv_in.weight"].update(shape=[-1, 4]), "contradicts itself at 'conv_in.weight'"),
    (lambda h: h["conv_in.weight"].update(data_offsets=[10, 0]), "contradicts itself at 'conv_in.weight'"),
    (lambda h: h["conv_in.weight"].pop("shape"), "does not describe 'conv_in.weight'"),
    (lambda h: h.update({"conv_in.weight": 3}), "does not describe 'conv_in.weight'"),
])
def test_headers_that_lie(change: Callable[[dict], None], words: str, copy) -> None:
    directory = copy("sd1")
    rewritten(directory / "unet" / WEIGHTS, change)
    refused(directory, words)


def test_weights_that_are_missing_or_pickled(copy, tmp_path: Path) -> None:
    directory = copy("sd1")
    (directory / "unet" / WEIGHTS).unlink()
    refused(directory, "sd1/unet has no weights: expected a .safetensors file")
    (directory / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    refused(directory, "weights as a pickle .diffusion_pytorch_model.bin.*convert")
    shutil.rmtree(directory / "unet")
    refused(directory, "has no unet/ although its model_index.json lists it")


def change_tensors(file: Path, change: Callable[[dict], None]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def test_tensors_that_are_missing_or_misshapen(copy) -> None:
    directory = copy("sd1")
    change_tensors(directory / "unet" / WEIGHTS, lambda t: t.pop("conv_in.weight"))
    refused(directory, r"lacks 1 tensors .*conv_in\.weight.*different models", structure=False)
    change_tensors(directory / "unet" / WEIGHTS, lambda t: t.update({"conv_in.weight": torch.zeros(3)}))
    refused(directory, r"conv_in\.weight.*\[3\]")


def test_the_other_components_are_checked_too(copy) -> None:
    directory = copy("sd1")
    change_tensors(directory / "vae" / WEIGHTS, lambda t: t.update({"decoder.conv_in.bias": torch.zeros(3)}))
    refused(directory, r"decoder\.conv_in\.bias", structure=False)
    directory = Path(shutil.copytree(copy("pixart-alpha"), directory.parent / "other"))
    missing = "encoder.block.0.layer.0.SelfAttention.q.weight"
    change_tensors(directory / "text_encoder" / "model.safetensors", lambda t: t.pop(missing))
    refused(directory, r"text_encoder lacks 1 tensors .*SelfAttention\.q", structure=False)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers(value: float, copy) -> None:
    directory = copy("sd1")

    def spoil(tensors: dict) -> None:
        tensors["mid_block.resnets.0.conv1.weight"][3, 1, 0, 0] = value

    change_tensors(directory / "unet" / WEIGHTS, spoil)
    refused(directory, r"mid_block\.resnets\.0\.conv1\.weight holds NaN or infinity", structure=False)


def test_a_configuration_that_fits_no_class(copy) -> None:
    directory = copy("pixart-alpha")
    config = json.loads((directory / "transformer" / "config.json").read_text())
    for key, value in (("num_attention_heads", "many"), ("num_layers", None), ("norm_type", "what")):
        (directory / "transformer" / "config.json").write_text(json.dumps({**config, key: value}))
        refused(directory, "does not describe|cannot be opened")


def test_already_quantized_models_are_refused(copy) -> None:
    directory = copy("sd1")
    file = directory / "unet" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "quantization_config": {"load_in_4bit": True}}))
    refused(directory, "is quantized already; open the full-precision model", structure=False)


# --- a stranger's code ------------------------------------------------------------------------------------------

def edited_index(directory: Path, **changes: object) -> Path:
    file = directory / "model_index.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return directory


def test_code_from_models_is_never_run(copy, tmp_path: Path) -> None:
    directory = copy("sd1")
    (directory / "evil.py").write_text(f"open({str(tmp_path / 'pwned')!r}, 'w')\nclass Evil: pass\n")
    (directory / "unet" / "evil.py").write_text((directory / "evil.py").read_text())
    (directory / "pipeline.py").write_text((directory / "evil.py").read_text())
    refused(edited_index(directory, _class_name=["evil", "Evil"]), "code of its own, which is never run")
    refused(edited_index(directory, _class_name="StableDiffusionPipeline", unet=["evil", "Evil"]), "never run")
    refused(edited_index(directory, unet=["os", "system"]), "takes unet from 'os'")
    refused(edited_index(directory, unet=["../../evil", "Evil"]), "never run")
    refused(edited_index(directory, unet=["diffusers", "NoSuchModel"]), "no class 'NoSuchModel'")
    edited_index(directory, unet=["diffusers", "UNet2DConditionModel"])
    file = directory / "text_encoder" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "auto_map": {"AutoModel": "evil.Evil"}}))
    refused(directory, "auto_map.*never run")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(("name", "words"), [
    ("NoSuchPipeline", "no class 'NoSuchPipeline'"), ("UNet2DConditionModel", "is no pipeline of diffusers"),
    ("os.system", "does not say which pipeline"), (None, "does not say which pipeline"),
])
def test_index_that_names_no_pipeline(name: str | None, words: str, copy) -> None:
    refused(edited_index(copy("sd1"), _class_name=name), words)


# --- pipelines of another kind ------------------------------------------------------------------------------------

@pytest.mark.parametrize(("name", "argument"), [
    ("StableDiffusionImg2ImgPipeline", "image"), ("StableDiffusionInpaintPipeline", "image"),
    ("StableDiffusionDepth2ImgPipeline", "image"), ("StableDiffusionInstructPix2PixPipeline", "image"),
    ("StableDiffusionUpscalePipeline", "image"), ("StableDiffusionControlNetPipeline", "image"),
    ("MarigoldDepthPipeline", "image"), ("FluxFillPipeline", "image"), ("FluxControlPipeline", "control_image"),
])
def test_pipelines_that_start_from_pictures(name: str, argument: str, copy) -> None:
    refused(edited_index(copy("sd1"), _class_name=name), f"conditioned on pictures or video .its call takes {argument}")


@pytest.mark.parametrize("name", ["AnimateDiff", "Wan", "TextToVideoSD", "StableVideoDiffusion", "AudioLDM2"])
def test_pipelines_that_make_no_pictures(name: str, copy) -> None:
    refused(edited_index(copy("sd1"), _class_name=f"{name}Pipeline"), "does not make single pictures")


def test_the_usual_pipelines_are_accepted() -> None:
    import diffusers

    from engine.models.accepted import check_pipeline_class

    for name in ("StableDiffusion", "StableDiffusionXL", "StableDiffusion3", "Flux", "Flux2", "PixArtAlpha", "DiT",
                 "PixArtSigma", "HunyuanDiT", "Sana", "DDPM", "DDIM", "AuraFlow", "QwenImage", "Chroma", "Lumina2",
                 "CogView4", "LatentConsistencyModel", "Kandinsky3", "ZImage"):
        check_pipeline_class(getattr(diffusers, f"{name}Pipeline"))


def test_denoisers_that_take_more_than_noise(tmp_path: Path) -> None:
    """An inpainting U-Net (9 channels) in an ordinary text-to-image pipeline."""
    from engine.models.quiet import quiet
    from engine.models.tiny import _stable_diffusion

    with quiet():
        pipeline = _stable_diffusion(in_channels=9)
        pipeline.save_pretrained(tmp_path / "inpaint")
    refused(tmp_path / "inpaint", "takes 9 channels but its latents have 4", structure=False)


def test_pipelines_without_a_denoiser(copy) -> None:
    directory = copy("sd1")
    shutil.copytree(directory / "vae", directory / "other")
    refused(edited_index(directory, unet=["diffusers", "AutoencoderKL"]), "has no denoiser")
    with pytest.raises(ModelError, match="has no denoiser"):
        denoiser_of(SimpleNamespace(components={"vae": torch.nn.Linear(2, 2), "scheduler": object()}))


def test_the_denoiser_is_found_by_what_it_is(tiny) -> None:
    pipeline = tiny("sd1")
    renamed = SimpleNamespace(components={"x": pipeline.vae, "y": pipeline.unet, "z": pipeline.text_encoder})
    assert denoiser_of(renamed) == ("y", pipeline.unet)


def test_an_unreadable_directory(copy) -> None:
    directory = copy("dit")
    if os.geteuid() == 0:  # root may read everything: a dangling link stands for what cannot be read
        (directory / "transformer" / WEIGHTS).unlink()
        (directory / "transformer" / WEIGHTS).symlink_to(directory / "gone")
        refused(directory, "Cannot read|cannot be read|no weights")
    else:
        (directory / "transformer" / WEIGHTS).chmod(0)
        refused(directory, "Cannot read|cannot be read")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float8_e4m3fn, torch.int8])
def test_weights_stored_in_other_types_are_refused(saved, tmp_path: Path, dtype: torch.dtype) -> None:
    shutil.copytree(saved("ddpm"), tmp_path / "odd")
    file = next((tmp_path / "odd" / "unet").glob("*.safetensors"))
    save_file({n: t.to(dtype) for n, t in load_file(file).items()}, file)
    refused(tmp_path / "odd", r"stores .* as (F64|F8_E4M3|I8), expected one of F32, F16, BF16")
