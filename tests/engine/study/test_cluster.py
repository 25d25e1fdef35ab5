"""The cluster executor without a cluster: a stand-in for Ray that runs actors in this process."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
from dump import content
from fake_bench import BENCH

from engine.core.errors import StudyError
from engine.study.job import Job
from engine.study.runner import Plan, run_study
from engine.study.storage import read_study
from engine.study.trial import State


class FakeRay(types.ModuleType):
    """`init`, `remote`, `get`, `wait`, `kill`, `shutdown`, as far as they are used; calls run when they are got."""

    def __init__(self, lost: int = -1) -> None:
        super().__init__("ray")
        self.exceptions = types.SimpleNamespace(RayError=ConnectionResetError)
        self.calls: list[str] = []
        self.lost = lost

    def init(self, address: str | None, **_: Any) -> None:
        if address == "nowhere":
            raise ConnectionError("no answer\nmore lines")
        self.calls.append(f"init {address}")

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 6.0, "GPU": 2.0}

    def remote(self, **needs: Any) -> Any:
        self.calls.append(f"needs {needs}")
        return lambda cls: types.SimpleNamespace(remote=lambda *args: _Actor(self, cls(*args)))

    def get(self, handle: Any) -> Any:
        if isinstance(handle, list):
            return [self.get(h) for h in handle]
        self.lost -= 1
        if self.lost == 0:
            raise ConnectionResetError("actor died")
        return handle()

    def wait(self, handles: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        return handles[-1:], handles[:-1]

    def kill(self, actor: Any) -> None:
        self.calls.append("kill")

    def shutdown(self) -> None:
        self.calls.append("shutdown")


class _Actor:
    def __init__(self, ray: FakeRay, instance: Any) -> None:
        for name in ("ready", "measure"):
            method = getattr(instance, name)
            setattr(self, name, types.SimpleNamespace(remote=lambda *a, m=method: lambda: m(*a)))


def plan(source: str = "", address: str = "auto", **changes: Any) -> Plan:
    return Plan(Job(source, bench=BENCH, **changes), 6, ray=address, workers=2)


def test_actors_give_what_one_process_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)
    list(run_study(tmp_path / "ray.sqlite", plan(threads=3)))
    list(run_study(tmp_path / "one.sqlite", Plan(Job("", bench=BENCH), 6)))
    assert content(tmp_path / "ray.sqlite") == content(tmp_path / "one.sqlite")
    assert fake.calls[0] == "init auto" and "'num_cpus': 3" in fake.calls[1] and fake.calls[-3:] == ["kill"] * 2 + [
        "shutdown"]


def test_gpu_actors_ask_for_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)
    list(run_study(tmp_path / "s.sqlite", plan(device="cuda")))
    assert "'num_gpus': 1" in fake.calls[1]


def test_a_lost_actor_costs_its_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", FakeRay(lost=5))
    list(run_study(tmp_path / "s.sqlite", plan()))
    with read_study(tmp_path / "s.sqlite") as study:
        assert study.counts()[State.DONE] == 5
        assert study.trials(State.FAILED)[0].error == "The Ray worker was lost (ConnectionResetError)."


@pytest.mark.parametrize(("ray", "job", "words"), [
    (None, {}, "needs the package ray"), (FakeRay(), {"address": "nowhere"}, "No Ray cluster answers at 'nowhere'"),
    (FakeRay(), {"address": "ray://127.0.0.1:1"}, "No Ray cluster answers at 'ray://127.0.0.1:1'"),
    (FakeRay(), {"threads": 4}, "has 6 processors and 2 workers need 8"),
    (FakeRay(), {"source": "absent"}, "There is no model at 'absent'"), (FakeRay(lost=1), {}, "could not start"),
])
def test_what_can_go_wrong_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray: Any, job: dict,
                                           words: str) -> None:
    monkeypatch.setitem(sys.modules, "ray", ray)
    with pytest.raises(StudyError, match=words):
        list(run_study(tmp_path / "s.sqlite", plan(**job)))
