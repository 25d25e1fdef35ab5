"""`python -m engine` as a process: results alone on standard output, and a reader that leaves early is no error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_what_libraries_print_is_not_in_the_result() -> None:
    code = ("import os, runpy, sys; import engine.cli.main as m; "
            "m.main = lambda: (os.write(1, b'solver'), print('result'), 0)[2]; "
            "runpy.run_module('engine', run_name='__main__')")
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (ran.stdout, ran.stderr, ran.returncode) == ("result\n", "solver", 0)


def test_a_reader_that_leaves_early_is_no_error() -> None:
    with subprocess.Popen([sys.executable, "-m", "engine", "models"], cwd=ROOT, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.stderr.read() == "" and process.wait() == 0
