"""What `pip install .` gives: the assets the program reads ship as `quantscape_assets`, and an installed copy works."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = "quantscape_assets"
NOT_SHIPPED = {"make", "__pycache__"}  # how the models were made, which nothing reads
SOURCES = ("assets", "engine", "explorer", "pyproject.toml", "setup.py", "requirements.txt", "README.md", "LICENSE",
           "NOTICE")
SERVE = "import sys; from explorer.launch import main; sys.exit(main(['--no-browser', '--port', sys.argv[1]]))"


def _declared() -> list[str]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"][SHIPPED]


def _assets() -> set[str]:
    """Every file of assets that the program may read, by its path below it."""
    tops = [top for top in (ROOT / "assets").iterdir() if top.name not in NOT_SHIPPED]
    files = [p for top in tops for p in ([top] if top.is_file() else top.rglob("*"))]
    # What SQLite and Python leave beside the files is not of the repository.
    return {p.relative_to(ROOT / "assets").as_posix() for p in files
            if p.is_file() and not re.search(r"\.sqlite[-.].*$|\.pyc$|/\.", str(p.relative_to(ROOT / "assets")))}


def test_the_declared_data_cover_the_assets() -> None:
    assets = ROOT / "assets"
    declared = {p.relative_to(assets).as_posix() for pattern in _declared() for p in assets.glob(pattern)}
    assert _assets() and _assets() - declared == set()
    assert not any(path.startswith("make/") for path in declared)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked wheel, built without the network from links, so that the checkout stays clean of build/."""
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    source.mkdir()
    for name in SOURCES:
        (source / name).symlink_to(ROOT / name)
    done = subprocess.run([sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation",
                           "--no-index", "-w", str(place)], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr  # needs setuptools of pyproject.toml's version or newer
    (wheel,) = place.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place / "installed")
    return place / "installed"


def _run(installed: Path, empty: Path, *words: str) -> str:
    done = subprocess.run([sys.executable, *words], cwd=empty, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(installed)})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_holds_what_the_program_reads(installed: Path) -> None:
    shipped = {p.relative_to(installed / SHIPPED).as_posix() for p in (installed / SHIPPED).rglob("*") if p.is_file()}
    assert shipped == _assets()
    read = [p.relative_to(ROOT) for top in ("engine", "explorer") for p in (ROOT / top).rglob("*")
            if p.suffix in (".py", ".json", ".txt")]
    assert [str(p) for p in read if not (installed / p).is_file()] == []


@pytest.mark.slow
def test_an_installed_copy_works(installed: Path, tmp_path: Path) -> None:
    told = json.loads(_run(installed, tmp_path, "-m", "engine", "inspect", "emoji-unet", "--json"))
    assert told["layers"] == 123
    example = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert example and 4 < float(_run(installed, tmp_path, "-c", example.group(1))) < 5
    assert (tmp_path / "apple.png").is_file()
    where = _run(installed, tmp_path, "-c", "import engine.core.places as p; print(p.assets_dir())")
    assert Path(where.strip()) == installed / SHIPPED


@pytest.mark.slow
def test_an_installed_explorer_serves_its_page_and_scripts(installed: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    with subprocess.Popen([sys.executable, "-c", SERVE, port], cwd=tmp_path, stdout=subprocess.PIPE, text=True,
                          env={**os.environ, "PYTHONPATH": str(installed)}) as server:
        try:
            page = _fetched(server, f"http://127.0.0.1:{port}/")
            scripts = set(re.findall(r"quantscape-ui/[\w-]+\.js\?v=\w+", page))
            assert len(scripts) == len(list((ROOT / "assets" / "ui").glob("*.js")))
            assert all(_fetched(server, f"http://127.0.0.1:{port}/{script}") for script in scripts)
        finally:
            server.terminate()


def _fetched(server: subprocess.Popen[str], url: str) -> str:
    """What is served there, waiting for a server that has just been started as long as it lives."""
    while server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError:
            raise
        except urllib.error.URLError:  # nobody listens yet
            time.sleep(0.2)
    raise AssertionError(f"The server ended with {server.returncode} before it served {url}.")
