"""Weight error by hand: per layer, per block, and for tied copies."""

from __future__ import annotations

import pytest

from engine.core.errors import Cancelled
from engine.core.option import Option
from engine.core.record import Scores
from engine.core.sizes import sensible_options
from engine.live.model import Model
from engine.providers.progress import Progress
from engine.providers.weight_error import weight_error
from engine.quant.table import quantize
from tests.engine.providers.conftest import FRAGILE

OPTIONS = (Option("uaq", 3), Option("uaq", 4))


def final(events: list) -> Scores:
    assert all(isinstance(e, Progress) for e in events[:-1])
    assert isinstance(events[-1], Scores)
    return events[-1]


def test_layers_and_blocks_are_ratios_of_sums(fragile: Model) -> None:
    scores = final(list(weight_error(fragile, OPTIONS, command="here")))
    assert scores.provider == "weight-error" and scores.model == fragile.structure.identity
    assert set(scores.layers) == {x.name for x in fragile.structure.choices}
    block = max(fragile.structure.level("block"), key=lambda b: len(b.layers))
    sse = energy = 0.0
    for name in block.layers:
        layer = fragile.structure.layer(name)
        weight = fragile.originals.tensor(layer).double()
        copy = quantize(weight, OPTIONS[0], fragile.structure.precision_bits).dequantize().double()
        own = float((weight - copy).square().sum())
        assert scores.layers[layer.choice]["uaq-3"] == pytest.approx(own / float(weight.square().sum()), rel=1e-5)
        sse, energy = sse + own, energy + float(weight.square().sum())
    assert scores.blocks[block.id]["uaq-3"] == pytest.approx(sse / energy, rel=1e-5)


def test_more_bits_are_better_but_where_outliers_wipe_out_the_rest(fragile: Model) -> None:
    """Relative error cannot see the planted cause: the outliers that survive hold nearly all the energy."""
    scores = final(list(weight_error(fragile, OPTIONS)))
    assert all(row["uaq-4"] < row["uaq-3"] for name, row in scores.layers.items() if name != FRAGILE)
    assert scores.layers[FRAGILE]["uaq-3"] == min(row["uaq-3"] for row in scores.layers.values())


def test_the_second_time_nothing_is_quantized(fragile: Model) -> None:
    first = final(list(weight_error(fragile, OPTIONS)))
    events = list(weight_error(fragile, OPTIONS))
    assert len(events) == 1 and events[0] == first


def test_by_default_every_sensible_option_is_scored(fragile: Model) -> None:
    scores = final(list(weight_error(fragile)))
    layer = fragile.structure.layer(FRAGILE)
    wanted = {str(o) for o in sensible_options(layer, fragile.structure.precision_bits)}
    assert set(scores.layers[FRAGILE]) == wanted and scores.layers[FRAGILE]["fp16"] == 0


def test_cancel(fragile: Model) -> None:
    class Now:
        def is_set(self) -> bool:
            return True

    with pytest.raises(Cancelled):
        list(weight_error(fragile, OPTIONS, cancel=Now()))
