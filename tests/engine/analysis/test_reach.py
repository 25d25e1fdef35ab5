"""What trials reached by size: the frontier against brute force, and what it says of forecasts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine.advisor import Advisor
from engine.analysis.features import stored_bits_of
from engine.analysis.fitting import _near_tests, _splits
from engine.analysis.predictor import Kind, Predictor
from engine.analysis.reach import SLACK_BITS, Reach, best_at, frontier
from engine.core.errors import StudyError
from engine.core.recipe import Recipe, model_ref


def test_a_frontier_knows_the_best_of_every_size() -> None:
    rng = np.random.default_rng(0)
    bits, quality = rng.uniform(2, 8, 200).round(1), rng.normal(20, 3, 200)
    found = frontier(bits, quality)
    assert (np.diff(found, axis=0) > 0).all()
    for size in np.linspace(1, 9, 50):
        fits = quality[bits <= size + SLACK_BITS]
        assert best_at(found, np.array([size]))[0] == (fits.max() if len(fits) else -np.inf)


def test_what_no_trial_of_that_size_came_near_is_extrapolated() -> None:
    reach = Reach(frontier(np.array([3.0, 4.0]), np.array([20.0, 25.0])), np.array([[3.0, 26.0], [4.0, 29.0]]),
                  {"damage": 2.0})
    bits = np.array([3.0, 3.0, 3.0, 2.0])
    quality = np.array([19.0, 26.5, 29.0, 10.0])
    assert reach.beyond(1.0, bits, quality).tolist() == [False, False, True, True]
    assert reach.noise("damage", 1.0, bits, quality).tolist() == [1.0, 2.0, 2.0, 2.0]
    assert reach.noise("gnn", 1.0, bits, quality).tolist() == [1.0] * 4


@pytest.mark.parametrize("count", [0, 3, 12])
def test_every_trial_near_the_best_is_held_out_once_or_never(count: int) -> None:
    near = list(range(0, 4 * count, 4))
    splits, beside = _splits(60, near), _near_tests(near)
    asked = np.sort(np.concatenate(beside)).tolist()
    assert asked == (near if count >= 5 else [])
    for (train, test), own in zip(splits, beside, strict=True):
        assert not set(test) & set(near) and not set(train) & {*test, *own}
        assert len(train) + len(test) + len(own) == 60


def test_forecasts_tell_what_lies_beyond_the_trials(predictor: Predictor) -> None:
    space, graph = predictor.subject.space, predictor.subject.graph
    picks = predictor.picks([dict.fromkeys(graph.choices, space.options[0])])
    bits, mean = stored_bits_of(space, picks)[0], predictor.predict(picks, Kind.DAMAGE).mean[0]
    recipe = Recipe(model_ref(predictor.subject.structure), dict.fromkeys(graph.choices, space.options[0]))
    for best, far in ((mean, False), (mean - 100, True)):
        reach = Reach(np.array([[bits, best]]), np.array([[bits, best]]))
        found = Advisor(replace(predictor, reach=reach)).forecast([recipe], Kind.DAMAGE)[0]
        assert found.beyond == far


def test_an_option_that_a_layer_was_never_offered_is_no_forecast(predictor: Predictor) -> None:
    space, graph = predictor.subject.space, predictor.subject.graph
    offered = space.offered.copy()
    offered[2, 0] = False
    member = predictor.members[Kind.DAMAGE][0]
    damage = member.model.damage.copy()
    damage[2, 0] = np.nan
    lame = replace(predictor, members={**predictor.members, str(Kind.DAMAGE): (
        replace(member, model=replace(member.model, damage=damage)),)},
        subject=replace(predictor.subject, space=replace(space, offered=offered)))
    recipe = Recipe(model_ref(predictor.subject.structure), dict.fromkeys(graph.choices, space.options[0]))
    with pytest.raises(StudyError, match=f"knows nothing of {graph.choices[2]} at {space.options[0]}"):
        Advisor(lame).forecast([recipe], Kind.DAMAGE)
