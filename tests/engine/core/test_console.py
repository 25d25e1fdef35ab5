"""Nothing but what Python prints reaches standard output."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import os
from engine.core.console import silence_libraries
silence_libraries()
os.write(1, b"a library's remark")
print("ours", flush=True)
"""


def test_what_libraries_write_past_python_is_dropped() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True)
    assert done.stdout == b"ours\n" and done.stderr == b""
