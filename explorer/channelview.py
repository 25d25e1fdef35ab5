"""The DMQ view of one layer: ranges per input channel before and after, chosen shifts, how far votes agreed."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.core.activation import STATIC
from engine.core.graph import Structure
from engine.core.option import Option
from engine.core.places import IDENTITY_DIGITS, assets_dir, cache_dir
from explorer.charts import METHOD_STYLE, styled
from explorer.choices import choices_of
from explorer.heat import Named, blank, heat

if TYPE_CHECKING:
    from engine.calibrate.channels import ChannelReport, Channels

OFFERED = 6  # reports, the newest
GREY, BLUE = "rgba(138,148,166,.75)", METHOD_STYLE["uaq"][0]
NO_SHIFTS = "No power-of-two shifts were chosen for this layer."


def find_reports(structure: Structure) -> dict[str, ChannelReport]:
    """tables id -> calibration report of this model, the newest first; damaged files are passed over."""
    from engine.calibrate.channels import SUFFIX
    from engine.core.errors import StoreError

    found: dict[str, ChannelReport] = {}
    digits = structure.identity[:IDENTITY_DIGITS]
    for place in (cache_dir(), assets_dir()):
        paths = (place / "activations").glob(f"*{digits}.*{SUFFIX}") if digits else ()
        for path in sorted(paths, key=lambda p: (-p.stat().st_mtime, p.name)):
            try:
                report = _read(path, path.stat().st_mtime_ns)
            except StoreError:
                continue
            if report.model == structure.identity:
                found.setdefault(report.tables, report)
            if len(found) == OFFERED:
                return found
    return found


@functools.lru_cache(maxsize=2 * OFFERED)
def _read(path: Path, changed: int) -> ChannelReport:
    from engine.calibrate.channels import load_report

    return load_report(path)


def preferred(reports: Mapping[str, ChannelReport], options: Mapping[str, Option]) -> str:
    """The report on the tables that the recipe uses, else the newest."""
    used = {a.tables for a in choices_of(options).activations.values() if a.scheme == STATIC}
    return next((name for name in reports if name in used), next(iter(reports), ""))


def report_title(report: ChannelReport) -> str:
    """`1f0c9a: 59 layers, 12 scaled, 9 with shifts`."""
    layers = report.layers.values()
    scaled, shifted = sum(x.tau is not None for x in layers), sum(x.shifts is not None for x in layers)
    return f"{report.tables[:6]}: {len(layers)} layers, {scaled} scaled, {shifted} with shifts"


def ranges_chart(name: str, channels: Channels, group: int) -> Any:
    """Largest magnitude per channel, before and as the common grid meets it, the widest channel first."""
    import plotly.graph_objects as go

    before = _peaks(channels.low, channels.high)
    after = _peaks(*channels.after(group if channels.shifts is not None else None))
    order = sorted(range(len(before)), key=lambda i: -before[i])
    figure = go.Figure()
    for title, values, colour in (("before", before, GREY), ("after", after, BLUE)):
        figure.add_scatter(x=list(range(len(order))), y=[max(values[i], 1e-9) for i in order], name=title, mode="lines",
                           line={"color": colour, "width": 2 if title == "after" else 1.4, "shape": "hvh"},
                           fill="tozeroy" if title == "before" else None, fillcolor="rgba(138,148,166,.16)",
                           customdata=order, hovertemplate="channel %{customdata}<br>%{y:.3g}<extra>%{fullData.name}"
                                                           "</extra>")
    figure.update_yaxes(type="log", title="largest input", exponentformat="power")
    figure.update_xaxes(title="input channel, widest first")
    return styled(figure, 230)


def shifts_view(channels: Channels) -> dict[str, Any]:
    """Group x channel: by how many powers of two each channel is stretched."""
    if channels.shifts is None:
        refused = channels.agreement is not None
        return blank("Shifts were tried and refused: on held-out pictures they did not help." if refused else NO_SHIFTS)
    named = Named("Chosen shifts", "powers of two, 0 to 3", "Timestep group", "Channel")
    rows, columns = _places(channels.shifts.shape)
    return heat(named, rows, columns, channels.shifts.tolist(), scale=(0.0, 3.0))


def agreement_view(channels: Channels) -> dict[str, Any]:
    """Group x channel: the share of calibration votes that chose the shift."""
    if channels.agreement is None:
        return blank("Nothing was voted on in this layer.")
    named = Named("Agreement of votes", "share of votes for the chosen shift", "Timestep group", "Channel",
                  note=f"Mean {float(channels.agreement.mean()):.2f}.")
    rows, columns = _places(channels.agreement.shape)
    return heat(named, rows, columns, channels.agreement.tolist(), scale=(0.0, 1.0))


def channels_text(name: str, channels: Channels) -> str:
    """What was learned of the layer and what it changed on held-out pictures, as Markdown."""
    before = _peaks(channels.low, channels.high)
    after = _peaks(*channels.after(0 if channels.shifts is not None else None))
    lines = [f"{len(before)} input channels; widest over median range **{_spread(before):.1f}** before, "
             f"**{_spread(after):.1f}** after."]
    for key, what in (("scaling", "Learned scaling"), ("shifts", "Shifts")):
        pair = [channels.figures.get(f"{key}_{when}") for when in ("before", "after")]
        if None not in pair:
            kept = channels.tau is not None if key == "scaling" else channels.shifts is not None
            lines.append(f"{what}: held-out error {pair[0]:.3g} → {pair[1]:.3g}, {'accepted' if kept else 'refused'}.")
    return " ".join(lines)


def _spread(peaks: list[float]) -> float:
    ordered = sorted(peaks)
    return ordered[-1] / max(ordered[len(ordered) // 2], 1e-12)


def _peaks(low: Any, high: Any) -> list[float]:
    return [max(-float(a), float(b), 0.0) for a, b in zip(low, high, strict=True)]


def _places(shape: Any) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    return ([{"label": f"group {g + 1}"} for g in range(shape[0])], [{"label": str(c)} for c in range(shape[1])])

