"""What a public page refuses, each in one sentence: studies, measurements, exports, strange models, many uploads."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.cli.fit import ADDITIVE, KINDS, arguments
from engine.core.errors import EngineError, InputError
from engine.core.places import assets_dir
from engine.core.recipe import recipe_to_json, uniform_bits
from engine.models.structure import read_structure
from explorer import page as page_module
from explorer.analysis import Analysis
from explorer.context import Context
from explorer.handlers import MAX_LOADS, Handlers
from explorer.server import Binding
from explorer.state import ViewState
from explorer.studies import own_file
from explorer.studying import Studying

PUBLIC = Binding("0.0.0.0", 7860, ("*",), "", True)
LOCAL = Binding("127.0.0.1", 7860, (), "", False)
SENTENCE = r"^This is a public page; run Quantscape on your own machine to .*\.$"


class Parts:
    """A panel whose components are their own names."""

    def __getattr__(self, name: str) -> str:
        return name


class Idle:
    """Jobs of which none may be started."""

    current = None

    def standing(self) -> Any:
        return SimpleNamespace(running=False)

    def start(self, *_: Any) -> None:
        raise AssertionError("a job was started")


def handlers(bound: Binding = PUBLIC, first: str = "emoji-unet") -> Handlers:
    return Handlers(Context(bound), first)


def view(held: Handlers) -> ViewState:
    return held.opened("emoji-unet", {})[0]


def studying(held: Handlers) -> Studying:
    return Studying(SimpleNamespace(  # type: ignore[arg-type]
        handlers=held, jobs=Idle(), parts=SimpleNamespace(views=SimpleNamespace(study=Parts()))))


@pytest.fixture
def recipe_file(tmp_path: Path) -> str:
    structure = read_structure("emoji-unet")
    path = tmp_path / "x.recipe.json"
    path.write_text(json.dumps(recipe_to_json(uniform_bits(structure, 3), structure)))
    return str(path)


@pytest.mark.parametrize("run", [
    lambda s, state, file: s.measuring(state, file, "wide", 10, 4, False, False),
    lambda s, state, file: s.fitting(state, file, "psnr", "additive"),
])
def test_studies_and_fits(run: Callable[..., Any]) -> None:
    held = handlers()
    answer = run(studying(held), view(held), str(own_file(read_structure("emoji-unet"))))
    with pytest.raises(InputError, match=SENTENCE):
        raise InputError(answer["bar"]["error"])


@pytest.mark.parametrize(("chosen", "kinds"), [("additive", ADDITIVE), ("all", KINDS)])
def test_a_fit_of_the_page_fits_what_the_command_line_does(chosen: str, kinds: tuple[str, ...]) -> None:
    held, seen = handlers(LOCAL), []
    page = studying(held)
    page.jobs = SimpleNamespace(standing=Idle().standing, current=None, start=lambda *job, then: seen.append(job))
    with pytest.raises(AssertionError):  # nothing was really begun, so there is no job to show
        page.fitting(view(held), str(assets_dir() / "studies" / "emoji-unet.sqlite"), "psnr", chosen)
    parser = argparse.ArgumentParser()
    arguments(parser)
    (_, model, _, words), = seen
    asked = parser.parse_args(words)
    assert (asked.model, asked.formula, tuple(asked.kinds)) == (model, "psnr", kinds)


def test_study_files_it_does_not_offer(tmp_path: Path) -> None:
    held, other = handlers(), str(tmp_path / "other.sqlite")
    assert "public page" in studying(held).viewed(view(held), other, None, "psnr")["about"]
    here = handlers(LOCAL)
    assert "begins with the first trial" in studying(here).viewed(view(here), other, None, "psnr")["about"]
    offered = studying(held).files(view(held))[1]
    assert "trials" in studying(held).viewed(view(held), offered, None, "psnr")["about"]


@pytest.mark.parametrize("provider", ["orthogonality", "outliers", "activation-error", "cumulative"])
def test_measurements(provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    held = handlers()
    monkeypatch.setattr(held.context.worker, "submit", Idle().start)
    (answer,) = Analysis(held.context).compute(view(held), provider, "s")
    with pytest.raises(InputError, match=SENTENCE):
        raise InputError(answer["error"])


def test_exports(tmp_path: Path) -> None:
    held = handlers()
    (answer,) = held.exported(view(held), "packed", str(tmp_path / "out"), "s")
    with pytest.raises(InputError, match=SENTENCE):
        raise InputError(answer)


@pytest.mark.parametrize("name", ["/etc", ".", "stabilityai/sdxl-turbo", "../emoji-unet", ""])
def test_models_it_does_not_offer(name: str) -> None:
    with pytest.raises(InputError, match=SENTENCE):
        handlers().opened(name, {})


def test_the_address_opens_no_other_models_either(tmp_path: Path) -> None:
    request: Any = SimpleNamespace(query_params={"model": str(tmp_path)})
    state, said = handlers().arrive(request)
    assert state.model == "emoji-unet" and "public page" in said


def test_models_it_offers_open_and_so_does_the_one_it_was_started_with(tiny_directory: Path) -> None:
    assert handlers().opened("emoji-dit", {})[0].model == "emoji-dit"
    first = str(tiny_directory)
    assert handlers(first=first).opened(first, {})[0].model == first
    assert handlers(LOCAL).opened(first, {})[0].model == first


def test_many_recipe_files_of_one_viewer(recipe_file: str, tmp_path: Path) -> None:
    held, junk = handlers(), tmp_path / "junk.json"
    junk.write_text("{")
    state = view(held)
    for _ in range(MAX_LOADS - 1):  # refused files count too
        with pytest.raises(EngineError, match="not valid"):
            held.file_loaded(state, str(junk), "a")
    assert held.file_loaded(state, recipe_file, "a").can_undo
    with pytest.raises(InputError, match=SENTENCE):
        held.file_loaded(state, recipe_file, "a")
    assert held.file_loaded(state, recipe_file, "b").can_undo, "every viewer has their own"
    here = handlers(LOCAL)
    here.loads["a"] = MAX_LOADS
    assert here.file_loaded(view(here), recipe_file, "a").can_undo


def test_the_page_counts_them_per_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "build_app", lambda page, bound, **_: page)
    blocks: Any = page_module.build("emoji-unet", PUBLIC)
    (upload,) = [f for f in blocks.fns.values() if f.targets[0][1] == "upload" and f.name == "filing"]
    wiring = upload.fn.__self__
    request: Any = SimpleNamespace(session_hash="me")
    upload.fn(view(wiring.handlers), "/no/such.json", {}, request)
    assert wiring.handlers.loads == {"me": 1}
    wiring.left(request)
    assert not wiring.handlers.loads
