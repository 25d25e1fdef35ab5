"""Learned scaling on layers made by hand: it helps where there are outliers, and leaves the rest alone."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch

from engine.calibrate.les import LesPlan, scaling_of
from engine.calibrate.problem import convolution_of, unsuited
from engine.calibrate.weighting import TimestepWeights, bins_of
from engine.core.errors import Cancelled, InputError
from engine.core.option import FP16, Option
from engine.quant.scaling import LIMIT
from tests.engine.calibrate.toys import problem

SHORT = LesPlan(iterations=150, checks=15, patience=0.3)


def outliers(channels: int = 16) -> torch.Tensor:
    scales = torch.ones(channels)
    scales[3], scales[9] = 30.0, 12.0
    return scales


@pytest.mark.parametrize(("kind", "how"), [("linear", {}), ("conv2d", {"padding": 1, "stride": 2})])
@pytest.mark.parametrize("weighting", ["adaptive", "uniform"])
def test_an_outlier_channel_is_divided_down(kind: str, how: dict[str, int], weighting: str) -> None:
    found = scaling_of(problem(outliers(), kind=kind, bits=4, **how), replace(SHORT, weighting=weighting))
    assert found.accepted and found.after < 0.8 * found.before
    assert found.tau is not None and (found.tau > 0).all() and found.tau.max() <= LIMIT
    assert found.tau.argmax() in (3, 9)


def test_a_flat_layer_stays() -> None:
    """Sixteen channels of one range at 8 bits: a common factor may suit the stored step, but no channel stands out."""
    toy = problem(torch.ones(16), bits=8, weight_bits=8)
    toy.inputs.clamp_(-1.5, 1.5)
    toy.weight.clamp_(-0.2, 0.2)
    found = scaling_of(toy, SHORT)
    if found.tau is not None:
        logs = found.tau.log()
        assert (logs - logs.mean()).abs().max() < 0.15


def test_dead_channels_are_no_trouble() -> None:
    scales = outliers()
    scales[5] = 0
    toy = problem(scales, bits=4)
    toy.weight[:, 6] = 0
    for plan in (SHORT, replace(SHORT, method="smooth")):
        found = scaling_of(toy, plan)
        assert found.accepted and found.tau is not None and torch.isfinite(found.tau).all()
    silent = problem(torch.zeros(4))
    assert scaling_of(silent, SHORT).reason == "nothing is lost without it"


def test_what_does_not_help_those_that_judge_is_refused() -> None:
    """Weights alone are scaled. What teaches, and what says when to stop, is all in one channel: it is given the grid.
    What judges lies in the other channels. Where all held-out inputs are like those that teach, the layer is scaled.
    """
    toy = problem(torch.ones(8), bits=0, weight_bits=3)
    number = torch.arange(len(toy.inputs))
    judge = toy.held & (number % 8 == 0)
    toy.inputs[:, :, :7] *= 0.01
    alike = scaling_of(replace(toy, judge=judge), SHORT)
    assert alike.accepted and alike.after < 0.5 * alike.before
    toy.inputs[judge] = toy.inputs[judge] * torch.tensor([100.0] * 7 + [0.0])
    found = scaling_of(replace(toy, judge=judge), SHORT)
    assert min(e for _, e in found.curve) < 0.5 * found.curve[0][1], "learning saw a gain"
    assert not found.accepted and found.tau is None and found.after > found.before
    assert found.reason == "the held-out error did not fall"


def test_one_half_stops_the_other_judges() -> None:
    toy = problem(torch.ones(8))
    number = torch.arange(len(toy.inputs))
    split = replace(toy, judge=toy.held & (number % 8 == 0))
    assert not (split.judging & split.stopping).any() and torch.equal(split.judging | split.stopping, toy.held)
    assert torch.equal(toy.judging, toy.held) and torch.equal(toy.stopping, toy.held)


def test_learning_repeats_and_stops_early() -> None:
    toy = problem(outliers(), bits=4)
    first, second = scaling_of(toy, SHORT), scaling_of(toy, SHORT)
    assert first.curve == second.curve and torch.equal(first.tau, second.tau)  # type: ignore[arg-type]
    long = scaling_of(problem(torch.ones(8), bits=8, weight_bits=8), LesPlan(iterations=400, patience=0.05))
    assert long.stopped and long.iterations < 400


def test_online_activations_scale_the_weights_alone() -> None:
    toy = problem(outliers(), scheme="token", bits=8, weight_bits=3)
    toy.weight[:, 2] *= 30
    toy.inputs[..., 2] *= 0.03
    found = scaling_of(toy, SHORT)
    assert found.accepted and found.after < 0.8 * found.before
    assert found.tau is not None and found.tau[2] < found.tau.median()


def test_cancelling() -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Cancelled):
        scaling_of(problem(outliers()), SHORT, stop)


def test_bad_plans_and_inputs() -> None:
    with pytest.raises(InputError, match="iterations"):
        LesPlan(iterations=0)
    with pytest.raises(InputError, match="weighted"):
        LesPlan(weighting="clever")
    with pytest.raises(InputError, match="some to learn from"):
        replace(problem(torch.ones(4)), held=torch.zeros(96, dtype=torch.bool))


def test_layers_without_a_place_for_a_scaling() -> None:
    u4 = Option("uaq", 4)
    assert unsuited(torch.nn.Linear(4, 4), u4) == ""
    assert "untouched" in unsuited(torch.nn.Linear(4, 4), FP16)
    assert "grouped" in unsuited(torch.nn.Conv2d(4, 4, 3, groups=2), u4)
    assert "padding" in unsuited(torch.nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), u4)
    assert convolution_of(torch.nn.Linear(2, 2)) == {}
    assert convolution_of(torch.nn.Conv2d(2, 2, 3, stride=2))["stride"] == (2, 2)


def test_timesteps_fall_into_bins() -> None:
    assert bins_of([951, 901, 501, 51, 1, 999, 0, 1000]).tolist() == [0, 1, 9, 18, 19, 0, 19, 0]
    assert bins_of([0.951, 0.501, 0.001, 1.0, 0.0]).tolist() == [0, 9, 19, 0, 19], "shares of the schedule"
    assert bins_of([0.0, 0.5, 0.99], rising=True).tolist() == [0, 9, 19], "counted towards the picture"


@pytest.mark.parametrize("span", [1.0, 50.0], ids=["shares of the schedule", "one bin"])
def test_adaptive_weighting_learns_whatever_the_timesteps_count(span: float) -> None:
    toy = problem(outliers(), bits=4)
    found = scaling_of(replace(toy, timesteps=toy.timesteps / 1000 * span), SHORT)
    assert found.accepted and found.after < 0.8 * found.before


def test_adaptive_weights_by_hand() -> None:
    weights = TimestepWeights(bins=3, decay=0.5, sharpness=2)
    losses, bins = torch.tensor([1.0, 1.0, 2.0]), torch.tensor([0, 0, 2])
    # Lambda = 0.5 * (2, 0, 2) = (1, 0, 1); shares 1/2, 0, 1/2; weights 1/4, 1, 1/4
    assert weights.weigh(losses, bins).tolist() == [0.25, 0.25, 0.25]
    # Lambda = 0.5 * (1, 0, 1) + 0.5 * (0, 6, 0) = (0.5, 3, 0.5): shares 1/8, 6/8, 1/8
    assert weights.weigh(torch.tensor([6.0]), torch.tensor([1])).tolist() == [0.0625]
    assert weights.seen.tolist() == [0.5, 3, 0.5]


def test_weights_of_equal_and_lopsided_losses() -> None:
    """Twenty equal shares weigh 0.95^20 each; a bin with a fifth of the loss 0.8^20, one with none 1."""
    even = TimestepWeights()
    assert even.weigh(torch.ones(20), torch.arange(20)).tolist() == pytest.approx([0.95**20] * 20)
    lopsided = TimestepWeights()
    values = lopsided.weigh(torch.tensor([1.0] * 4 + [1.0, 0.0]), torch.tensor([0, 1, 2, 3, 4, 5]))
    assert values[0].item() == pytest.approx(0.8**20) and values[5] == 1
    assert TimestepWeights().weigh(torch.zeros(2), torch.tensor([0, 1])).tolist() == [1, 1]
    assert TimestepWeights().weigh(torch.tensor([3.0, 4.0]), torch.tensor([5, 5])).tolist() == [1, 1]


def test_fixed_rules_of_the_ablation() -> None:
    bins, losses = torch.tensor([0, 10, 19]), torch.tensor([5.0, 1.0, 9.0])
    assert TimestepWeights("uniform").weigh(losses, bins).tolist() == [1, 1, 1]
    assert TimestepWeights("linear").weigh(losses, bins).tolist() == pytest.approx([1, 0.5, 0.05])
    assert TimestepWeights("quadratic").weigh(losses, bins).tolist() == pytest.approx([1, 0.25, 0.0025])
    with pytest.raises(InputError, match="weighting"):
        TimestepWeights("steep")
