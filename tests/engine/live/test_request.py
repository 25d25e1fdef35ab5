"""Requests: defaults, columns, every range, and that reading them needs no torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from engine.core.errors import InputError
from engine.live.request import Limits, Request, checked, crossed

TEXT = Limits("text", steps=20, guidance=3.0, height=64, width=64, schedulers=("A", "B"))
CLASS = Limits("class", steps=20, guidance=3.0, height=64, width=64, labels=10, free_size=False)


def test_defaults_and_columns_are_filled_in() -> None:
    done = checked(Request(prompts=("a", "b"), seeds=(7,)), TEXT)
    assert (done.prompts, done.seeds, done.labels) == (("a", "b"), (7, 7), ())
    assert (done.steps, done.guidance, done.height, done.width) == (20, 3.0, 64, 64)
    assert checked(done, TEXT) == done
    assert checked(Request(labels=(3,), seeds=(1, 2)), CLASS).labels == (3, 3)
    assert checked(Request(seeds=(1, 2)), CLASS).labels == (0, 0)


def test_every_prompt_with_every_seed() -> None:
    assert crossed(["a", "b"], [1, 2]) == (("a", "a", "b", "b"), (1, 2, 1, 2))


@pytest.mark.parametrize("prompt", ["", "🦊 in the snow", "ثعلب في الثلج", "a" * 5000, "two\nlines"])
def test_any_reasonable_text_is_a_prompt(prompt: str) -> None:
    assert checked(Request(prompts=(prompt,)), TEXT).prompts == (prompt,)


@pytest.mark.parametrize(("change", "words"), [
    ({"prompts": ("a" * 10_000,)}, "10,000 characters"),
    ({"prompts": ("\ud800",)}, "half a character"),
    ({"prompts": (3,)}, "must be text, got int"),
    ({"negative": "n" * 5001}, "negative prompt has 5,001"),
    ({"seeds": (-1,)}, "seed must be a whole number from 0 to 4294967295, got -1"),
    ({"seeds": (2**32,)}, "seed must be"),
    ({"seeds": (True,)}, "seed must be"),
    ({"seeds": (1.0,)}, "seed must be"),
    ({"steps": 0}, "steps must be a whole number from 1 to 1000, got 0"),
    ({"steps": 1001}, "steps must be"),
    ({"guidance": float("nan")}, "Guidance must be a number from 0 to 50, got nan"),
    ({"guidance": float("inf")}, "Guidance must be"),
    ({"guidance": -0.1}, "Guidance must be"),
    ({"guidance": "3"}, "Guidance must be"),
    ({"height": 60}, "height must be a multiple of 8"),
    ({"width": 8192}, "width must be a multiple of 8"),
    ({"scheduler": "C"}, "no scheduler called 'C'; choose one of: A, B"),
    ({"prompts": ("a", "b", "c"), "seeds": (1, 2)}, "2 seeds came for 3 images"),
    ({"seeds": tuple(range(4097))}, "4097 images"),
])
def test_what_is_out_of_range_is_refused_in_one_sentence(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        checked(Request(**change), TEXT)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


def test_class_models_refuse_unknown_labels_and_other_sizes() -> None:
    with pytest.raises(InputError, match="class label must be a whole number from 0 to 9, got 10"):
        checked(Request(labels=(10,)), CLASS)
    with pytest.raises(InputError, match="64 x 64 pixels only"):
        checked(Request(height=128), CLASS)
    assert checked(Request(height=64), CLASS).height == 64


def test_steps_stay_within_the_scheduler() -> None:
    short = Limits("text", steps=4, guidance=0.0, height=64, width=64, max_steps=50)
    with pytest.raises(InputError, match="from 1 to 50, got 60"):
        checked(Request(steps=60), short)


def test_reading_a_request_imports_no_torch() -> None:
    code = "import sys, engine.live.request; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
