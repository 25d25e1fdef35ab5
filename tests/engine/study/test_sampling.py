"""Laws of the samplers: the same anywhere, the intended distributions, nothing dominated."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from fake_bench import structure

from engine.core.errors import StudyError
from engine.core.option import Option
from engine.core.sizes import bits_per_weight, sensible_options, stored_bytes
from engine.study.sampling import BLOCK, PRESETS, Uniforms, draw, offered_options, parse_preset

PAPER, WIDE = PRESETS["paper-6"], PRESETS["wide"]


def test_the_same_recipe_on_any_machine() -> None:
    # Written down once; a change here means that shards and old studies no longer fit together.
    text = ";".join(f"{k}={v}" for p in (PAPER, WIDE) for i in range(5)
                    for k, v in draw(structure(), p, 7, i).options.items())
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "8a39e4939537a579"
    assert Uniforms(1).next() == 0.5118216247002567


def test_a_trial_depends_on_seed_preset_and_number_alone() -> None:
    a = draw(structure(), WIDE, 0, 3)
    assert a == draw(structure(), WIDE, 0, 3)
    assert a.options != draw(structure(), WIDE, 1, 3).options
    assert a.options != draw(structure(), WIDE, 0, 4).options


def test_paper_6_spreads_average_bits_evenly() -> None:
    s = structure(60, 4, 256)
    shares, options = [], Counter()
    for i in range(400):
        d = draw(s, PAPER, 0, i)
        shares.append(np.mean([o.bits == 3 for o in d.options.values()]))
        options.update(str(o) for o in d.options.values())
    assert set(options) == {f"{m}-{b}" for m in ("uaq", "kmeans_c", "kmeans_a") for b in (3, 4)}
    assert max(options.values()) / min(options.values()) < 1.1
    # p ~ U(0, 1): the quartiles of the share of 3 bits are those of a uniform distribution, not of a binomial one.
    assert np.abs(np.quantile(shares, [0.25, 0.5, 0.75]) - [0.25, 0.5, 0.75]).max() < 0.07


def test_bounds_of_the_narrow_share() -> None:
    s, bounded = structure(400, 4, 64), parse_preset("paper-6:0.2-0.4")
    shares = [np.mean([o.bits == 3 for o in draw(s, bounded, 0, i).options.values()]) for i in range(40)]
    assert 0.1 < min(shares) and max(shares) < 0.5


def test_wide_mixes_are_dirichlet_of_one_half() -> None:
    s = structure(400, 400, 256)
    shares = []
    for i in range(300):
        bits = Counter(o.bits for o in draw(s, replace(WIDE, block_share=0), 0, i).options.values())
        shares.append([bits[b] / 400 for b in WIDE.bits])
    table = np.array(shares)
    assert np.abs(table.mean(0) - 1 / 6).max() < 0.05
    # Variance of one share under Dirichlet(1/2) over six: m (1 - m) / (6 / 2 + 1).
    assert np.abs(table.var(0) - (1 / 6) * (5 / 6) / 4).max() < 0.012


def test_block_trials_use_one_option_per_block() -> None:
    s = structure(12, 4, 512)
    draws = [draw(s, WIDE, 0, i) for i in range(400)]
    blocks = [d for d in draws if d.granularity == BLOCK]
    assert 0.24 < len(blocks) / len(draws) < 0.36
    for d in blocks:
        for block in range(4):
            assert len({o for name, o in d.options.items() if name.startswith(f"b{block}.")}) == 1
    assert any(len(set(d.options.values())) > 1 for d in blocks)


def test_nothing_dominated_is_drawn() -> None:
    s = structure(12, 4, 8)  # so narrow that many options are larger than the weights
    for preset in (PAPER, WIDE):
        for i in range(60):
            for name, option in draw(s, preset, 0, i).options.items():
                layer = s.layer(name)
                assert option in sensible_options(layer, 16)
                assert stored_bytes(layer, option, 16) < layer.weights * 2


def test_a_layer_without_sensible_options_is_left_alone() -> None:
    s = structure(4, 4, 1)
    assert not any(offered_options(layer, 16, PAPER) for layer in s.layers)
    d = draw(s, PAPER, 0, 0)
    assert not d.options and bits_per_weight(s, d.options) == 16


@pytest.mark.parametrize("text", ["", "narrow", "paper-6:0.8-0.2", "paper-6:0-2", "wide:0-1", "paper-6:a-b"])
def test_bad_presets_are_one_sentence(text: str) -> None:
    with pytest.raises(StudyError):
        parse_preset(text)


def test_presets_offer_their_product() -> None:
    assert len(PAPER.options) == 6 and len(WIDE.options) == 24
    assert Option("fp16", 16) not in WIDE.options
