"""Reference pictures: a folder of files, or the sheet beside a model's captions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.core.errors import InputError
from engine.providers.reference import reference_pictures


def tile(value: int) -> np.ndarray:
    return np.full((8, 8, 3), value, np.uint8)


def sheet(home: Path, captions: int, columns: int = 3) -> Path:
    """A sheet of grey tiles 0, 1, 2 ... and the captions beside it; returns the model's directory."""
    data = home / "data"
    data.mkdir(parents=True)
    (home / "model").mkdir()
    (data / "captions.json").write_text(json.dumps([f"caption {i}" for i in range(captions)]))
    rows = -(-captions // columns)
    tiles = [tile(i if i < captions else 255) for i in range(rows * columns)]
    lines = [np.concatenate(tiles[r * columns:(r + 1) * columns], axis=1) for r in range(rows)]
    Image.fromarray(np.concatenate(lines)).save(data / "sheet.png")
    return home / "model"


def test_the_sheet_is_cut_into_tiles_in_order(tmp_path: Path) -> None:
    model = sheet(tmp_path, 7)
    found = reference_pictures(None, model, 8)
    assert [int(x[0, 0, 0]) for x in found] == list(range(7)) and found[0].shape == (8, 8, 3)


def test_a_sheet_of_another_size_is_none(tmp_path: Path) -> None:
    model = sheet(tmp_path, 7)
    assert reference_pictures(None, model, 4) == [] and reference_pictures(None, model, 7) == []
    assert reference_pictures(None, None, 8) == [] and reference_pictures(None, tmp_path / "elsewhere" / "m", 8) == []


def test_a_folder_is_resized_cut_and_put_on_white(tmp_path: Path) -> None:
    wide = np.zeros((16, 48, 3), np.uint8)
    wide[:, 16:32] = 200
    Image.fromarray(wide).save(tmp_path / "a.png")
    Image.fromarray(np.zeros((8, 8, 4), np.uint8)).save(tmp_path / "b.png")
    (tmp_path / "notes.txt").write_text("no picture")
    first, second = reference_pictures(tmp_path, None, 8)
    assert first.shape == (8, 8, 3) and first[4, 4, 0] == 200
    assert second.min() == 255


def test_bad_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no pictures"):
        reference_pictures(tmp_path / "absent", None, 8)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"broken\.png cannot be read"):
        reference_pictures(tmp_path, None, 8)
