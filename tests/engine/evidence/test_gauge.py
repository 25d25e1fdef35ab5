"""Recipes on fixed images: the floor keeps the prompts (in `evaluate` too), and a brief look gives the same numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import engine.evidence.gauge as gauge_module
import engine.live.generate as generating
from engine.cli.main import main
from engine.core.errors import StudyError
from engine.core.places import CACHE_VARIABLE
from engine.core.recipe import uniform
from engine.evidence.gauge import FULL, Gauge, Setting
from engine.live.model import Model, open_model
from engine.live.request import Request
from engine.models.tiny import TINY

IMAGES = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tiny text-conditioned pipeline on disk."""
    patch = pytest.MonkeyPatch()
    patch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
    path = tmp_path_factory.mktemp("models") / "tiny"
    TINY["sd1"]().save_pretrained(path)
    yield path
    patch.undo()


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[Model]:
    opened = open_model(str(folder))
    yield opened
    opened.close()


def same_prompts_other_seeds(full: Request, other: Request) -> None:
    assert len(full.prompts) == IMAGES and other.prompts == full.prompts
    assert len(other.seeds) == IMAGES and not set(other.seeds) & set(full.seeds)
    assert (other.steps, other.guidance) == (full.steps, full.guidance)


def test_the_floor_keeps_the_prompts(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Request] = []
    draw = gauge_module.pictures

    def seen(of: Any, request: Request, **words: Any) -> Any:
        asked.append(request)
        return draw(of, request, **words)

    monkeypatch.setattr(gauge_module, "pictures", seen)
    gauge = Gauge(model, None, Setting("final", IMAGES, 1, with_floor=True))
    list(gauge.measure([uniform(model.structure, "uaq-3")]))
    full, other, quantized = asked
    assert quantized == full
    same_prompts_other_seeds(full, other)
    assert gauge.results[FULL].metrics and gauge.steps == 1


def test_a_brief_look_gives_the_same_numbers_and_no_more(model: Model, tmp_path: Path) -> None:
    recipe = uniform(model.structure, "uaq-2")
    whole = Gauge(model, None, Setting("calibration", IMAGES, 1))
    brief = Gauge(model, tmp_path / "brief.jsonl", Setting("calibration", IMAGES, 1, brief=True))
    for gauge in (whole, brief):
        list(gauge.measure([recipe]))
    assert set(brief[recipe].images) == {m.name for m in brief[recipe].metrics} == {"psnr", "image_mse"}
    for name in ("psnr", "image_mse"):
        assert brief[recipe].metric(name) == whole[recipe].metric(name)
        assert brief[recipe].images[name] == whole[recipe].images[name]
    assert {"ssim", "latent_sqnr", "kernel_distance"} <= {m.name.partition("[")[0] for m in whole[recipe].metrics}
    with pytest.raises(StudyError):  # what a brief look kept is not what a whole one needs
        Gauge(model, tmp_path / "brief.jsonl", Setting("calibration", IMAGES, 1))


@pytest.mark.slow
def test_evaluate_keeps_the_prompts(folder: Path, monkeypatch: pytest.MonkeyPatch,
                                    capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[Request] = []
    draw = generating.generate

    def seen(of: Any, request: Request, **words: Any) -> Any:
        asked.append(request)
        return draw(of, request, **words)

    monkeypatch.setattr(generating, "generate", seen)
    assert main(["evaluate", str(folder), "--recipe", "uaq-4", "--images", str(IMAGES), "--steps", "1", "--floor"]) == 0
    assert "floor" in capsys.readouterr().out
    full, other, _ = asked
    same_prompts_other_seeds(full, other)
