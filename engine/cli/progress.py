"""Progress on stderr, with time left; results stay alone on stdout."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


def shown(items: Iterable[T], total: int | None, title: str, unit: str = "") -> Iterator[T]:
    """Pass items through, drawing a bar with the time left; silent where stderr is no terminal."""
    from tqdm import tqdm

    yield from tqdm(items, total=total, desc=title, unit=unit or "it", file=sys.stderr,
                    disable=not sys.stderr.isatty(), leave=False)


def followed(events: Iterable[Any], title: str) -> Iterator[Any]:
    """Pass events through; those that carry `index` and `of` move the bar and their `doing` stands beside it."""
    from tqdm import tqdm

    with tqdm(desc=title, file=sys.stderr, disable=not sys.stderr.isatty(), leave=False) as bar:
        for event in events:
            if hasattr(event, "index") and hasattr(event, "of"):
                bar.total = event.of
                bar.update(event.index - bar.n)
                if getattr(event, "doing", ""):
                    bar.set_postfix_str(str(event.doing)[-40:], refresh=False)
            yield event


def remark(text: str) -> None:
    """One line on stderr before something that takes seconds and has no bar; silent where stderr is no terminal."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr, flush=True)


def progress_flag(parser: argparse.ArgumentParser) -> None:
    """The option by which a program follows a verb; see `told`."""
    parser.add_argument("--progress", action="store_true",
                        help="for programs: what happens on stderr, one JSON object per line")


def told(wanted: bool, event: str, **fields: Any) -> None:
    """One line of JSON on stderr for a program that follows along; nothing unless it was asked for."""
    if wanted:
        print(json.dumps({"event": event, **fields}, ensure_ascii=False), file=sys.stderr, flush=True)
