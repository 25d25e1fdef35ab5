"""Events of the Study tab: start, watch, cancel, resume and extend a study, and fit the predictor, beside the page."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from engine.cli.fit import ADDITIVE
from engine.core.errors import EngineError, InputError
from engine.core.files import typed_path
from engine.core.places import assets_dir
from explorer.charts import GREY, METHOD_STYLE, styled
from explorer.context import OpenModel, sentence
from explorer.jobs import Standing
from explorer.panels.study import DEFAULT_IMAGES, DEFAULT_TRIALS
from explorer.state import ViewState
from explorer.studies import (
    Measured,
    StudyView,
    best_trials,
    find_studies,
    own_file,
    remember,
    study_view,
)
from explorer.wording import metric_title, seconds

if TYPE_CHECKING:
    from explorer.wiring import Wiring

Update = dict[Any, Any]
DEFAULT_METRIC = "psnr"
PRESET_STYLE = {"paper-6": (METHOD_STYLE["uaq"][0], "circle"), "wide": ("#E69F00", "diamond")}
OTHER_STYLE = ("#009E73", "square")
NEW = "A new study"
KINDS = ("study", "fit")  # of jobs


class Studying:
    """Bound to the page's wiring; `connect` is called once. One job runs per server, whoever started it."""

    def __init__(self, wiring: Wiring) -> None:
        self.wiring = wiring
        self.panel = wiring.parts.views.study
        self.jobs = wiring.jobs

    # --- what is chosen ------------------------------------------------------------------------------------------

    def _model(self, state: ViewState) -> OpenModel:
        return self.wiring.handlers.context.model(state.model)

    def files(self, state: ViewState) -> tuple[list[tuple[str, str]], str]:
        """Choices (title, path) of the file box, and the one to show: the largest study there is."""
        structure = self._model(state).structure
        own, found = own_file(structure), find_studies(structure)
        choices = [(f"{p.name} ({'shipped' if _shipped(p) else 'yours'})", str(p)) for p in found]
        if own not in found:
            choices.append((f"{NEW}: {own.name}", str(own)))
        return choices, choices[0][1]

    def entered(self, state: ViewState | None, file: str | None) -> Update:
        """The tab was opened, or the model changed: offer its studies, and look on if a job is running."""
        p = self.panel
        if state is None:
            return {p.file: gr.skip()}
        choices, first = self.files(state)
        kept = file if file in [path for _, path in choices] else first
        return {p.file: gr.update(choices=choices, value=kept), p.timer: gr.Timer(active=self.jobs.standing().running)}

    def viewed(self, state: ViewState | None, file: str | None, metric: str | None, formula: str) -> Update:
        """What the chosen file holds: words (how reliable the target's labels are, too), chart, best trials, and what
        the button would do."""
        p = self.panel
        if state is None or not file:
            return {p.about: ""}
        structure = self._model(state).structure
        try:
            path = typed_path(file, InputError)
            self._check_offered(state, path)
            if not path.exists():
                return self._emptied(f"Nothing is measured yet; {path.name} begins with the first trial.")
            labels: tuple[str, ...] = ()
            wrong = ""
            try:
                labels = labels_of(formula)
            except InputError as error:
                wrong = refusal(error)
            view = study_view(path, structure, labels)
        except EngineError as error:
            return self._emptied(refusal(error))
        remember(structure.identity, path)
        shown = metric if metric in view.metrics else DEFAULT_METRIC if DEFAULT_METRIC in view.metrics else \
            next(iter(view.metrics), "")
        return {
            p.about: view_text(view, wrong), p.start: "Resume" if view.waiting else "Extend",
            p.metric: gr.update(choices=[(metric_title(m), m) for m in view.metrics], value=shown or None,
                                visible=bool(view.metrics)),
            p.chart: gr.update(value=trials_figure(view.rows, shown) if shown else None, visible=bool(shown)),
            p.best: gr.update(value=_best_rows(view, shown), visible=bool(shown)),
        }

    def chosen(self, state: ViewState | None, file: str | None, metric: str | None, formula: str) -> Update:
        """Another file: what it holds, and trials and images as it has them, so that it is gone on with."""
        return {**self.viewed(state, file, metric, formula), **self._sized(state, file)}

    def in_sight(self, state: ViewState | None, file: str | None, metric: str | None, formula: str,
                 seen: str) -> Update:
        """Another model: the same, while the tab is in sight; opening it does so too."""
        return self.chosen(state, file, metric, formula) if seen else {self.panel.about: gr.skip()}

    def _sized(self, state: ViewState | None, file: str | None) -> Update:
        p = self.panel
        try:
            path = typed_path(file or "", InputError)
            if state:
                self._check_offered(state, path)
            view = study_view(path, self._model(state).structure) if state else None
        except EngineError:
            view = None
        if view is None:
            return {p.trials: DEFAULT_TRIALS, p.images: gr.update(value=DEFAULT_IMAGES, interactive=True)}
        return {p.trials: view.planned + (0 if view.waiting else DEFAULT_TRIALS),
                p.images: gr.update(value=view.images, interactive=False)}

    def _check_offered(self, state: ViewState, path: Path) -> None:
        """A public page reads no other files of its server than those it offers."""
        if str(path) not in [known for _, known in self.files(state)[0]]:
            self.wiring.handlers.context.bound.require_own("open other study files")

    def _emptied(self, text: str) -> Update:
        p = self.panel
        return {p.about: text, p.start: "Start", p.metric: gr.update(visible=False), p.chart: gr.update(visible=False),
                p.best: gr.update(visible=False)}

    # --- jobs ----------------------------------------------------------------------------------------------------

    def measuring(self, state: ViewState | None, file: str | None, preset: str, trials: float | None,
                  images: float | None, retry: bool, mixed: bool) -> Update:
        """Begin or go on with a study, as a process of low priority."""
        def begin(state: ViewState, path: Path) -> None:
            model = self._model(state)
            if model.backend.why_no_pictures:
                raise InputError(model.backend.why_no_pictures)
            path = writable(path, own_file(model.structure))
            words = [state.model, "--db", str(path), "--preset", preset, "--trials", str(int(trials or 0)), "--images",
                     str(int(images or 0)), "--threads", str(max(1, (os.cpu_count() or 2) // 2))]
            self.jobs.start("study", state.model, path, [*words, *(["--retry-failed"] if retry else []),
                                                         *(["--mixed"] if mixed else [])])
        return self._begun(state, file, begin)

    def fitting(self, state: ViewState | None, file: str | None, formula: str, kinds: str) -> Update:
        """Fit the predictor to the chosen study, as a process of low priority."""
        def begin(state: ViewState, path: Path) -> None:
            study_view(path, self._model(state).structure)
            words = [str(path), "--model", state.model, f"--formula={formula.strip()}",
                     *(["--kinds", *ADDITIVE] if kinds == "additive" else [])]
            self.jobs.start("fit", state.model, path, words,
                            then=partial(self.wiring.handlers.context.refreshed, state.model))
        return self._begun(state, file, begin)

    def _begun(self, state: ViewState | None, file: str | None, begin: Callable[[ViewState, Path], None]) -> Update:
        p = self.panel
        if state is None:
            return {p.bar: gr.skip()}
        try:
            self.wiring.handlers.context.bound.require_own("run studies and fits")
            if not file:
                raise InputError("Choose a study file first.")
            begin(state, typed_path(file, InputError))
        except EngineError as error:
            if self.jobs.standing().running:  # its bar stays
                gr.Warning(sentence(error))
                return {p.bar: gr.skip()}
            return {p.bar: {"running": False, "error": sentence(error)}}
        assert self.jobs.current is not None and self.jobs.current.file is not None
        written = self.jobs.current.file
        choices, _ = self.files(state)
        if str(written) not in [path for _, path in choices]:
            choices.append((f"{written.name} (yours)", str(written)))
        return {p.bar: bar_value(self.jobs.standing()), p.timer: gr.Timer(active=True),
                p.file: gr.update(choices=choices, value=str(written))}

    def ticked(self) -> Update:
        """Where the job stands; the clock stops with it."""
        standing = self.jobs.standing()
        return {self.panel.bar: bar_value(standing), self.panel.timer: gr.Timer(active=standing.running)}

    def watched(self, state: ViewState | None, file: str | None, metric: str | None, formula: str) -> Update:
        """The chosen study while it grows, where its chart is seen."""
        job = self.jobs.current
        if job is None or job.kind != "study" or file != str(job.file):
            return {self.panel.about: gr.skip()}
        return self.viewed(state, file, metric, formula)

    def ended(self, state: ViewState | None) -> Update:
        """A fit has ended: what it found, in words."""
        job, standing = self.jobs.current, self.jobs.standing()
        if job is None or state is None or standing.kind != "fit" or not standing.result:
            return {self.panel.fitted: gr.skip()}
        return {self.panel.fitted: fit_text(standing.result)}

    def adopted(self, state: ViewState | None) -> Update:
        """After a fit of this model: its graph with the new table; selection and recipe stay."""
        job, standing, graph = self.jobs.current, self.jobs.standing(), self.wiring.parts.graph
        if job is None or state is None or job.model != state.model or standing.kind != "fit" or not standing.result:
            return {graph: gr.skip()}
        return {graph: gr.update(graph=self._model(state).graph)}

    def cancelled(self) -> None:
        """The cancel button."""
        self.jobs.stop(*KINDS)

    # --- connections ---------------------------------------------------------------------------------------------

    def loading(self, pointed: Callable[[ViewState, Mapping[str, Any]], ViewState], quiet: Mapping[str, Any]) -> Any:
        """Register clicks on the chart's trials; the event after which the page shows the recipe."""
        w, parts = self.wiring, self.wiring.parts
        painted = self.panel.bar.point(w.editing(pointed), [parts.state, self.panel.bar, parts.graph],
                                       list(w.painting), **w.turns)
        painted.then(w.picturing(), [parts.state, parts.views.against], parts.views.pane, **quiet)
        return painted

    def connect(self, opened: Sequence[Any], quiet: Mapping[str, Any]) -> None:
        """Register the tab's events; `opened` are the models once shown."""
        p, parts = self.panel, self.wiring.parts
        ask, view = [parts.state, p.file, p.metric, p.formula], [p.about, p.start, p.metric, p.chart, p.best]
        sizes = [p.trials, p.images]
        entered = p.tab.select(self.entered, [parts.state, p.file], [p.file, p.timer], **quiet)
        entered.then(self.chosen, ask, [*view, *sizes], **quiet)
        for event in opened:  # reading a study takes seconds, so only where the tab is in sight
            entered = event.then(self.entered, [parts.state, p.file], [p.file, p.timer], **quiet)
            entered.then(self.in_sight, [*ask, parts.download], [*view, *sizes], **quiet,
                         js="(...asked) => [...asked.slice(0, -1), QS.seen('study-form') ? '1' : '']")
        p.file.input(self.chosen, ask, [*view, *sizes], **quiet)
        for event in (p.metric.input, p.formula.submit, p.formula.blur):
            event(self.viewed, ask, view, **quiet)
        begun = [p.bar, p.timer, p.file]
        p.start.click(self.measuring, [parts.state, p.file, p.preset, p.trials, p.images, p.retry, p.mixed], begun,
                      **quiet)
        p.fit.click(self.fitting, [parts.state, p.file, p.formula, p.kinds], begun, **quiet)
        p.timer.tick(self.ticked, None, [p.bar, p.timer], **quiet).then(self.watched, ask, view, **quiet)
        p.bar.cancel(self.cancelled, None, None, **quiet)
        done = p.bar.done(self.ended, parts.state, p.fitted, **quiet)
        done.then(self.viewed, ask, view, **quiet)
        adopted = done.then(self.adopted, parts.state, parts.graph, **quiet)
        adopted.then(self.wiring.repainted, parts.state, parts.graph, **self.wiring.turns)


# --- words and figures ---------------------------------------------------------------------------------------------


def writable(path: Path, own: Path) -> Path:
    """The file to write: a shipped study is copied to the user's own first, so that what was shipped stays as it is.

    Raises:
        InputError: the copy cannot be made.
    """
    shipped = _shipped(path)
    if not shipped and path != own:
        return path
    try:
        own.parent.mkdir(parents=True, exist_ok=True)
        if shipped and not own.exists():
            shutil.copyfile(path, own)
    except OSError as failure:
        what = f"{path.name} is shipped and stays as it is, and it cannot be copied to {own}" if shipped else \
            f"{own.parent} cannot be made"
        raise InputError(f"{what} ({failure.strerror or failure}); make room there, or name another file.") from None
    return own


def _shipped(path: Path) -> bool:
    return assets_dir() in path.parents


def bar_value(standing: Standing) -> dict[str, Any]:
    """A standing as the bar shows it."""
    text = standing.doing
    if standing.total and standing.kind == "study":
        text += f", {int(standing.done)} of {standing.total}"
    elif standing.total:
        text += f", {100 * standing.done / standing.total:.0f} %"
    if standing.failed:
        text += f", {standing.failed} failed"
    return {"running": standing.running, "text": text, "done": standing.done, "total": standing.total,
            "left": seconds(standing.left_s), "error": standing.error or None}


def labels_of(formula: str) -> tuple[str, ...]:
    """The metrics a target names; its labels are as reliable as they are.

    Raises:
        InputError: it is no formula.
    """
    from engine.analysis.formula import BITS, parse_formula

    return tuple(name for name in parse_formula(formula.strip()).names if name != BITS)


def view_text(view: StudyView, wrong: str = "") -> str:
    """What a study holds, as Markdown, and what is `wrong` with the target; what comes from files is escaped."""
    import html

    presets = ", ".join(f"{n} {html.escape(name)}" for name, n in view.presets.items())
    lines = [f"**{view.trials} trials** ({presets}) of {view.images} images, {view.steps} steps; "
             f"{view.waiting} waiting, {view.failed} failed."]
    lines += [f"Label reliability of {html.escape(metric_title(label))}: **{html.escape(said)}**."
              for label, said in view.reliability.items()]
    lines += [wrong] if wrong else []
    lines += [f'<span class="qs-refused">{html.escape(error[:200])}</span>' for error in view.errors]
    return "\n\n".join(lines)


def fit_text(result: Mapping[str, Any]) -> str:
    """Held-out figures of a fit beside its controls, as Markdown."""
    report = result.get("report") or {}
    rows = report.get("quality") or report.get("target") or {}
    lines = [f"Fitted to {report.get('trials', '?')} trials in {float(result.get('seconds', 0)):.0f} s; held out:", "",
             "| | Spearman | within 0.1 bits and preset | mean error |", "|---|---|---|---|"]
    for name, row in rows.items():
        within = row.get("spearman_in_bins")
        mark = "**" if name == result.get("kind") else ""
        lines.append(f"| {mark}{name}{mark} | {row['spearman']:.3f} | "
                     + (f"{within:.3f}" if within is not None else "–") + f" | {row['mae']:.3g} |")
    return "\n".join([*lines, "", f"In use: {result.get('kind', '')}. Its scores can now colour the graph and feed "
                      f"the budget."])


def trials_figure(rows: Sequence[Measured], metric: str) -> Any:
    """Metric over stored bits, one dot per trial, by preset; a click loads the recipe."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for preset in dict.fromkeys(r.preset for r in rows):
        colour, symbol = PRESET_STYLE.get(preset.partition(":")[0], OTHER_STYLE)
        here = [r for r in rows if r.preset == preset and metric in r.values]
        figure.add_scatter(x=[r.bits for r in here], y=[r.values[metric] for r in here], mode="markers", name=preset,
                           customdata=[f"t:{r.study}:{r.number}" for r in here], text=[str(r.number) for r in here],
                           marker={"color": colour, "symbol": symbol, "size": 6, "opacity": 0.75,
                                   "line": {"width": 0.4, "color": GREY}},
                           hovertemplate="trial %{text}<br>%{x:.2f} bits, %{y:.4g}<br>click loads it<extra></extra>")
    styled(figure, 280)
    small = {"size": 11}
    figure.update_xaxes(title={"text": "stored bits per weight", "font": small}, tickfont=small)
    figure.update_yaxes(title={"text": metric_title(metric), "font": small}, tickfont=small)
    return figure.update_layout(margin={"l": 50, "r": 8, "t": 26, "b": 40}, hovermode="closest", dragmode="pan",
                                uirevision=f"study-{metric}", showlegend=True)


def _best_rows(view: StudyView, metric: str) -> list[list[str]]:
    if not metric:
        return []
    found = best_trials(view.rows, metric, view.metrics[metric])
    return [[f"{r.bits:.2f}", f"{r.values[metric]:.4g}", r.preset, str(r.number)] for r in found]


def refusal(error: EngineError) -> str:
    """An expected error as a red sentence; what it quotes of files is text."""
    import html

    return f'<span class="qs-refused">{html.escape(sentence(error))}</span>'
