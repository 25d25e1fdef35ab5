"""Launch the explorer: `python app.py [MODEL] [--port N] [--no-browser] [--host H] [--desktop]`."""

from __future__ import annotations

import sys

from engine.core.console import silence_libraries
from explorer.launch import main

if __name__ == "__main__":
    silence_libraries()
    sys.exit(main())
