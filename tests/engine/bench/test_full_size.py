"""Benches at full size, rehearsed on tiny ones: twins that open like models, moves that check themselves, pages."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from engine.bench import scratch as scratch_module
from engine.bench.page import keep, replaced
from engine.bench.process import engine_command, run_process
from engine.bench.scratch import measured_source, noise, random_pipeline
from engine.bench.store import OPTIONS, promised_bytes
from engine.bench.switch import moves
from engine.core.errors import EngineError, InputError
from engine.live.model import open_model
from engine.live.store import build, requests
from engine.live.streaming import opened_store
from engine.models.catalog import MODELS
from engine.models.structure import read_structure
from engine.models.tiny import TINY


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_noise_is_seeded_and_heavy_tailed() -> None:
    a, b = (noise((300, 1000), torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(a, b) and not torch.equal(a, noise((300, 1000), torch.Generator().manual_seed(6)))
    spread = a.double() / scratch_module.SCALE
    assert spread.median().abs() < 0.02
    # Student's t with 4 degrees of freedom: quartiles at +-0.741, 0.87 % beyond +-4.8 (a normal has 2 in a million)
    assert spread.quantile(0.75).item() == pytest.approx(0.741, abs=0.01)
    assert (spread.abs() > 4.8).double().mean().item() == pytest.approx(0.0087, abs=0.001)


def test_a_twin_has_the_structure_of_its_row_and_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = MODELS["emoji-unet"]
    monkeypatch.setattr(scratch_module, "SHARD_BYTES", 4_000_000)
    home = random_pipeline(row, tmp_path)
    assert len(list((home / "unet").glob("*.safetensors"))) > 2
    found, wanted = read_structure(home), read_structure("emoji-unet")
    assert [x.shape for x in found.layers] == [x.shape for x in wanted.layers]
    assert found.precision_bits == row.precision_bits and found.identity not in ("", wanted.identity)
    with opened_store(home, tmp_path / "store") as store:
        layers = store.structure.layers[:3]
        assert len(list(build(store, [(layer, OPTIONS) for layer in layers]))) == 3
        assert len(requests(store, OPTIONS)) == len(found.layers) - 3
    before = {p: p.stat().st_mtime_ns for p in home.rglob("*")}
    assert random_pipeline(row, tmp_path) == home
    assert {p: p.stat().st_mtime_ns for p in home.rglob("*")} == before, "a twin is written once"


def test_what_is_here_is_measured_itself(tmp_path: Path) -> None:
    assert measured_source("emoji-unet", tmp_path) == "emoji-unet"
    assert measured_source("/some/where", tmp_path) == "/some/where"
    assert not list(tmp_path.iterdir())


def test_promised_bytes_are_those_of_the_files(tmp_path: Path) -> None:
    TINY["ddpm"]().save_pretrained(tmp_path / "model")
    with opened_store(tmp_path / "model", tmp_path / "store") as store:
        built = sum(record.bytes for record in build(store, requests(store, OPTIONS)))
        assert built == pytest.approx(promised_bytes(store.structure), abs=len(store.structure.layers) * len(OPTIONS))


def test_moves_are_timed_and_undone(tmp_path: Path) -> None:
    model = open_model(TINY["dit"](), store=tmp_path / "store")
    before = {k: v.clone() for k, v in model.denoiser.state_dict().items()}
    figures = moves(model, 1)
    assert 0 < figures["block_layers"] < figures["layers"] and figures["all_4_to_3_s"] > 0
    assert all(torch.equal(v, before[k]) for k, v in model.denoiser.state_dict().items())
    model.close()


def test_processes_are_measured_and_their_failures_told() -> None:
    code = "import json, time; x = bytearray(b'1') * 300_000_000; time.sleep(0.3); print(json.dumps(dict(a=1)))"
    ran = run_process([sys.executable, "-c", code])
    assert ran.record == {"a": 1} and ran.peak_bytes > 300_000_000 and ran.seconds > 0
    held = bytearray(b"1") * 400_000_000  # what a parent holds is not its child's
    small = run_process([sys.executable, "-c", "import time; time.sleep(0.3); print(1)"])
    assert len(held) and small.peak_bytes < 200_000_000
    with pytest.raises(EngineError, match="There is no model 'nonsense'"):
        run_process(engine_command("inspect", "nonsense"))


def test_sections_are_exchanged_and_others_kept(tmp_path: Path) -> None:
    page = tmp_path / "full-size.md"
    keep(page, "a", "run a", "1 core", {"x": 1.25, "rows": [{"name": "p|q", "n": 12345}]})
    keep(page, "b", "run b", "1 core", {"y": True})
    keep(page, "a", "run a again", "1 core", {"x": 2.5})
    text = page.read_text()
    assert text.startswith("# Full size\n") and text.index("## a") < text.index("## b")
    assert "2.5" in text and "1.25" not in text and "12,345" not in text and "| y | True |" in text
    assert replaced(text, "c", "body").endswith("## c\n\nbody\n")
    with pytest.raises(InputError, match="no Markdown page"):
        keep(tmp_path / "x.py", "a", "", "", {})
