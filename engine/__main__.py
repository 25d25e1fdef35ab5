"""`python -m engine VERB ...`."""

from __future__ import annotations

import sys

from engine.cli.main import main
from engine.core.console import silence_libraries


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
    silence_libraries()
    sys.exit(main())
