"""CUDA graphs of a denoiser: the same pictures, also after weights changed in place. On a CPU nothing changes."""

from __future__ import annotations

import pytest
import torch

from engine.models.tiny import TINY
from engine.study.bench import DiffusersBench
from engine.study.job import Job
from engine.study.replay import Replay, replayed
from engine.study.sampling import PRESETS, draw


def test_a_cpu_module_is_left_alone() -> None:
    module = torch.nn.Linear(2, 2)
    with replayed(module, torch.device("cpu")) as replay:
        assert replay is None and "forward" not in vars(module)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["sd1", "pixart-alpha", "dit", "sdxl", "flux"])
def test_replayed_measurements_equal_plain_ones(name: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job("x", images=4, steps=3, device="cuda", store=str(tmp_path / "store"), batch=4)
    fast = DiffusersBench(job, TINY[name]())
    draws = [draw(fast.ready.structure, PRESETS["wide"], 0, i) for i in range(4)]
    ours = [fast.measure(d.options) for d in draws]
    graphs = fast.replay.graphs if fast.replay else 0
    fast.close()
    monkeypatch.setattr(Replay, "_capture", lambda self, leaves, spec: None)
    plain = DiffusersBench(job, TINY[name]())
    for d, measurement in zip(draws, ours, strict=True):
        for a, b in zip(measurement.metrics, plain.measure(d.options).metrics, strict=True):
            assert a.value == pytest.approx(b.value, rel=1e-3, abs=1e-5), (graphs, a.name)
    plain.close()
    assert graphs or name not in ("sd1", "pixart-alpha")
