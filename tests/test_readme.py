"""What the README says is true: its example runs, its verbs exist, its front matter makes a Space, its files exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_python_example_runs(tmp_path: Path) -> None:
    code = re.search(r"```python\n(.*?)```", README, re.S)
    assert code and len(code.group(1).strip().splitlines()) <= 11
    done = subprocess.run([sys.executable, "-c", code.group(1)], cwd=tmp_path, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert 4 < float(done.stdout) < 5
    assert {p.name for p in tmp_path.iterdir()} >= {"apple.png", "apple.recipe.json"}


def test_the_verbs_of_the_table_are_the_verbs() -> None:
    from engine.cli.main import VERBS

    named = set(re.findall(r"^\| `(\w+)", README, re.M))
    assert named == set(VERBS)


def test_the_front_matter_makes_a_space() -> None:
    front = dict(re.findall(r"^(\w+): (.+)$", README.split("---")[1], re.M))
    assert front["sdk"] == "gradio" and (ROOT / front["app_file"]).is_file()
    assert f"gradio=={front['sdk_version']}" in (ROOT / "requirements.txt").read_text()


def test_every_file_it_points_to_exists() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links and [link for link in links if not (ROOT / link).exists()] == []


def test_the_two_commands_are_targets() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in ("run", "test"))
