"""One export reopened in this process and compared with the preview: `python -m engine.bench.reopened`, with model,
format, export and store.

Prints one JSON object. Nothing is shared with the process that wrote the export but the two directories.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any


def reopened(model: str, name: str, directory: Path, store: Path) -> dict[str, Any]:
    """How far the export is from the preview of the recipe it says it holds.

    Args:
        model: what was exported.
        name: format.
        directory: the export.
        store: quantized layers, so that the preview is quick.

    Raises:
        EngineError: it does not hold what was previewed.
    """
    from engine.core.recipe import load_recipe
    from engine.export.exporting import plan_export
    from engine.export.formats import format_named
    from engine.export.recipe_format import FILE
    from engine.live.apply import applied
    from engine.live.model import open_model

    start = time.perf_counter()
    live = open_model(model, store=store)
    try:
        recipe = load_recipe(directory / FILE)
        plan = plan_export(live.structure, recipe, name)
        with applied(live, recipe):
            found = format_named(name).verify(live, plan, directory)
    finally:
        live.close()
    return {**asdict(found), "changes": len(plan.changes), "seconds": time.perf_counter() - start}


if __name__ == "__main__":
    print(json.dumps(reopened(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))))
