"""Power-of-two factors by votes: constructed elections, dead channels, and the spread they are made for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.core.errors import OptionError
from engine.core.option import Option
from engine.quant.activation import affine, simulate
from engine.quant.integer import weight_codes
from engine.quant.shifts import by_error, by_voting, channel_steps, code_room, sample_errors, shift_room
from engine.quant.table import quantize


def election(votes: list[int], candidates: int = 4) -> Tensor:
    """Errors [D + 1, N, 1] of one channel for which sample i prefers votes[i]."""
    errors = torch.ones(candidates, len(votes), 1)
    for i, e in enumerate(votes):
        errors[e, i, 0] = 0
    return errors


def test_unanimous() -> None:
    found = by_voting(election([2] * 10))
    assert found.shifts.tolist() == [2] and found.agreement.tolist() == [1] and found.samples == 10


@pytest.mark.parametrize(("others", "chosen"), [(16, 0), (15, 3)])
def test_84_percent_fall_back_and_85_do_not(others: int, chosen: int) -> None:
    found = by_voting(election([3] * (100 - others) + [1] * others))
    assert found.shifts.tolist() == [chosen]
    assert found.agreement.item() == pytest.approx((100 - others) / 100)


def test_kappa_is_a_share() -> None:
    assert by_voting(election([1, 2]), 0.5).shifts.tolist() == [1]  # of equally chosen ones the smaller
    assert by_voting(election([1, 2]), 0.51).shifts.tolist() == [0]
    with pytest.raises(OptionError, match="kappa"):
        by_voting(election([1]), 1.5)
    with pytest.raises(OptionError, match="at least one sample"):
        by_voting(torch.zeros(4, 0, 3))


def test_error_prefers_the_loud_sample_and_votes_the_many() -> None:
    """Nine samples prefer 3; one, a hundred times louder, prefers 0."""
    errors = election([3] * 9 + [0])
    errors[3, 9] = 100.0
    assert by_voting(errors).shifts.tolist() == [3]
    assert by_error(errors).shifts.tolist() == [0]


def test_dead_channels_keep_the_coarsest_step() -> None:
    x = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    x[:, 1] = 0
    step, zero = affine(x.min(), x.max(), 6)
    for choose in (by_voting, by_error):
        assert choose(sample_errors(x, 1, step, zero, 6)).shifts[1] == 0


@pytest.mark.parametrize("bits", [8, 6])
@pytest.mark.parametrize("axis", [1, -1])
def test_powers_of_two_spread_is_found_and_helps(bits: int, axis: int) -> None:
    generator = torch.Generator().manual_seed(1)
    planted = torch.arange(4).repeat(16)  # channel c is 2^-planted[c] of the loudest
    x = torch.rand(32, 64, 100, generator=generator).mul(2).sub(1) * torch.exp2(-planted.float())[:, None]
    x = x if axis == 1 else x.movedim(1, -1)
    step, zero = affine(x.min(), x.max(), bits)
    found = by_voting(sample_errors(x, axis, step, zero, bits))
    assert found.shifts.tolist() == planted.tolist()
    shape = [1, 1, 1]
    shape[axis] = 64
    fine = channel_steps(step, found.shifts).view(shape)
    plain = (simulate(x, step, zero, bits) - x).square().mean()
    assert (simulate(x, fine, zero, bits) - x).square().mean() < 0.5 * plain


def test_each_timestep_group_has_its_own_parameters() -> None:
    x = torch.ones(2, 1, 4)
    errors = sample_errors(x, 1, torch.tensor([1.0, 0.3]), torch.tensor([0.0, 0.0]), 4, 0)
    assert errors.shape == (1, 2, 1)
    assert errors[0, :, 0].tolist() == pytest.approx([0, 0.01], abs=1e-6)


def test_shifts_fit_the_operand() -> None:
    for bits in (2, 3, 4, 5, 6, 8):
        room = shift_room(bits)
        assert room == 0 or (2**bits - 1) << room < 2**7
        assert bits < 8 or room == 0
    assert shift_room(4) == 3 and shift_room(8, 16) == 3


@pytest.mark.parametrize(("largest", "room"), [(15, 3), (16, 2), (31, 2), (32, 1), (63, 1), (64, 0), (500, 0)])
def test_the_room_of_weights_at_hand(largest: int, room: int) -> None:
    assert code_room(torch.tensor([[3, -largest], [0, 1]])) == code_room(torch.tensor([largest])) == room
    assert room == 0 or largest << room < 2**7


def test_a_channel_of_one_sign_has_its_zero_point_off_the_grid() -> None:
    weight = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    codes = weight_codes(quantize(weight, Option("uaq", 4)))
    assert code_room(codes) == shift_room(4) == 3
    weight[2] = weight[2].abs() + 5 * weight.abs().max()
    codes = weight_codes(quantize(weight, Option("uaq", 4)))
    assert int(codes.abs().max()) > 15 and code_room(codes) < 3
    assert int((codes << code_room(codes)).abs().max()) < 2**7 or code_room(codes) == 0


def test_steps_per_channel() -> None:
    steps = channel_steps(torch.tensor([1.0, 2.0]), torch.tensor([[0, 1, 3], [2, 0, 0]]), torch.tensor([1.0, 2.0, 4.0]))
    assert steps.tolist() == [[1, 1, 0.5], [0.5, 4, 8]]
