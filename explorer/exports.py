"""What the Export tab says and does: the plan in words, the job, its progress and result as Markdown.

The engine's exports need torch, so they are imported when they are used: the page is drawn before.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from engine.core.errors import Cancelled, EngineError, InputError
from engine.core.files import typed_path
from engine.core.recipe import Recipe
from explorer.backend import LiveBackend, Progress
from explorer.context import OpenModel, sentence
from explorer.worker import Waiting, Worker

if TYPE_CHECKING:
    from engine.export.exporting import Exported
    from engine.export.plan import ExportPlan

LISTED = 8


def planned(model: OpenModel, recipe: Recipe, name: str) -> ExportPlan:
    """What the file would hold.

    Raises:
        InputError, RecipeError: no such format; the recipe cannot be held at all.
    """
    from engine.export.exporting import plan_export

    return plan_export(model.structure, recipe, name)


def plan_text(plan: ExportPlan) -> str:
    """The plan as Markdown: counts, sizes, packages, and the first layers that change."""
    counts, packages = plan.counts, ", ".join(map(str, plan.packages)) or "no package"
    lines = [f"**{counts['exact']}** layers exact, **{counts['requantized']}** requantized, **{counts['left']}** left "
             f"at full precision. **{plan.bytes / 1e6:,.2f} MB**, with biases and norms "
             f"{plan.file_bytes / 1e6:,.2f} MB. Needs {packages}.", _plain(plan.footprint.sentence()), *plan.notes]
    if plan.changes:
        rows = [f"- {_plain(c.layer)}: {c.wanted} → {c.held} ({_plain(c.reason)})" for c in plan.changes]
        if len(rows) > LISTED:
            more = "\n".join(rows[LISTED:])
            rows[LISTED:] = [f"\n<details><summary>and {len(rows) - LISTED} more</summary>\n\n{more}\n\n</details>"]
        lines += ["This format cannot hold the recipe as it is. Show what the file would hold, look at the pictures, "
                  "then export.", "\n".join(rows)]
    return "\n\n".join(lines)


def exporting(model: OpenModel, recipe: Recipe, name: str, directory: str, worker: Worker,
              session: str) -> Iterator[str]:
    """Run the export on the device worker; Markdown of where it stands, at the end what was written."""
    from engine.export.exporting import Exported, ExportProgress

    try:
        plan = planned(model, recipe, name)
        _refuse(model, plan, directory)
        job = worker.submit(_work(model.backend, recipe, name, directory), f"{session}-export")
        for event in worker.events(job):
            if isinstance(event, Waiting):
                yield f"Waiting, {event.ahead} ahead…"
            elif isinstance(event, Progress):
                yield f"{event.doing}…"
            elif isinstance(event, ExportProgress):
                yield f"{event.stage.capitalize()}: {event.done} of {event.of} ({_plain(event.what)})"
            elif isinstance(event, Exported):
                yield done_text(event)
    except Cancelled:
        yield "Cancelled; nothing was left behind."
    except (EngineError, RuntimeError) as error:
        yield f"**{_plain(sentence(error))}**"


def _refuse(model: OpenModel, plan: ExportPlan, directory: str) -> None:
    if not isinstance(model.backend, LiveBackend):
        raise InputError(model.backend.why_no_pictures)
    if not directory.strip():
        raise InputError("Name a new directory to write to.")
    if plan.changes:
        raise InputError(f"{len(plan.changes)} layers would change in this format; press Show what the file would "
                         f"hold, look at the pictures, then export.")


def _work(backend: Any, recipe: Recipe, name: str, directory: str) -> Callable[[Any], Iterator[Any]]:
    def run(cancel: Any) -> Iterator[Any]:
        yield from (e for e in backend.load(cancel) if isinstance(e, Progress))
        yield from backend.export(recipe, name, typed_path(directory.strip(), InputError), cancel)
    return run


def done_text(done: Exported) -> str:
    """What was written and how it compares, with the lines of Python that load it."""
    from engine.export.exporting import snippet

    return (f"Written to `{done.directory}`: denoiser **{done.denoiser_bytes / 1e6:,.2f} MB**, whole directory "
            f"{done.total_bytes / 1e6:,.2f} MB. Reloaded and compared: largest difference to the preview "
            f"**{done.difference.output:.3g}** (outputs up to {done.difference.output_scale:.3g}). Copy as Python:\n\n"
            f"```python\n{snippet(done.plan, done.directory)}\n```")


def _plain(text: str) -> str:
    """Text from files, without characters that mean something to Markdown or HTML."""
    return re.sub(r"[^\w .,:;()/→>+%'-]", " ", text).replace("_", r"\_")
