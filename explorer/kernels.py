"""Packed kernels in the Export tab: `bench lowbit` on the open model as a process of its own, and what it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gradio as gr

from engine.core.errors import EngineError, InputError
from explorer.context import sentence
from explorer.state import ViewState
from explorer.studying import bar_value

if TYPE_CHECKING:
    from explorer.wiring import Wiring

Update = dict[Any, Any]
ROUNDS = 7
KIND = "bench"
COLUMNS = ["Linear layers", "s per step", "MB resident", "MB of them", "error"]
SIDES = {"full": "full precision", "nf4": "nf4", "fp4": "fp4", "int8": "int8"}


class Kernels:
    """Bound to the page's wiring; `connect` is called once. Shares the one job a server runs with the Study tab."""

    def __init__(self, wiring: Wiring) -> None:
        self.wiring = wiring
        self.panel = wiring.parts.views.export
        self.jobs = wiring.jobs
        self.found: dict[str, Mapping[str, Any]] = {}  # model -> what the last run found

    def begun(self, state: ViewState | None) -> Update:
        """Start measuring."""
        p = self.panel
        if state is None:
            return {p.bar: gr.skip()}
        context = self.wiring.handlers.context
        try:
            context.bound.require_own("measure its kernels")
            why = context.model(state.model).backend.why_no_pictures
            if why:
                raise InputError(why)
            self.jobs.start(KIND, state.model, None, ["lowbit", "--model", state.model, "--rounds", str(ROUNDS)])
        except EngineError as error:
            return {p.bar: {"running": False, "error": sentence(error)}}
        return {p.bar: bar_value(self.jobs.standing()), p.timer: gr.Timer(active=True)}

    def ticked(self, state: ViewState | None) -> Update:
        """Where it stands; the clock stops with it, and the table shows what was found."""
        p, standing, job = self.panel, self.jobs.standing(), self.jobs.current
        if standing.kind != KIND or job is None:
            return {p.bar: {"running": False}, p.timer: gr.Timer(active=False)}
        if standing.result:
            self.found[job.model] = standing.result
        return {p.bar: bar_value(standing), p.timer: gr.Timer(active=standing.running), **self.shown(state)}

    def entered(self, state: ViewState | None) -> Update:
        """The tab was opened or the model changed: its figures, and the bar if it is being measured."""
        standing = self.jobs.standing()
        running = standing.running and standing.kind == KIND
        return {**self.shown(state), self.panel.timer: gr.Timer(active=running)}

    def shown(self, state: ViewState | None) -> Update:
        """The figures of this model, where there are some."""
        found = self.found.get(state.model) if state else None
        return {self.panel.kernels: f"{table(found)}\n\n{about(found)}" if found else ""}

    def cancelled(self) -> None:
        """The cancel button."""
        self.jobs.stop(KIND)

    def connect(self, opened: Sequence[Any], quiet: Mapping[str, Any]) -> None:
        """Register the events; `opened` are the models once shown."""
        p, state = self.panel, self.wiring.parts.state
        shown = [p.kernels, p.timer]
        for event in (p.tab.select, *(e.then for e in opened)):
            event(self.entered, state, shown, **quiet)
        p.measure.click(self.begun, state, [p.bar, p.timer], **quiet)
        p.timer.tick(self.ticked, state, [p.bar, *shown], **quiet)
        p.bar.cancel(self.cancelled, None, None, **quiet)


def table(found: Mapping[str, Any]) -> str:
    """Markdown."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *rows(found)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def rows(found: Mapping[str, Any]) -> list[list[str]]:
    """One line per side: time and memory with what they are of full precision's."""
    lines = []
    for side, title in SIDES.items():
        took, error = found[f"{side}_seconds_per_step"], found.get(f"{side}_output_error")
        part = took / found["full_seconds_per_step"]
        lines.append([title, f"{took:.3g}" + (f" ({part:.2g}x)" if side != "full" else ""),
                      f"{found[f'{side}_resident_mb']:,.0f}", f"{found[f'{side}_linear_mb']:,.2f}",
                      f"{error:.1%}" if error is not None else ""])
    return lines


def about(found: Mapping[str, Any]) -> str:
    """What was measured, in a sentence or two."""
    load = ", ".join(f"{x:.1f}" for x in found.get("machine", {}).get("load", [])[:1])
    return (f"{found['layers']} Linear layers, {found['linear_share']:.0%} of the quantizable weights; medians of "
            f"{found['n']} steps each, the sides taken in turn in one process of low priority"
            + (f" (load before: {load})" if load else "") + ". Resident is "
            "the whole process, torch and all; the error is that of the denoiser's output.")
