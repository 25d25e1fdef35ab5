"""Without a browser the test run says so in one line, and counts nothing else in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TESTS = """
import pytest

@pytest.mark.browser
@pytest.mark.parametrize("n", [1, 2])
def test_in_a_browser(n): pass

@pytest.mark.skip(reason="for another reason")
def test_skipped(): pass

def test_failing(): assert False

@pytest.fixture
def broken(): raise ValueError

def test_without_its_fixture(broken): pass
"""


@pytest.mark.parametrize("processes", ["0", "1"])
def test_what_is_left_out_is_one_line_and_failures_are_listed(tmp_path: Path, processes: str) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "nothing").mkdir()
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path),
               "-p", "tests.conftest", "-p", "no:cacheprovider", "-n", processes, str(tmp_path / "test_some.py")]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("QUANTSCAPE_NO_SKIPS", "PYTEST_"))}
    env |= {"PATH": str(tmp_path / "nothing"), "PYTHONPATH": str(ROOT)}
    out = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    said = [line for line in out.splitlines() if "skip" in line.lower()]
    assert said[0] == "Skipped 2 browser tests: install chromium to run them.", out
    assert len(said) == 2 and "3 skipped" in said[1], out  # and the count of everything
    assert [line.split("::")[-1].split(" ")[0] for line in out.splitlines() if line.startswith(("FAILED", "ERROR "))] \
        == ["test_failing", "test_without_its_fixture"]
