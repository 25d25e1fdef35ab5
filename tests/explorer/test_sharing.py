"""What viewers share: places, threads, models and kept answers; nobody waits for another's, and nothing grows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from engine.core.errors import Cancelled, InputError, ModelError
from engine.core.files import typed_path
from engine.core.option import parse_option
from explorer import page as page_module
from explorer.context import Context
from explorer.deciding import Deciding
from explorer.gridding import Gridding
from explorer.handlers import Handlers
from explorer.kept import Kept
from explorer.server import Binding
from explorer.state import ViewState, edited, pinned
from explorer.wiring import AWAY, Wiring
from explorer.worker import Worker

LOCAL = Binding("127.0.0.1", 7860, (), "", False)
REQUEST: Any = SimpleNamespace(session_hash="s")


@pytest.fixture(scope="module")
def blocks() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page_module, "build_app", lambda page, bound, **_: page)
        return page_module.build("emoji-unet", LOCAL)


@pytest.fixture
def wiring(blocks: Any) -> Wiring:
    return next(f.fn.__self__ for f in blocks.fns.values() if getattr(f.fn, "__name__", "") == "present")


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    heard: list[str] = []
    monkeypatch.setattr(gr, "Warning", heard.append)
    return heard


def view(wiring: Wiring) -> ViewState:
    return wiring.handlers.opened("emoji-unet", {})[0]


def narrower(state: ViewState) -> ViewState:
    """Another recipe: the first layer at 2 bits."""
    name = next(iter(state.options))
    return edited(state, {**state.options, name: parse_option("uaq-2")})


def test_more_than_forty_pages_can_be_open(blocks: Any) -> None:
    assert blocks._queue.max_thread_count >= 500 and blocks.max_threads >= 500
    assert blocks.state_session_capacity <= 1000


def test_whoever_waits_is_let_go_when_cancelled() -> None:
    worker, release, begun = Worker(), threading.Event(), threading.Event()

    def long(_cancel: threading.Event) -> Iterator[None]:
        begun.set()
        release.wait(60)
        yield None

    worker.submit(long, "other")
    assert begun.wait(30)
    first = worker.submit(lambda cancel: iter(()), "me")
    left = threading.Event()

    def reading() -> None:
        with pytest.raises(Cancelled):
            list(worker.events(first))
        left.set()

    threading.Thread(target=reading, daemon=True).start()
    assert worker.busy("me") and not left.is_set()
    worker.submit(lambda cancel: iter(()), "me")  # supersedes it
    assert left.wait(30), "its reader still holds a thread"
    worker.cancel("me")
    assert not worker.busy("me") and worker.busy("other")
    release.set()


def test_a_model_that_is_being_opened_keeps_nobody_from_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    context = Context(LOCAL)
    known, begun, release = context.model("emoji-unet"), threading.Event(), threading.Event()

    def slow(name: str) -> Any:
        begun.set()
        assert release.wait(60)
        return known

    monkeypatch.setattr(context, "_open", slow)
    opened: list[Any] = []
    threads = [threading.Thread(target=lambda: opened.append(context.model("other")), daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert begun.wait(30) and context.model("emoji-unet") is known
    release.set()
    for thread in threads:
        thread.join(30)
    assert opened == [known, known]


def test_names_of_no_model_leave_nothing_behind() -> None:
    context = Context(LOCAL)
    for name in ("no/such", "x" * 300, "~nobody-of-this-name/m", "/none/\0x"):
        with pytest.raises(ModelError):
            context.model(name)
    assert not context._turns


@pytest.mark.parametrize("text", ["x" * 300, "~nobody-of-this-name/m", "a\0b"])
def test_what_cannot_be_a_path_is_one_sentence(text: str) -> None:
    with pytest.raises(InputError, match=r"cannot be a path on this machine \(.+\)\.$"):
        typed_path(text, InputError)


def test_a_page_whose_state_is_gone_says_so(wiring: Wiring, said: list[str]) -> None:
    def answers() -> Iterator[Any]:
        yield wiring.editing(None)(None, None, {})
        yield wiring.selecting(None, {})
        yield wiring.formed(None)
        yield wiring.saved(None)
        yield from wiring.restoring(None, {}, "full", REQUEST)
        yield from wiring.grids.making(None, "", [], REQUEST)

    assert all(state is not None for answer in answers() for state in answer.values()), "None would end the page"
    assert said == [AWAY] * 6


def test_pictures_that_never_came_are_made_when_asked_for_again(wiring: Wiring, monkeypatch: pytest.MonkeyPatch
                                                                ) -> None:
    state, asked = view(wiring), []

    def compared(*_: Any) -> Iterator[dict[str, Any]]:
        asked.append(1)
        yield {"progress": None} if len(asked) == 1 else {"a": {}, "b": {}}

    monkeypatch.setattr(wiring.handlers, "compared", compared)
    for expected in (1, 2, 2):  # cancelled, made, there already
        list(wiring.picturing()(state, "full", REQUEST))
        assert len(asked) == expected
    wiring.shown.clear()


def test_a_cell_opens_what_the_grid_was_made_of(wiring: Wiring, monkeypatch: pytest.MonkeyPatch) -> None:
    made, shown = pinned(narrower(view(wiring)), "A"), []
    monkeypatch.setattr(wiring.handlers, "grid", lambda *_: iter([{}]))
    monkeypatch.setattr(wiring.handlers, "compared", lambda state, *_: iter([shown.append(state) or {}]))
    grids = Gridding(wiring)
    list(grids.making(made, "an apple\na pear", ["A"], REQUEST))
    list(grids.opening({"open": {"row": 1, "column": 1}}, REQUEST))
    assert shown[0].options == made.pins["A"] and shown[0].settings.prompt == "a pear"
    grids.left(REQUEST)
    list(grids.opening({"open": {"row": 0, "column": 0}}, REQUEST))
    assert len(shown) == 1


def test_a_chart_is_of_the_scores_and_the_question_of_now(wiring: Wiring, monkeypatch: pytest.MonkeyPatch) -> None:
    deciding, state = Deciding(wiring), view(wiring)
    monkeypatch.setattr("explorer.deciding.baselines", lambda *_: [])
    before = deciding._key(deciding.decider("emoji-unet"), "p", "a", {})
    assert len(list(deciding.drawing(state, {}, REQUEST))) == 2  # at once, then with the baselines
    assert len(list(deciding.drawing(state, {}, REQUEST))) == 1  # as it is kept
    backend = wiring.handlers.context.model("emoji-unet").backend
    monkeypatch.setattr(backend, "scores", dict(backend.scores))
    assert deciding._key(deciding.decider("emoji-unet"), "p", "a", {}) != before
    late = deciding.drawing(state, {}, REQUEST)
    next(late)
    list(deciding.drawing(replace(state, protected=(wiring.handlers.context.model("emoji-unet")
                                                    .structure.blocks[0].id,)), {}, REQUEST))
    assert not list(late), "it painted over the answer to a later question"


def test_kept_is_bounded_and_forgets_what_was_not_asked_for() -> None:
    kept: Kept[int, str] = Kept(2)
    assert kept.put(1, "a") == "a" and kept.put(2, "b") == "b"
    assert kept.get(1) == "a"
    kept.put(3, "c")
    assert kept.get(2) is None and kept.get(1) == "a" and len(kept) == 2


def test_many_lines_of_a_foreign_file_are_few_words(wiring: Wiring, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    monkeypatch.setattr(gr, "Info", heard.append)
    state = view(wiring)
    recipe = SimpleNamespace(options=state.options, activations={}, weights={})
    monkeypatch.setattr("explorer.handlers.read_any", lambda *_, **__: (recipe, [f"line {i}" for i in range(500)]))
    monkeypatch.setattr("explorer.handlers.of_recipe", lambda *_: state.options)
    Handlers(wiring.handlers.context, "emoji-unet").file_loaded(state, "x.json", session="s")
    assert len(heard) == 5 and heard[-1].startswith("And 496 more")
