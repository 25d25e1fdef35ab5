"""Our own format: every option bit for bit, sizes as promised, one self-contained loader, and tampering refused."""

from __future__ import annotations

import ast
import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engine.core.option import ALL_OPTIONS, Option, options_for
from engine.core.recipe import Recipe, uniform_bits
from engine.core.sizes import file_bytes
from engine.export import packed_format, packed_loader
from engine.export.exporting import export
from engine.export.packed_loader import PackedError, load_denoiser, load_packed
from engine.live.apply import applied
from engine.live.model import Model
from engine.quant.table import quantize

SHAPES = {"linear": (17, 200), "conv1d": (5, 7, 3), "conv2d": (8, 130, 3, 3)}
WEIGHTS = Path("unet") / packed_format.WEIGHTS


@pytest.mark.parametrize("option", ALL_OPTIONS, ids=str)
@pytest.mark.parametrize("precision", [16, 32])
def test_the_loader_dequantizes_bit_for_bit(option: Option, precision: int) -> None:
    stored = {16: torch.float16, 32: torch.float32}[precision]
    for kind, shape in SHAPES.items():
        if option not in options_for(kind):
            continue
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        found = quantize(weight, option, precision)
        table = packed_loader.part_table(str(option), shape, stored)
        assert {n: (d, s) for n, d, s in table} == {n: (t.dtype, tuple(t.shape)) for n, t in found.tensors.items()}
        again = packed_loader.dequantize(str(option), shape, dict(found.tensors))
        assert torch.equal(again.float(), found.dequantize())


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8, 16])
def test_the_file_is_as_large_as_promised(bits: int, transformer: Model, tmp_path: Path) -> None:
    recipe = uniform_bits(transformer.structure, bits)
    plan = packed_format.plan(transformer.structure, recipe)
    for _ in packed_format.write(transformer, plan, tmp_path):
        pass
    promised = file_bytes(transformer.structure, recipe.options)
    assert plan.file_bytes == promised
    assert abs((tmp_path / "transformer" / packed_format.WEIGHTS).stat().st_size / promised - 1) < 0.01


@pytest.fixture(scope="module")
def packed(unet: Model, mixed: Callable[[Model], Recipe], tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("packed") / "out"
    for _ in export(unet, mixed(unet), "packed", target):
        pass
    return target


def test_a_copy_of_the_loader_works_alone_and_gives_the_preview(packed: Path, unet: Model, tmp_path: Path,
                                                                mixed: Callable[[Model], Recipe]) -> None:
    source = Path(packed_loader.__file__)
    imported = {name.split(".")[0] for node in ast.walk(ast.parse(source.read_text()))
                for name in ([a.name for a in node.names] if isinstance(node, ast.Import)
                             else [node.module or ""] if isinstance(node, ast.ImportFrom) else [])}
    assert imported <= set(sys.stdlib_module_names) | {"torch", "diffusers", "safetensors"}
    spec = importlib.util.spec_from_file_location("copied", shutil.copy(source, tmp_path / "copied.py"))
    assert spec and spec.loader
    copied = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copied)
    pipeline = copied.load_packed(packed)
    assert type(pipeline) is type(unet.pipeline)
    with applied(unet, mixed(unet)):
        state = unet.denoiser.state_dict()
        assert all(torch.equal(v, state[k]) for k, v in pipeline.unet.state_dict().items())
    half = load_packed(packed, dtype=torch.float16)
    assert {p.dtype for p in half.unet.parameters()} == {torch.float16}


def test_loading_leaves_the_random_state_alone(packed: Path) -> None:
    torch.manual_seed(5)
    load_denoiser(packed)
    found = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(found, torch.rand(3))


def edit(path: Path, change: Callable[[dict], object]) -> None:
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))


def reseal(directory: Path) -> None:
    """Give the index the checksum of the altered file: what a forger would do."""
    digest = packed_loader.file_sha256(directory / WEIGHTS)
    edit(directory / "quantscape.json", lambda index: index.update(sha256=digest))


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


TAMPERINGS: dict[str, tuple[Callable[[Path], object], str]] = {
    "one bit": (lambda d: flip(d / WEIGHTS, 5000), "checksum differs"),
    "cut short": (lambda d: (d / WEIGHTS).write_bytes((d / WEIGHTS).read_bytes()[:-7]), "checksum differs"),
    "cut short and resealed": (
        lambda d: ((d / WEIGHTS).write_bytes((d / WEIGHTS).read_bytes()[:-7]), reseal(d)), "Cannot read"),
    "no weights": (lambda d: (d / WEIGHTS).unlink(), "Cannot read"),
    "no index": (lambda d: (d / "quantscape.json").unlink(), "no packed export"),
    "no JSON": (lambda d: (d / "quantscape.json").write_text("{"), "not valid JSON"),
    "a list": (lambda d: (d / "quantscape.json").write_text("[]"), "no index of format"),
    "another version": (lambda d: edit(d / "quantscape.json", lambda i: i.update(version=3)), "version 1 or 2"),
    "another option": (lambda d: edit(d / "quantscape.json", lambda i: i["layers"][0].__setitem__(1, "uaq-8")),
                       "does not describe|take .* bytes"),
    "an unknown option": (lambda d: edit(d / "quantscape.json", lambda i: i["layers"][0].__setitem__(1, "magic-4")),
                          "does not describe"),
    "a layer less": (lambda d: edit(d / "quantscape.json", lambda i: i["layers"].pop()), "take .* bytes|describe"),
    "a bias less": (lambda d: edit(d / "quantscape.json", lambda i: i["others"][0][1].pop()), "missing"),
    "a path outside": (lambda d: edit(d / "quantscape.json", lambda i: i.update(denoiser="../unet")), "outside"),
    "another class": (lambda d: edit(d / "unet" / "config.json", lambda i: i.update(_class_name="utils")), "no model"),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_tampering_is_refused_in_one_sentence(name: str, packed: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(packed, tmp_path / "copy"))
    change, sentence = TAMPERINGS[name]
    change(copy)
    with pytest.raises(PackedError, match=sentence) as caught:
        load_denoiser(copy)
    assert "\n" not in str(caught.value)
