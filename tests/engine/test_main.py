"""`python -m engine` as a process: results alone on standard output, and a reader that leaves early is no error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.cli.main import main

ROOT = Path(__file__).resolve().parents[2]


def test_what_libraries_print_is_not_in_the_result() -> None:
    code = ("import os, runpy, sys; import engine.cli.main as m; "
            "m.main = lambda: (os.write(1, b'solver'), print('result'), 0)[2]; "
            "runpy.run_module('engine', run_name='__main__')")
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (ran.stdout, ran.stderr, ran.returncode) == ("result\n", "", 0)


def test_a_reader_that_leaves_early_is_no_error() -> None:
    with subprocess.Popen([sys.executable, "-m", "engine", "models"], cwd=ROOT, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.stderr.read() == "" and process.wait() == 0


@pytest.mark.slow
def test_inspect_does_without_packages_of_weights_and_sees_the_same(capsys: pytest.CaptureFixture[str],
                                                                    monkeypatch: pytest.MonkeyPatch,
                                                                    tmp_path: Path) -> None:
    """Its process hides them from diffusers; what this process finds with them at hand is the same to the letter."""
    code = ("import runpy, sys; sys.argv[1:] = ['inspect', 'pixart-alpha-512', '--json', '--layers'];\n"
            "try: runpy.run_module('engine', run_name='__main__')\n"
            "finally: print([sys.modules.get(x) for x in ('peft', 'bitsandbytes', 'torchao')], file=sys.stderr)")
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                         env={**os.environ, "QUANTSCAPE_CACHE": str(tmp_path / "a")})
    assert ran.stderr.splitlines()[-1] == "[None, None, None]", ran.stderr
    monkeypatch.setenv("QUANTSCAPE_CACHE", str(tmp_path / "b"))
    assert main(["inspect", "pixart-alpha-512", "--json", "--layers"]) == 0
    assert ran.stdout == capsys.readouterr().out
