"""`python -m engine VERB ...`."""

from __future__ import annotations

import os
import sys

from engine.cli.main import main


def result_alone_on_stdout() -> None:
    """Send what libraries write past Python to standard output (HiGHS remarks on its work there) to standard error."""
    results = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = open(results, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)


if __name__ == "__main__":
    result_alone_on_stdout()
    sys.exit(main())
