"""Identity: equal for a module and its files, whatever the type it is opened in; different for anything else."""

from __future__ import annotations

import time

import pytest
import torch

from engine.models.checkpoint import read_component
from engine.models.identity import DIGITS, identity_of, identity_of_files, identity_of_module
from engine.models.loading import denoiser_of, load_pipeline
from engine.models.tiny import TINY


@pytest.mark.parametrize("name", ["sd1", "pixart-alpha", "sd3"])
def test_module_and_files_agree(name: str, tiny, saved) -> None:
    attribute, denoiser = denoiser_of(tiny(name))
    names = [n for n, _ in denoiser.named_parameters()]
    files = identity_of_files(read_component(saved(name) / attribute), names)
    assert files == identity_of_module(denoiser)
    assert len(files) == DIGITS
    assert set(files) <= set("0123456789abcdef")


def test_half_files_keep_their_identity_in_float32(tmp_path) -> None:
    from engine.models.quiet import quiet

    pipeline = TINY["dit"]()
    with quiet():
        pipeline.to(torch.float16).save_pretrained(tmp_path / "half")
    opened = {dtype: identity_of_module(load_pipeline(tmp_path / "half", dtype=dtype).transformer)
              for dtype in ("float32", "float16")}
    assert len(set(opened.values())) == 1
    assert opened["float32"] == identity_of_module(pipeline.transformer)
    assert opened["float32"] != identity_of_module(TINY["dit"]().transformer)


def test_everything_that_matters_changes_it() -> None:
    base = {"a": torch.arange(1000.0).reshape(10, 100), "b": torch.zeros(3)}
    start = identity_of(base)
    assert identity_of(dict(reversed(base.items()))) == start
    assert identity_of({**base, "a": base["a"].reshape(100, 10)}) != start
    assert identity_of({"c": base["a"], "b": base["b"]}) != start
    assert identity_of({**base, "a": base["a"] + 1e-3}) != start
    assert identity_of({**base, "b": torch.full((3,), float("nan"))}) != start
    assert identity_of({"a": base["a"]}) != start


def test_files_that_lack_a_tensor_have_none(saved) -> None:
    assert identity_of_files(read_component(saved("dit") / "transformer"), ["no.such.tensor"]) == ""


def test_it_reads_samples_only() -> None:
    large = {f"layer{i}": torch.zeros(4_000_000) for i in range(10)}
    begun = time.perf_counter()
    identity_of(large)
    assert time.perf_counter() - begun < 0.5
