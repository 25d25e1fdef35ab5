"""`fit` says before it begins what it could not explain."""

from __future__ import annotations

import pytest

from engine.analysis.attribution import GRADIENTS as METHODS
from engine.analysis.attribution import Method
from engine.cli.fit import GRADIENTS
from engine.cli.main import main


@pytest.mark.parametrize(("words", "error"), [
    (["--attributions", "saliency", "--kinds", "damage"], "follows gradients of a network; fit gnn or guided too"),
    (["--attributions", "ablation", "--no-overlays"], "leave one of them away"),
])
def test_attributions_that_cannot_be_made(words: list[str], error: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "no-such.sqlite", *words]) == 2
    assert error in capsys.readouterr().err


def test_every_method_of_captum_can_be_asked_for() -> None:
    assert {*GRADIENTS, "ablation"} == {str(m) for m in Method} - {Method.SHAPLEY, Method.INTEGRATED_GRADIENTS}
    assert set(GRADIENTS) <= {str(m) for m in METHODS}
