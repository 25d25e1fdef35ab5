"""The formula language: what it computes, what it refuses, and telling the bits apart from the quality."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from engine.analysis.formula import MAX_DEPTH, MAX_LENGTH, bits_term, parse_formula
from engine.cli import fit
from engine.core.errors import InputError

COLUMNS = {"fid": np.array([10.0, 20.0, 40.0]), "bits": np.array([3.0, 4.0, 3.5]), "psnr": np.array([30.0, 20.0, 25.0]),
           "frechet[emoji-clip]": np.array([1.0, 2.0, 3.0])}


@pytest.mark.parametrize(("text", "value"), [
    ("-fid - 150*bits", [-460.0, -620.0, -565.0]),
    ("-frechet[emoji-clip] - 2 * bits", [-7.0, -10.0, -10.0]),
    ("-2 ** 2 + 0*bits", [-4.0, -4.0, -4.0]),
    ("2 ** -1 ** 2 * psnr", [15.0, 10.0, 12.5]),
    ("1 - 2 - 3 + psnr * 0", [-4.0, -4.0, -4.0]),
    ("8 / 4 / 2 * bits", [3.0, 4.0, 3.5]),
    ("max(psnr, 24) + min(bits, 3.2)", [33.0, 27.2, 28.2]),
    ("log10(10 ** psnr)", [30.0, 20.0, 25.0]),
    ("(psnr)", [30.0, 20.0, 25.0]),
    ("1.5e1 + .5*bits", [16.5, 17.0, 16.75]),
    ("7", [7.0, 7.0, 7.0]),
])
def test_values(text: str, value: list[float]) -> None:
    assert parse_formula(text).evaluate(COLUMNS) == pytest.approx(value)


@pytest.mark.parametrize(("text", "words"), [
    ("", "lacks a number or a metric before 'its end'"), ("-fid -", "lacks a number"), ("(psnr", r"lacks '\)'"),
    ("psnr psnr", "goes wrong at 'psnr'"), ("2 psnr", "goes wrong"), ("psnr; bits", "unknown sign at '; bits'"),
    ("__import__('os')", "unknown sign|calls '__import__'"), ("open(psnr)", "calls 'open'"), ("psnr.real()", "calls"),
    ("max(psnr)", "gives max 1 arguments"), ("log(psnr, 2)", "gives log 2"), ("psnr[", "unknown sign"),
    ("psnr % 2", "unknown sign"), ("psnr == 2", "unknown sign"), ("(" * (MAX_DEPTH + 2) + "1" + ")" * (MAX_DEPTH + 2),
                                                                  "nested deeper"),
    ("-" * 200 + "1", "nested deeper"), ("1" * (MAX_LENGTH + 1), "characters"), ("lambda: 1", "unknown sign"),
])
def test_refusals(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as refused:
        parse_formula(text)
    assert "\n" not in str(refused.value)


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"names 'FID', which was not measured; there is bits, fid"):
        parse_formula("-FID").evaluate(COLUMNS)


def test_the_bits_term_is_told_apart() -> None:
    term = bits_term(parse_formula("-fid - 150*bits"), COLUMNS)
    assert term is not None
    assert term.at(COLUMNS["bits"]) == pytest.approx([75.0, -75.0, 0.0])
    assert term.at(np.array([2.5])) == pytest.approx([150.0])
    curved = bits_term(parse_formula("psnr - bits**2"), COLUMNS)
    assert curved is not None
    assert curved.at(np.array([0.0])) == pytest.approx([3.5**2])
    assert bits_term(parse_formula("psnr / bits"), COLUMNS) is None
    none = bits_term(parse_formula("psnr"), COLUMNS)
    assert none is not None
    assert none.at(COLUMNS["bits"]) == pytest.approx([0, 0, 0])


def test_no_number_is_an_error_of_the_formula_only_later() -> None:
    """Division by zero and logarithms of negatives give NaN or Inf, which the trial table refuses in one sentence."""
    assert not np.isfinite(parse_formula("log(-psnr) / (bits - bits)").evaluate(COLUMNS)).any()


def test_examples_of_help_and_errors_work_on_a_shipped_study() -> None:
    from engine.core.places import assets_dir
    from engine.study.storage import read_study

    with pytest.raises(InputError) as refused:
        parse_formula("psnr psnr")
    example = str(refused.value).partition("write something like ")[2].rstrip(".")
    helped = re.findall(r"such as\s+'(.+)' \(default: psnr\)", Path(fit.__file__).read_text())
    for path in (assets_dir() / "studies").glob("*.sqlite"):
        with read_study(path) as study:
            for text in (example, *helped):
                assert set(parse_formula(text).names) <= {*study.metric_names(), "bits"}, text
    assert helped
