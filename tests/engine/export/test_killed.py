"""An export ended by kill -9: nothing looks finished, the store keeps its layers, the next export goes through."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine.core.recipe import uniform
from engine.export.exporting import Exported, export
from engine.live.model import Model, open_model
from engine.live.store import Store, build, requests

ROOT = Path(__file__).resolve().parents[3]
EXPORT = """
import sys, time
from engine.core.recipe import uniform
from engine.export.exporting import export
from engine.live.model import open_model
model = open_model(sys.argv[1], store=sys.argv[2])
for step in export(model, uniform(model.structure, "uaq-4"), "packed", sys.argv[3]):
    if getattr(step, "stage", "") == "layers" and step.done == 9:
        print(step.what, flush=True)
        time.sleep(60)
"""


@pytest.mark.slow
def test_an_export_killed_half_way_is_done_again_from_the_store(unet: Model, tmp_path: Path) -> None:
    assert unet.directory
    target, place = tmp_path / "out" / "packed", tmp_path / "store"
    store = Store.open(place, unet.structure, unet.originals)
    options = set(uniform(unet.structure, "uaq-4").options.values())
    list(build(store, requests(store, options)[:7]))
    store.close()
    process = subprocess.Popen([sys.executable, "-c", EXPORT, str(unet.directory), str(place), str(target)], cwd=ROOT,
                               stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert process.stdout and process.stdout.readline().strip()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not target.exists()
    (left,) = target.parent.iterdir()
    assert left.name == f".packed.exporting-{process.pid}" and not (left / "model_index.json").exists()
    model = open_model(str(unet.directory), store=place)
    assert model.store.verify() == [] and len(requests(model.store, options)) == len(model.structure.layers) - 7
    *_, done = export(model, uniform(model.structure, "uaq-4"), "packed", target)
    model.close()
    assert isinstance(done, Exported) and done.difference.output == 0.0
    assert [p.name for p in target.parent.iterdir()] == ["packed"], "what the killed one left is removed"
