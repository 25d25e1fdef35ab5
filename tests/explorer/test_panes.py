"""What a pane hears of a job: how far it is, then one ending, and nothing after a failure that could take it back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from engine.core.errors import InputError
from explorer.backend import Progress
from explorer.panes import pane_values
from explorer.worker import Worker

LAST = {"progress": None}


def heard(failure: Exception | None) -> list[Any]:
    def work(cancel: Any) -> Iterator[Any]:
        yield Progress("Measuring", 1, 2, 5.0)
        if failure:
            raise failure
        yield "record"

    return [e for e in pane_values(Worker(), work, "ann", LAST) if not (isinstance(e, dict) and e["progress"]
                                                                       and e["progress"]["text"].startswith("Waiting"))]


def test_progress_records_and_the_end() -> None:
    progress, record, last = heard(None)
    # It says nothing of errors, so takes none back.
    assert progress == {"progress": {"text": "Measuring", "step": 1, "of": 2, "left": "5 s left"}}
    assert (record, last) == ("record", LAST)


@pytest.mark.parametrize("failure", [InputError("Not so."), ValueError("x")])
def test_a_failure_is_the_last_word(failure: Exception) -> None:
    *_, last = heard(failure)
    assert last["progress"] is None and last["error"]
