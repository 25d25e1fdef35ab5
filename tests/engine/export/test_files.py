"""Directories that appear whole or not at all, and safetensors files written piece by piece."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine.core.errors import EngineError
from engine.export.directory import staged
from engine.export.tensorfile import TensorFile

ROOT = Path(__file__).resolve().parents[3]
EXPORT_AND_HANG = """
import sys, time
from engine.export.directory import staged
with staged(sys.argv[1]) as directory:
    (directory / "model_index.json").write_text("{}")
    print("written", flush=True)
    time.sleep(60)
"""


def killed(target: Path) -> int:
    """The number of a process that was killed while exporting to `target`."""
    process = subprocess.Popen([sys.executable, "-c", EXPORT_AND_HANG, str(target)], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout and process.stdout.readline() == b"written\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    return process.pid


def test_kill_minus_nine_leaves_nothing_that_looks_finished_and_the_next_export_goes_through(tmp_path: Path) -> None:
    target = tmp_path / "out"
    pid = killed(target)
    assert not target.exists()
    assert [p.name for p in tmp_path.iterdir()] == [f".out.exporting-{pid}"]
    with staged(target) as directory:
        (directory / "a").write_text("1")
        assert [p.name for p in tmp_path.iterdir()] == [directory.name], "what the killed one left is removed"
    assert [p.name for p in tmp_path.iterdir()] == ["out"] and (target / "a").read_text() == "1"


def test_a_living_neighbour_is_left_alone(tmp_path: Path) -> None:
    other = tmp_path / f".out.exporting-{os.getppid()}"
    other.mkdir()
    with staged(tmp_path / "out"):
        assert other.exists()
    assert other.exists()


def test_failures_and_interrupts_leave_nothing(tmp_path: Path) -> None:
    for failure in (ValueError, KeyboardInterrupt):
        with pytest.raises(failure), staged(tmp_path / "deep" / "out") as directory:
            (directory / "a").write_text("1")
            raise failure
        assert list((tmp_path / "deep").iterdir()) == []


def test_an_empty_directory_may_be_the_target_but_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with staged(tmp_path / "out") as directory:
        (directory / "a").write_text("1")
    for taken in (tmp_path / "out", tmp_path / "out" / "a"):
        with pytest.raises(EngineError, match="exists already"), staged(taken):
            raise AssertionError("never reached")
    assert (tmp_path / "out" / "a").read_text() == "1"


def test_a_target_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="nothing was left behind"), staged(tmp_path / "out"):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "theirs").write_text("1")
    assert [p.name for p in tmp_path.iterdir()] == ["out"] and (tmp_path / "out" / "theirs").exists()


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("1")
    with pytest.raises(EngineError, match="Cannot write"), staged(tmp_path / "file" / "out"):
        raise AssertionError("never reached")


def test_pieces_make_a_file_that_safetensors_reads(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    tensors = {
        "odd": torch.arange(7, dtype=torch.uint8), "half": torch.randn(3, 5).half(), "wide": torch.randn(4, 4),
        "brain": torch.randn(3).bfloat16(), "signed": torch.arange(-3, 4, dtype=torch.int8),
        "flag": torch.tensor([True]), "long": torch.arange(3), "scalar": torch.tensor(2.5), "none": torch.empty(0, 4),
    }
    with TensorFile(tmp_path / "a", {n: (t.dtype, tuple(t.shape)) for n, t in tensors.items()}) as file:
        assert sorted(file.order) == sorted(tensors)
        for name in file.order:
            tensor = tensors[name]
            if name == "wide":
                file.append(tensor[:1])
                file.append(tensor[1:])
            else:
                file.append(tensor.t() if tensor.ndim == 2 and name == "none" else tensor)
    found = load_file(tmp_path / "a")
    assert {n: (t.dtype, t.shape) for n, t in found.items()} == {n: (t.dtype, t.shape) for n, t in tensors.items()}
    assert all(torch.equal(found[n], t) for n, t in tensors.items())


def test_a_file_that_is_not_full_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="8 bytes did not come"):
        with TensorFile(tmp_path / "a", {"x": (torch.float32, (4,))}) as file:
            file.append(torch.zeros(2))
