"""What every bench promises (`ratio`, `peer`, `n`), and that `apply` and `uniform` measure what they say."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
from pathlib import Path

import pytest

from engine.bench import apply as bench_apply
from engine.cli.bench import BENCHES
from engine.cli.main import main
from engine.core.recipe import Recipe, sizes, uniform
from engine.live import apply as live_apply
from engine.models.structure import read_structure
from engine.models.tiny import TINY

# Tables whose rows are compared by quality, each with its own: there is no one ratio to name.
TABLES = {"dmq", "mpq", "composition", "lengths", "acceptance", "families", "exports"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("models") / "tiny"
    TINY["dit"]().save_pretrained(path)
    return str(path)


@pytest.mark.parametrize("name", sorted(BENCHES))
def test_every_bench_names_its_peer_and_on_how_much_it_ran(name: str) -> None:
    module = importlib.import_module(BENCHES[name][0])
    constants = {node.value for node in ast.walk(ast.parse(inspect.getsource(module)))
                 if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert module.run.__doc__ and {"peer", "n"} <= constants
    assert name in TABLES or "ratio" in constants


def test_an_edit_is_taken_against_full_precision(model: str, capsys: pytest.CaptureFixture[str],
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    structure, drawn_under = read_structure(model), []

    def pictures(live: live_apply.Model, request: object) -> list[object]:
        drawn_under.append(live.recipe)
        return []

    monkeypatch.setattr("engine.live.generate.pictures", pictures)
    assert main(["bench", "apply", "--model", model, "--rounds", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    widths = [sorted({recipe.option(layer.name).bits for layer in structure.choices}) for recipe in drawn_under]
    assert widths == [[16], [3, 4], [3]] * 3  # full precision, one block, all layers; one round warms up
    assert sum(drawn_under[1].option(c.name).bits == 3 for c in structure.choices) == told["block_choices"]
    assert (told["n"], told["all_choices"]) == (2, len(structure.choices)) and "full-precision" in told["peer"]
    for kind in ("block", "all"):
        assert 0 < told[f"switch_{kind}_p50_s"] <= told[f"switch_{kind}_p95_s"]
        assert told[f"extra_{kind}_p50_s"] <= told[f"extra_{kind}_p95_s"]


def test_extra_is_the_edit_less_the_full_precision_picture(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that only drawing and moving turn: a picture takes 10, one in full precision 8, moving 1 or 2."""
    now = [0.0]
    real = live_apply.apply_all

    def pictures(live: live_apply.Model, request: object) -> list[object]:
        now[0] += 10 if live.recipe.options else 8
        return []

    def apply_all(live: live_apply.Model, recipe: Recipe) -> int:
        moved = real(live, recipe)
        now[0] += 2 if moved == len(live.structure.choices) else 1
        return moved

    monkeypatch.setattr("engine.live.generate.pictures", pictures)
    monkeypatch.setattr(live_apply, "apply_all", apply_all)
    monkeypatch.setattr(bench_apply.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(bench_apply.time, "process_time", lambda: 2 * now[0])
    told = bench_apply.run(model, rounds=3)
    assert told["plain_full_precision_s"] == 8 and told["ratio"] == 8 / 12
    assert (told["switch_block_p50_s"], told["switch_all_p95_s"]) == (1, 2)
    assert (told["extra_block_p50_s"], told["extra_block_p95_s"]) == (3, 3)
    assert (told["extra_all_p50_s"], told["extra_all_p95_s"], told["extra_all_processor_p50_s"]) == (4, 4, 8)


def test_uniform_names_the_bytes_it_saves(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.bench import uniform as bench_uniform

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench_uniform, "BITS", (4,))
    told = bench_uniform.run(model, rounds=2)
    structure = read_structure(model)
    figures = sizes(structure, uniform(structure, "uaq-4"))
    assert told["ratio"] == figures["full_bytes"] / figures["bytes"] > 1
    assert (told["n"], told["ratio_of"]) == (2, "stored bytes, to uaq-4") and "full precision" in told["peer"]
    assert Path(told["picture"]).is_file()
