"""Packed kernels in the Export tab: one table of what the bench found, and refusals in a sentence."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from explorer.jobs import Jobs, Standing
from explorer.kernels import COLUMNS, KIND, Kernels, about, rows
from explorer.server import Binding

FOUND = {
    "n": 7, "layers": 80, "linear_share": 0.44, "machine": {"load": [0.3, 1, 2]},
    **{f"{side}_{name}": value for side, values in {
        "full": (0.1, 664.0, 12.72), "nf4": (0.2, 653.0, 1.79), "fp4": (0.15, 653.0, 1.79), "int8": (0.05, 655.0, 3.25),
    }.items() for name, value in zip(("seconds_per_step", "resident_mb", "linear_mb"), values, strict=True)},
    "nf4_output_error": 0.25, "fp4_output_error": 0.26, "int8_output_error": 0.03,
}


class Recorded(Jobs):
    """Jobs that are only written down."""

    def __init__(self, standing: Standing | None = None) -> None:
        super().__init__()
        self.asked: list[Any] = []
        self.now = standing or Standing()

    def start(self, *given: Any) -> Any:
        self.asked.append(given)

    def standing(self) -> Standing:
        return self.now


def kernels(jobs: Jobs, why: str = "", limited: bool = False) -> Kernels:
    names = ("kernels", "bar", "timer")
    panel = SimpleNamespace(**{name: name for name in names})
    model = SimpleNamespace(backend=SimpleNamespace(why_no_pictures=why))
    context = SimpleNamespace(bound=Binding("127.0.0.1", 7860, (), "", limited), model=lambda name: model)
    wiring: Any = SimpleNamespace(parts=SimpleNamespace(views=SimpleNamespace(export=panel)), jobs=jobs,
                                  handlers=SimpleNamespace(context=context))
    return Kernels(wiring)


STATE: Any = SimpleNamespace(model="m")


def test_every_side_is_a_line_beside_full_precision() -> None:
    found = rows(FOUND)
    assert all(len(line) == len(COLUMNS) for line in found)
    assert [line[0] for line in found] == ["full precision", "nf4", "fp4", "int8"]
    assert (found[1][1], found[3][1]) == ("0.2 (2x)", "0.05 (0.5x)")
    assert (found[0][-1], found[1][-1]) == ("", "25.0%")
    assert "80 Linear layers, 44%" in about(FOUND) and "0.3" in about(FOUND)


def test_it_runs_the_bench_on_the_open_model() -> None:
    jobs = Recorded(Standing(KIND, True, "Measuring packed kernels", 3, 32, 5.0))
    answer: Any = kernels(jobs).begun(STATE)
    assert jobs.asked == [("bench", "m", None, ["lowbit", "--model", "m", "--rounds", "7"])]
    assert answer["bar"]["running"] and answer["bar"]["text"] == "Measuring packed kernels, 9 %"


@pytest.mark.parametrize("given", [{"why": "No weights here."}, {"limited": True}])
def test_what_cannot_be_measured_is_refused_in_a_sentence(given: dict[str, Any]) -> None:
    jobs = Recorded()
    answer: Any = kernels(jobs, **given).begun(STATE)
    assert not jobs.asked and answer["bar"]["error"].endswith(".")


def test_figures_belong_to_the_model_they_were_measured_on() -> None:
    jobs = Recorded(Standing(KIND, False, result=FOUND))
    jobs.current = SimpleNamespace(model="m", ended=1.0)  # type: ignore[assignment]
    shown = kernels(jobs)
    answer: Any = shown.ticked(STATE)
    assert "| nf4 | 0.2 (2x) | 653 | 1.79 | 25.0% |" in answer["kernels"] and not answer["timer"].active
    other: Any = shown.entered(SimpleNamespace(model="other"))  # type: ignore[arg-type]
    assert other["kernels"] == ""


def test_a_study_is_not_taken_for_a_measurement() -> None:
    answer: Any = kernels(Recorded(Standing("study", True, "Measuring"))).ticked(STATE)
    assert set(answer) == {"timer", "bar"} and answer["bar"] == {"running": False}
