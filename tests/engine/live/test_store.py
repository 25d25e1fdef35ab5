"""The store: round trip, resume after a kill, damage noticed and mended, strangers refused, a full disk survived."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.core.errors import Cancelled, OptionError, StoreError
from engine.core.option import FP16, Option
from engine.core.sizes import sensible_options, stored_bytes
from engine.live import store as store_module
from engine.live.originals import Originals
from engine.live.store import Store, build, default_place, requests
from engine.quant.table import quantize, relative_error
from tests.engine.live.handmade import model_file

OPTIONS = (Option("uaq", 3), Option("uaq", 4), Option("kmeans_a", 3))
ROOT = Path(__file__).resolve().parents[3]


def built(tmp_path: Path, layers: int = 4) -> Store:
    store = Store.open(tmp_path / "store", *model_file(tmp_path, layers))
    list(build(store, requests(store, OPTIONS)))
    return store


def again(tmp_path: Path, layers: int = 4) -> Store:
    return Store.open(tmp_path / "store", *model_file(tmp_path, layers))


def manifest(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "store" / "manifest.json").read_text())


def shards(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "store").glob("*.safetensors"))


def test_what_is_read_back_is_what_was_quantized(tmp_path: Path) -> None:
    built(tmp_path)
    store = again(tmp_path)
    for layer in store.structure.layers:
        weight = store.originals.tensor(layer)
        for option in OPTIONS:
            expected = quantize(weight, option, 16)
            found = store.load(layer.name, option)
            assert torch.equal(found.dequantize(), expected.dequantize())
            assert store.error(layer.name, option) == pytest.approx(relative_error(weight, expected), rel=1e-12)
    assert requests(store, OPTIONS) == [] and store.repaired == []


def test_the_manifest_says_bytes_error_and_checksum(tmp_path: Path) -> None:
    store = built(tmp_path)
    data = manifest(tmp_path)
    assert data["model"] == {"id": "hand-made", "identity": "a" * 64} and data["precision_bits"] == 16
    for layer in store.structure.layers:
        for option in OPTIONS:
            entry = data["layers"][layer.name][str(option)]
            assert entry["bytes"] == stored_bytes(layer, option, 16)
            assert 0 < entry["error"] < 1 and len(entry["checksum"]) == 8
    assert data["shards"] == {p.name: p.stat().st_size for p in shards(tmp_path)}


def test_shards_are_ordinary_files(tmp_path: Path) -> None:
    built(tmp_path)
    plain = tmp_path / "plain"
    plain.write_text("")
    assert {p.stat().st_mode for p in shards(tmp_path)} == {plain.stat().st_mode}


def test_by_default_every_sensible_option_is_asked_for(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store", *model_file(tmp_path))
    layer, options = requests(store)[0]
    assert set(options) == {o for o in sensible_options(layer, 16) if o != FP16}
    records = list(build(store, requests(store)))
    assert [r.layer for r in records] == [x.name for x in store.structure.layers]
    assert records[0].weights == 4096 * len(options) and records[0].options == len(options)
    assert records[0].bytes == sum(stored_bytes(layer, o, 16) for o in options)


def test_options_come_on_demand_and_are_kept(tmp_path: Path) -> None:
    store = again(tmp_path)
    name = store.structure.layers[0].name
    assert not store.has(name, OPTIONS[0]) and store.has(name, FP16)
    first = store.load(name, OPTIONS[0]).dequantize()
    assert store.has(name, OPTIONS[0]) and shards(tmp_path) == []
    store.close()
    assert len(shards(tmp_path)) == 1
    fresh = again(tmp_path)
    fresh.originals = Originals({})  # nothing may be quantized anew
    assert torch.equal(fresh.load(name, OPTIONS[0]).dequantize(), first)


def test_cancel_keeps_what_is_finished(tmp_path: Path) -> None:
    class AfterTwo:
        asked = 0

        def is_set(self) -> bool:
            self.asked += 1
            return self.asked > 2

    store = again(tmp_path)
    with pytest.raises(Cancelled):
        list(build(store, requests(store, OPTIONS), cancel=AfterTwo()))
    assert len(manifest(tmp_path)["layers"]) == 2
    assert len(requests(again(tmp_path), OPTIONS)) == 2


KILLED = """
import sys, time
from pathlib import Path
from engine.live import store as s
from tests.engine.live.handmade import model_file
from tests.engine.live.test_store import OPTIONS
s.SHARD_BYTES = 1
home = Path(sys.argv[1])
store = s.Store.open(home / "store", *model_file(home, 60))
for record in s.build(store, s.requests(store, OPTIONS)):
    print(record.layer, flush=True)
    time.sleep(0.01)
"""


def test_a_build_killed_at_any_moment_resumes_to_the_same_store(tmp_path: Path) -> None:
    model_file(tmp_path, 60)
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE)
    assert child.stdout
    for _ in range(5):
        assert child.stdout.readline()
    time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    store = again(tmp_path, 60)
    todo = requests(store, OPTIONS)
    assert 10 < len(todo) <= 56
    assert store.verify() == []
    list(build(store, todo))
    undisturbed = Store.open(tmp_path / "other", store.structure, store.originals)
    list(build(undisturbed, requests(undisturbed, OPTIONS)))
    assert again(tmp_path, 60)._manifest.entries.keys() == undisturbed._manifest.entries.keys()
    for (layer, option), entry in undisturbed._manifest.entries.items():
        ours = store._manifest.entries[layer, option]
        assert (ours.checksum, ours.error, ours.bytes) == (entry.checksum, entry.error, entry.bytes)


@pytest.mark.parametrize("damage", ["truncate", "flip", "header", "delete"])
def test_a_damaged_shard_is_noticed_and_rebuilt(tmp_path: Path, damage: str) -> None:
    store = built(tmp_path)
    name = store.structure.layers[1].name
    expected = store.load(name, OPTIONS[0]).dequantize()
    (shard,) = shards(tmp_path)
    data = bytearray(shard.read_bytes())
    if damage == "truncate":
        shard.write_bytes(data[: len(data) // 2])
    elif damage == "flip":
        for i in range(len(data) // 2, len(data)):
            data[i] ^= 0x10
        shard.write_bytes(data)
    elif damage == "header":
        data[0:8] = b"\xff" * 8
        shard.write_bytes(data)
    else:
        shard.unlink()
    store = again(tmp_path)
    dropped = store.verify()
    assert (len(requests(store, OPTIONS)) > 0) and (bool(dropped) == (damage in ("flip", "header")))
    assert torch.equal(store.load(name, OPTIONS[0]).dequantize(), expected)
    list(build(store, requests(store, OPTIONS)))
    mended = again(tmp_path)
    assert mended.verify() == [] and requests(mended, OPTIONS) == []


def test_a_flipped_bit_met_while_loading_is_mended_on_the_spot(tmp_path: Path) -> None:
    store = built(tmp_path)
    name = store.structure.layers[0].name
    expected = store.load(name, OPTIONS[1]).dequantize()
    (shard,) = shards(tmp_path)
    data = bytearray(shard.read_bytes())
    data[len(data) // 2:] = bytes(b ^ 1 for b in data[len(data) // 2:])
    data[2000: len(data) // 2] = bytes(b ^ 1 for b in data[2000: len(data) // 2])
    shard.write_bytes(data)
    store = again(tmp_path)
    assert torch.equal(store.load(name, OPTIONS[1]).dequantize(), expected)
    assert store.repaired == [(name, "uaq-4")]


def test_another_models_store_is_refused(tmp_path: Path) -> None:
    built(tmp_path)
    structure, originals = model_file(tmp_path)
    for other in (replace(structure, identity="b" * 64), replace(structure, precision_bits=32)):
        with pytest.raises(StoreError, match="belongs to another model"):
            Store.open(tmp_path / "store", other, originals)


def test_other_versions_and_other_directories_are_refused(tmp_path: Path) -> None:
    built(tmp_path)
    path = tmp_path / "store" / "manifest.json"
    path.write_text(json.dumps({**manifest(tmp_path), "version": 2}))
    with pytest.raises(StoreError, match="version 2"):
        again(tmp_path)
    with pytest.raises(StoreError, match="other files"):
        Store.open(tmp_path, *model_file(tmp_path))
    with pytest.raises(StoreError, match="is a file"):
        Store.open(path, *model_file(tmp_path))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1}'])
def test_a_broken_manifest_means_building_again(tmp_path: Path, text: str) -> None:
    built(tmp_path)
    path = tmp_path / "store" / "manifest.json"
    path.write_text(text)
    if text == '{"version": 1}':
        with pytest.raises(StoreError, match="another model"):
            again(tmp_path)
        return
    store = again(tmp_path)
    list(build(store, requests(store, OPTIONS)))
    assert requests(again(tmp_path), OPTIONS) == []


def test_a_full_disk_ends_a_build_with_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built(tmp_path)
    before = {p.name: p.read_bytes() for p in (tmp_path / "store").iterdir()}
    store = again(tmp_path)
    wanted = requests(store, [Option("uaq", 2)])

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_module, "save_file", full)
    with pytest.raises(StoreError, match=r"No space left on device.*free space"):
        list(build(store, wanted))
    assert {p.name: p.read_bytes() for p in (tmp_path / "store").iterdir()} == before
    name = store.structure.layers[0].name
    assert store.load(name, Option("uaq", 2)).dequantize().shape == (64, 64)  # a preview goes on
    monkeypatch.undo()
    store.close()
    assert len(requests(again(tmp_path), [Option("uaq", 2)])) == 0


SMALL_FILES = """
import resource, sys
from pathlib import Path
from engine.core.errors import StoreError
from engine.live.store import Store, build, requests
from tests.engine.live.handmade import model_file
from tests.engine.live.test_store import OPTIONS
home = Path(sys.argv[1])
warm = Store.open(home / "warm", *model_file(home))
list(build(warm, requests(warm, OPTIONS)))  # compiled kernels are cached in files, too
resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
store = Store.open(home / "store", *model_file(home))
try:
    list(build(store, requests(store, OPTIONS)))
except StoreError as error:
    print(error)
"""


def test_a_write_that_fails_half_way_leaves_nothing_behind(tmp_path: Path) -> None:
    """A real short write: the process may not make files of more than 6,000 bytes."""
    model_file(tmp_path)
    done = subprocess.run([sys.executable, "-c", SMALL_FILES, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert "Cannot write to" in done.stdout and "run it again" in done.stdout, done.stderr
    assert list((tmp_path / "store").iterdir()) == []


def test_nan_weights_are_refused_by_name(tmp_path: Path) -> None:
    structure, originals = model_file(tmp_path)

    class Broken(Originals):
        def tensor(self, layer):
            weight = originals.tensor(layer).clone()
            if layer.name == "blocks.2.linear":
                weight[3, 3] = float("nan")
            return weight

    store = Store.open(tmp_path / "store", structure, Broken({}))
    with pytest.raises(OptionError, match=r"blocks\.2\.linear: 1 of 4096 weights are NaN"):
        list(build(store, requests(store, OPTIONS)))
    assert len(manifest(tmp_path)["layers"]) == 2


def test_two_processes_do_not_lose_each_others_shards(tmp_path: Path) -> None:
    one, two = again(tmp_path), again(tmp_path)
    names = [x.name for x in one.structure.layers]
    one.load(names[0], OPTIONS[0])
    two.load(names[1], OPTIONS[0])
    one.close()
    two.close()
    both = again(tmp_path)
    assert both.has(names[0], OPTIONS[0]) and both.has(names[1], OPTIONS[0])


def test_what_a_kill_left_behind_is_cleaned_up_later(tmp_path: Path) -> None:
    store = built(tmp_path)
    old, young = tmp_path / "store" / "shard-0-old.safetensors", tmp_path / "store" / "shard-0-young.tmp"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    list(build(store, []))
    assert not old.exists() and young.exists()


def test_the_default_place_is_in_the_cache_by_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTSCAPE_CACHE", str(tmp_path))
    structure, _ = model_file(tmp_path)
    assert default_place(structure) == tmp_path / "stores" / ("a" * 24 + "-16")
