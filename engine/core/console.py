"""What a process writes to standard output."""

from __future__ import annotations

import os
import sys


def silence_libraries() -> None:
    """Drop what libraries write past Python to standard output; what Python prints still arrives.

    HiGHS remarks on its work there whatever it is told. Holds for the whole process, so only an entry point may ask.
    """
    printed = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.stdout = open(printed, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)
