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


def only_tracing() -> None:
    """Have diffusers do without packages that it imports for every denoiser wherever they are installed.

    They load and adapt weights. `inspect` touches none, and importing them takes longer than tracing SDXL. Holds for
    the whole process, so that only a process that does nothing else may ask for it.
    """
    for name in ("peft", "bitsandbytes", "torchao"):
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # what Python takes for "not there"


if __name__ == "__main__":
    if sys.argv[1:2] == ["inspect"]:
        only_tracing()
    result_alone_on_stdout()
    sys.exit(main())
