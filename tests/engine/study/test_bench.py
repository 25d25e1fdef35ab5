"""Measuring real (tiny) pipelines: reproducible, restored, resumable, the same from workers, cancellable."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from dump import content

from engine.core.errors import Cancelled, StudyError
from engine.core.option import FP16
from engine.metrics.paired import ssim
from engine.models.tiny import TINY
from engine.study.bench import DiffusersBench
from engine.study.job import Job
from engine.study.runner import Plan, run_study
from engine.study.sampling import PRESETS, draw
from engine.study.storage import read_study
from engine.study.structural import StructuralReference

NAMES = ("sd1", "pixart-alpha", "dit", "ddpm")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stores")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    TINY["pixart-alpha"]().save_pretrained(path)
    return path


@pytest.fixture(params=NAMES)
def bench(request: pytest.FixtureRequest, store: Path) -> Iterator[DiffusersBench]:
    made = DiffusersBench(Job("x", images=4, steps=2, store=str(store / request.param), batch=3), TINY[request.param]())
    yield made
    made.close()


def test_measurements_are_reproducible_and_full(bench: DiffusersBench) -> None:
    s = bench.ready.structure
    a, b = (draw(s, PRESETS["paper-6"], 0, i) for i in range(2))
    first, second, again = bench.measure(a.options), bench.measure(b.options), bench.measure(a.options)
    for one, other in zip(first.metrics, again.metrics, strict=True):
        assert one.value == other.value and one.n == 4
        assert one.per_image is None or (one.per_image == other.per_image).all()  # type: ignore[union-attr]
    assert any(x.value != y.value for x, y in zip(first.metrics, second.metrics, strict=True))
    names = {m.name for m in first.metrics}
    assert {"image_mse", "psnr", "latent_sqnr"} <= names
    assert {"feature_distance[random-conv]", "kernel_distance[random-conv]"} <= names
    assert not any(name.startswith("frechet") for name in names)  # four images are far too few
    assert 0 < first.generating_s < first.duration_s
    protocol = bench.ready.protocol
    assert protocol.images == 4 and len(set(protocol.seeds)) == 4 and protocol.steps == 2


def test_no_quantization_is_no_damage(bench: DiffusersBench) -> None:
    bench.measure(draw(bench.ready.structure, PRESETS["wide"], 0, 0).options)
    values = {m.name: m.value for m in bench.measure({c.name: FP16 for c in bench.ready.structure.choices}).metrics}
    assert values["image_mse"] == 0 and values["psnr"] == 100 and values["latent_sqnr"] == 100


def test_cancelling_a_trial(store: Path) -> None:
    made = DiffusersBench(Job("x", images=2, steps=2, store=str(store / "dit")), TINY["dit"]())
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        made.measure(draw(made.ready.structure, PRESETS["paper-6"], 0, 0).options, cancel)
    made.close()


def test_threads_are_given_back(store: Path) -> None:
    before = torch.get_num_threads()
    made = DiffusersBench(Job("x", images=2, steps=2, threads=before + 1, store=str(store / "dit")), TINY["dit"]())
    assert made.ready.environment.threads == before + 1
    made.close()
    assert torch.get_num_threads() == before


def plan(saved: Path, store: Path, trials: int, **changes: object) -> Plan:
    job = Job(str(saved), images=4, steps=2, threads=1, store=str(store / "saved"))
    return Plan(job, trials, preset="paper-6", **changes)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_study_from_start_to_end(saved: Path, store: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole.sqlite", tmp_path / "parts.sqlite"
    list(run_study(whole, plan(saved, store, 4)))
    list(run_study(parts, plan(saved, store, 2)))
    list(run_study(parts, plan(saved, store, 4)))
    assert content(whole) == content(parts)
    with read_study(whole) as study:
        assert {t.state for t in study.trials()} == {"done"} and study.protocol.split
        assert study.per_image("psnr")[1].shape == (4, 4)
    with pytest.raises(StudyError, match="images: '3' here, '4' there"):
        list(run_study(whole, Plan(Job(str(saved), images=3, steps=2, threads=1, store=str(store / "saved")), 4)))


@pytest.mark.slow
def test_workers_measure_what_one_process_measures(saved: Path, store: Path, tmp_path: Path) -> None:
    list(run_study(tmp_path / "one.sqlite", plan(saved, store, 6)))
    list(run_study(tmp_path / "two.sqlite", plan(saved, store, 6, workers=2)))
    assert content(tmp_path / "one.sqlite") == content(tmp_path / "two.sqlite")


def test_ssim_by_matrices_is_the_library_s() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((3, 3, 64, 64), (2, 3, 16, 24), (1, 3, 257, 16)):
        a = torch.rand(shape, generator=generator)
        b = (a + 0.1 * torch.randn(shape, generator=generator)).clamp(0, 1)
        assert np.abs(StructuralReference(a).against(b) - ssim(a, b)).max() < 1e-5
        assert StructuralReference(a).against(a) == pytest.approx(1)
