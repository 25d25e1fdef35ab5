"""Decisions: what can be chosen, answers fit and are judged alike, impossible budgets are one sentence."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from engine.advisor import Forecast
from engine.allocate.blocks import block_files, save_blocks
from engine.allocate.problem import JointCosts
from engine.core.errors import InputError
from engine.core.option import Option, parse_option
from engine.core.places import CACHE_VARIABLE
from engine.core.recipe import uniform
from engine.core.record import FEATURES, Scores
from engine.core.sizes import bits_per_weight, full_bytes, recipe_bytes
from engine.models.structure import read_structure
from engine.providers.files import find_scores
from engine.providers.table import damage_table
from explorer.blockpanel import feature_line
from explorer.decide import BLIND, LIVE, OPERATION, Decider, pins_of
from explorer.forecasts import shown
from explorer.gauge import Gauge, extrapolated, gauge_of, page_table
from explorer.insight import by_block_figure, by_role_figure, chosen_figure, left_out, scored_options
from explorer.overlays import overlay_data
from explorer.pareto import allocated, axis_of, baselines, judged, measured, pareto_figure, recipe_of, uniforms
from explorer.studies import Measured, find_studies, measured_of

MODEL = "emoji-unet"


@pytest.fixture(scope="module")
def decider() -> Decider:
    """Of measured scores (Apple's signal made up); what a predictor adds has tests of its own."""
    structure = read_structure(MODEL)
    found = find_scores(structure)
    signal = {name: {o: d for o, d in row.items() if o.startswith("kmeans_a")}
              for name, row in found["weight-error"].layers.items()}
    cumulative = Scores("cumulative", structure.identity, "latent error over squared peak", signal)
    return Decider(structure, {k: v for k, v in found.items() if k.startswith(("measured", "weight-error"))}
                   | {"cumulative": cumulative})


def test_the_shipped_predictor_is_what_decides_first() -> None:
    structure = read_structure(MODEL)
    assert Decider(structure, find_scores(structure)).provider() == "predictor"


def test_the_shipped_scores_are_offered_and_every_allocator_that_has_what_it_needs(decider: Decider) -> None:
    assert decider.provider() == "measured" and decider.provider("no such") == "measured"
    names = [name for _, name in decider.allocators("measured")]
    assert {"knapsack", LIVE, "uniform", "weight-error", "measured-greedy", "threshold", "size-only"} <= set(names)
    blind = Decider(decider.structure, {})
    assert blind.provider() == BLIND
    assert {"uniform", "size-only", LIVE} <= {n for _, n in blind.allocators(BLIND)}
    assert not {"knapsack", "weight-error", "measured-greedy"} & {n for _, n in blind.allocators(BLIND)}
    assert json.loads(blind.plan(BLIND))["gauge"]["title"] == ""


def test_what_is_not_on_offer_says_how_to_get_it(decider: Decider) -> None:
    without = Decider(decider.structure, {k: v for k, v in decider.scores.items() if k != "cumulative"})
    assert "threshold" not in {n for _, n in without.allocators("measured")}
    with pytest.raises(InputError, match="make them with sensitivity emoji-unet --provider cumulative"):
        without.solve("measured", "threshold", without.budget("4 bits"), {})
    assert "`sensitivity emoji-unet --provider cumulative`" in without.missing()
    assert "cumulative" not in decider.missing() and "--provider orthogonality`" in decider.missing()
    # On whatever scores are chosen, the rule goes by its own signal: palettes only.
    found = decider.solve("measured", "threshold", decider.budget("4 bits"), {}).allocation.recipe.options
    assert {o.method for o in found.values() if not o.is_untouched} == {"kmeans_a"}


@pytest.mark.parametrize("allocator", ["lagrangian", "uniform", "threshold", "measured-greedy", "faithful"])
def test_answers_fit_their_budget_and_keep_what_is_protected(decider: Decider, allocator: str) -> None:
    block = decider.structure.level("block")[3]
    options = uniform(decider.structure, "uaq-6").options
    pinned = pins_of(decider.structure, options, (block.id,))
    assert set(pinned) == {x.name for x in decider.structure.choices if x.name in block.layers}
    budget = decider.budget("4.5 bits")
    found = decider.solve("measured", allocator, budget, pinned).allocation.recipe.options
    assert recipe_bytes(decider.structure, found) <= budget
    assert all(found[name] == parse_option("uaq-6") for name in pinned)


def test_damage_is_the_additive_table_and_reads_as_decibels(decider: Decider) -> None:
    recipe = uniform(decider.structure, "uaq-3")
    damage = decider.damage("measured", recipe.options)
    table = damage_table(decider.structure, decider.scores)
    assert damage == pytest.approx(table.predict_mse(recipe))
    assert decider.gauge("measured").quality(damage or 0) == pytest.approx(table.predict_psnr(recipe))
    assert decider.damage("measured", {"conv_in": parse_option("nf4")}) is None
    assert decider.gauge("weight-error").quality(1.0) is None


def test_a_predictors_curve_is_read_back() -> None:
    curve = "target = 27.5 - 3.25 * boxcox(damage, 0.2)"
    scores = Scores("predictor", "m", "summed damage", {"x": {"uaq-3": 1.0}}, about={
        "curve": curve, "formula": "psnr", "extrapolated_options": '{"x": ["uaq-2"]}'})
    gauge = gauge_of(scores)
    assert (gauge.title, gauge.unit, gauge.metric) == ("PSNR", "dB", "psnr")
    for damage in (0.3, 1.0, 4.0):
        assert gauge.quality(damage) == pytest.approx(27.5 - 3.25 * (damage**0.2 - 1) / 0.2, rel=1e-9)
    assert extrapolated(scores) == {"x": ("uaq-2",)}
    straight = Gauge("t", "", 0.0, (1.0, 2.0, 0.0))
    assert straight.quality(2.0) == pytest.approx(1 - 2 * math.log(2.0), abs=1e-6)


def test_options_without_support_are_never_allocated(decider: Decider) -> None:
    name = decider.structure.choices[0].name
    rows = {x.name: {"uaq-3": 1.0, "uaq-4": 0.5} for x in decider.structure.choices}
    scores = Scores("predictor", decider.structure.identity, "d", rows,
                    about={"extrapolated_options": json.dumps({name: ["uaq-3"]})})
    own = Decider(decider.structure, {"predictor": scores})
    smallest = own.problem("predictor", {}).smallest_bytes
    found = own.solve("predictor", LIVE, smallest, {}).allocation.recipe.options
    assert found[name] == Option("uaq", 4)
    assert {str(o) for n, o in found.items() if n != name} == {"uaq-3"}


@pytest.mark.parametrize(("text", "said"), [
    ("0.5 bits", "too small"), ("20", "larger than full precision"), ("400 MB", "larger than full precision"),
    ("nonsense", "is no budget"), ("", "is no budget"), ("-3", "is no budget"), ("fits 1 MB", "too small"),
])
def test_impossible_budgets_are_one_sentence(decider: Decider, text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        decider.solve("measured", LIVE, decider.budget(text), {})


def test_budgets_as_people_write_them(decider: Decider) -> None:
    full = full_bytes(decider.structure)
    assert decider.budget("50%") == full // 2 and decider.budget("8") == full // 2
    assert decider.budget("3,5 bits") == decider.budget("3.5")
    assert decider.budget("fits 8 GB") == full
    rest = decider.budget("3 MB") + sum(c.bytes for c in decider.structure.components) + \
        decider.structure.other_weights * decider.structure.precision_bits // 8
    assert decider.budget(f"fits {rest / 1e6:.6f} MB") == pytest.approx(3e6, abs=2)


def test_every_point_of_the_chart_loads_the_recipe_it_shows(decider: Decider) -> None:
    ours = allocated(decider, "measured", LIVE, {})
    assert [p.bits for p in ours.points] == sorted(p.bits for p in ours.points)
    assert [p.value for p in ours.points] == sorted(p.value for p in ours.points)  # more bytes, never worse
    trials = measured_of(decider.structure)
    dots = measured(decider, "measured", trials)
    series = [ours, *uniforms(decider, "measured"), *([dots] if dots else [])]
    assert {"uaq", "kmeans_a", "trials"} <= {s.name for s in series}
    for points in (s.points for s in series):
        point = points[len(points) // 2]
        options, title = recipe_of(decider, "measured", point.key, {}, trials)
        assert bits_per_weight(decider.structure, options) == pytest.approx(point.bits)
        if not point.key.startswith("t:"):
            assert judged(decider, "measured", options) == pytest.approx(point.value)
        assert title
    for nonsense in ("", "a:knapsack:x", "t:none:1", "q:1:2"):
        with pytest.raises(InputError):
            recipe_of(decider, "measured", nonsense, {}, trials)
    axis, up = axis_of(decider, "measured")
    figure = pareto_figure(ours, series[1:], (4.0, 30.0), axis, up)
    assert up and {"circle-open"} < {t.marker.symbol for t in figure.data}
    assert all(t.customdata is not None for t in figure.data if t.name != "This recipe")


@pytest.mark.slow
def test_baselines_never_beat_the_best_path(decider: Decider) -> None:
    best = {p.key.rpartition(":")[2]: p.value for p in allocated(decider, "measured", LIVE, {}).points}
    found = {s.name: s for s in baselines(decider, "measured", "weight-error", {})
             if s.name in ("threshold", "measured-greedy")}
    assert set(found) == {"threshold", "measured-greedy"}
    for series in found.values():
        assert all(p.value <= best[p.key.rpartition(":")[2]] + 0.05 for p in series.points)


def test_measured_points_need_the_same_quantity(decider: Decider) -> None:
    trial = Measured("s", 1, "paper-6", uniform(decider.structure, "uaq-4").options, 4.1, {"psnr": 26.0})
    assert measured(decider, "measured", [trial]) is None  # that chart is of image errors
    assert measured(decider, "weight-error", [trial]) is None


def test_studies_are_found_by_identity(decider: Decider) -> None:
    assert any(p.name == "emoji-unet.sqlite" for p in find_studies(decider.structure))
    other = read_structure("emoji-dit")
    assert not any(p.name == "emoji-unet.sqlite" for p in find_studies(other))


def test_insight_charts_hold_every_weight_once(decider: Decider) -> None:
    options = {**uniform(decider.structure, "uaq-4").options, "conv_out": parse_option("fp16")}
    figure = chosen_figure(decider.structure, options)
    totals: dict[str, float] = {}
    for bar in figure.data:
        for role, share in zip(bar.y, bar.x, strict=True):
            totals[role] = totals.get(role, 0.0) + share
    assert totals and all(total == pytest.approx(100) for total in totals.values())
    scores = decider.scores["measured"]
    roles, blocks = (f(decider.structure, scores, "uaq-3", "u") for f in (by_role_figure, by_block_figure))
    count = sum(1 for x in decider.structure.choices if scores.layers[x.name].get("uaq-3", 0) > 0)
    assert sum(len(t.y) for t in roles.data) == sum(len(t.y) for t in blocks.data) == count


def test_insight_says_what_it_leaves_out_and_any_option_can_be_drawn(decider: Decider) -> None:
    choices = decider.structure.choices
    rows = {x.name: {"uaq-3": -0.1 if i == 0 else 0.0 if i == 1 else 1.0, **({} if i < 5 else {"uaq-4": 0.5})}
            for i, x in enumerate(choices)}
    scores = Scores("measured", decider.structure.identity, "u", rows)
    assert scored_options(scores) == ["uaq-3", "uaq-4"]
    figure = by_role_figure(decider.structure, scores, "uaq-3", "u")
    assert sum(len(t.y) for t in figure.data) == len(choices) - 2
    said = left_out(decider.structure, scores, "uaq-3")
    assert said.startswith(f"Not drawn: 2 of {len(choices)} layers do no harm") and "no score" not in said
    assert left_out(decider.structure, scores, "uaq-4") == "Not drawn: 5 have no score at this option."
    assert left_out(decider.structure, decider.scores["weight-error"], "uaq-4") == ""


def test_the_block_panel_says_which_features() -> None:
    features = {"uaq-3": {"a": {"error": 3.0, "bits": 0.5}, "b": {"error": 3.0, "bits": -1.5}, "c": {"method": 9.0}}}
    rows = {n: {"uaq-3": 1.0} for n in "abc"}
    plain = Scores("measured", "", "", rows)
    knows = Scores("attribution-saliency", "", "", rows, about={FEATURES: json.dumps(features)})
    scores = {"measured": plain, knows.provider: knows}
    assert feature_line(scores, "measured", ["a", "b", "a"]) == [
        "Which features, by attribution (saliency) at uaq-3: weight error 86 %, bits 14 % (better)."]
    assert feature_line(scores, "measured", ["c"])[0].endswith("method 100 %.")
    assert feature_line(scores, "measured", ["d"]) == feature_line({"measured": plain}, "", ["a"]) == []


def test_overlays_carry_what_no_trial_supports_at_any_option(decider: Decider) -> None:
    first, second = (x.name for x in decider.structure.choices[:2])
    about = {"extrapolated_options": json.dumps({first: ["uaq-3", "uaq-8"], second: []})}
    scores = replace(decider.scores["measured"], about=about)
    made = overlay_data(decider.structure, {"measured": scores}, "measured", "ember")
    assert made["unsupported"] == {first: ["uaq-3", "uaq-8"]} and first not in made["hatched"]


def test_the_page_predicts_by_the_predictor_where_one_was_fitted(decider: Decider) -> None:
    rows = {x.name: {"fp16": 0.0, "uaq-3": 2.0, "uaq-4": 1.0} for x in decider.structure.choices}
    first = decider.structure.choices[0]
    about = {"curve": "target = 20 - 2 * boxcox(damage, 0)", "formula": "psnr",
             "extrapolated_options": json.dumps({first.name: ["uaq-3"]})}
    learned = Scores("predictor", decider.structure.identity, "d", rows, about=about)
    table, gauge = page_table(decider.structure, {**decider.scores, "predictor": learned})
    assert table.values == rows and gauge.learned and table.scaled == {first.name: ("uaq-3",)}
    measured_table, plain = page_table(decider.structure, decider.scores)
    assert measured_table.provider == "measured" and (plain.title, plain.learned) == ("PSNR", False)
    assert page_table(decider.structure, {})[1].title == ""
    overlay = overlay_data(decider.structure, {"predictor": learned}, "predictor", "ember")
    assert overlay["mark"] == "" and overlay["unsupported"] == {first.name: ["uaq-3"]}
    assert len(overlay["hatched"]) < 5


def test_forecasts_say_their_interval_and_what_is_extrapolated() -> None:
    gauge = Gauge("PSNR", "dB", learned=True)
    found = shown(Forecast(26.12, 25.02, 27.22, ("a", "b")), gauge, 1000, 223)
    assert found["text"] == "26.1 ± 1.1 dB" and found["bytes"] == 1000
    assert "223 trials" in found["title"] and "Extrapolated: 2 layers" in found["title"]
    assert found["extrapolated"]
    sure = shown(Forecast(26.12, 25.02, 27.22, ()), gauge, 1000, 223)
    assert "xtrapolated" not in sure["title"] and not sure["extrapolated"]
    far = shown(Forecast(30.5, 29.6, 31.4, (), beyond=True), gauge, 1000, 223)
    assert far["text"] == "≈ 30.5 dB" and far["extrapolated"] and "No trial of this size" in far["title"]


def test_qua2sedimo_goes_by_embeddings_and_by_blocks_where_those_are_here(
        decider: Decider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    structure, shipped = decider.structure, find_scores(decider.structure)
    own = Decider(structure, {**decider.scores, OPERATION: shipped[OPERATION]})
    assert own.source("faithful", "measured") == OPERATION and decider.source("faithful", "measured") == "measured"
    budget = own.budget("3.5 bits")
    found = own.solve("measured", "faithful", budget, {}).allocation
    assert found.recipe.provenance["provider"] == OPERATION
    assert found.recipe.options != decider.solve("measured", "faithful", budget, {}).allocation.recipe.options
    blocks = "faithful-blocks"
    assert blocks not in {n for _, n in own.allocators("measured")}
    assert "`allocate emoji-unet --method faithful-blocks --sweep`" in own.missing()
    with pytest.raises(InputError, match="make them with allocate emoji-unet"):
        own.solve("measured", blocks, budget, {})
    three, four = Option("uaq", 3), Option("uaq", 4)
    joints = tuple(JointCosts((x.name,), ((three,), (four,)), (x.weights / 1e6, 0.0)) for x in structure.choices)
    save_blocks(block_files(structure)[0], joints, shipped[OPERATION])
    assert blocks in {n for _, n in own.allocators("measured")} and blocks not in own.missing()
    answer = own.solve("measured", blocks, budget, {})
    assert set(answer.allocation.recipe.options.values()) == {three, four} and answer.allocation.bytes <= budget
    assert own.gauge("measured").text(answer.damage) == answer.quality
    assert blocks not in {n for _, n in decider.allocators("measured")}, "no networks, no scores of theirs"
