"""A job's records as values of the pane that asked for it: progress, failures and the rest as it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from engine.core.errors import Cancelled, EngineError
from explorer.backend import Progress
from explorer.context import sentence
from explorer.wording import seconds
from explorer.worker import Waiting, Worker


def progress(event: Progress) -> dict[str, Any]:
    """Progress as a pane draws it."""
    return {"text": event.doing, "step": event.step, "of": event.of, "left": seconds(event.seconds_left)}


def pane_values(worker: Worker, work: Any, owner: str, last: dict[str, Any] | None = None) -> Iterator[Any]:
    """Run `work` on the device worker; `last` is the value after it ended well, if what it yields does not say so.

    Yields what it yields; waiting, progress and failures as values of a pane. A cancelled or superseded job ends
    silently; one whose reader leaves is cancelled. Progress leaves the pane's error alone: it may be a newer job's.
    """
    job = worker.submit(work, owner)
    try:
        for event in worker.events(job):
            if isinstance(event, Waiting):
                waiting = Progress(f"Waiting, {event.ahead} ahead", 0, 0, None)
                yield {"progress": progress(waiting)}
            elif isinstance(event, Progress):
                yield {"progress": progress(event)}
            else:
                yield event
        if last is not None:
            yield last
    except Cancelled:
        yield {"progress": None}
    except (EngineError, RuntimeError) as error:
        yield {"progress": None, "error": sentence(error)}
    finally:
        job.cancel.set()
