"""The parts of the page: each file builds its components and returns them; wiring is in `explorer.wiring`."""
