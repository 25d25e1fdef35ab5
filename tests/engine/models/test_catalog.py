"""The catalogue's rows, the figures they must reproduce, and how other checkpoints borrow their columns."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.core.errors import ModelError
from engine.core.sizes import full_bytes
from engine.models.catalog import MODELS, Rules, defaults_of, local_directory, row_for, rules_for, weights_present
from engine.models.structure import read_structure

# name -> layers, choices, modules, bytes at full precision, bits (design, catalogue facts)
FACTS = {
    "sd15": (294, 294, 282, 3_436_308_480, 32),
    "sdxl": (803, 803, 794, 5_131_760_640, 16),
    "dit-xl-2-512": (255, 201, 255, 1_433_972_736, 16),
    "pixart-alpha-512": (287, 287, 287, 1_220_456_448, 16),
    "pixart-sigma-1024": (287, 287, 287, 1_220_456_448, 16),
    "hunyuan-dit": (487, 487, 468, 2_999_291_904, 16),
}
# all weights of the published denoisers (millions, from the checkpoints' own descriptions)
TOTAL_WEIGHTS = {"sd15": 859_520_964, "sdxl": 2_567_463_684, "flux-dev": 11_901_408_320, "sana": 1_604_462_752}


@pytest.mark.parametrize("name", FACTS)
def test_the_catalogue_facts_hold(name: str) -> None:
    structure = read_structure(name)
    layers, choices, modules, size, bits = FACTS[name]
    assert len(structure.layers) == layers
    assert len(structure.choices) == choices
    assert len({m for layer in structure.layers for m in layer.modules}) == modules
    assert full_bytes(structure) == size
    assert structure.precision_bits == bits


@pytest.mark.parametrize("name", TOTAL_WEIGHTS)
def test_all_weights_are_counted(name: str) -> None:
    structure = read_structure(name)
    assert sum(layer.weights for layer in structure.layers) + structure.other_weights == TOTAL_WEIGHTS[name]


def halves(name: str) -> list[str]:
    return [layer.name for layer in read_structure(name).layers if layer.name[-2:] in (":0", ":1")]


def test_split_layers_are_those_of_the_papers() -> None:
    sd15, sdxl, hunyuan = halves("sd15"), halves("sdxl"), halves("hunyuan-dit")
    assert len(sd15) == 24
    assert all(n.startswith("up_blocks.") and n[:-2].endswith(".conv_shortcut") for n in sd15)
    assert len(sdxl) == 18
    assert all(n.startswith("up_blocks.") and n[:-2].endswith(".conv1") for n in sdxl)
    assert len(hunyuan) == 38
    assert all(n[:-2].endswith(".skip_linear") for n in hunyuan)
    for name in set(MODELS) - {"sd15", "sdxl", "hunyuan-dit", "emoji-unet"}:
        assert halves(name) == []


def test_halves_cover_the_input_channels_once() -> None:
    for name in ("sd15", "sdxl", "hunyuan-dit"):
        structure = read_structure(name)
        for trunk_name in (n for n in halves(name) if n.endswith(":0")):
            trunk, skip = structure.layer(trunk_name), structure.layer(f"{trunk_name[:-2]}:1")
            assert trunk.start == 0
            assert trunk.stop == skip.start
            assert trunk.shape[1] == trunk.stop
            assert skip.shape[1] == skip.stop - skip.start
            assert trunk.shape[0] == skip.shape[0]


def test_the_split_of_a_wide_trunk_lies_at_the_trunk() -> None:
    """First up block of SD1.5's third stage: 1280 channels from below meet 640 of the skip."""
    layer = read_structure("sd15").layer("up_blocks.2.resnets.0.conv_shortcut:0")
    assert layer.shape == (640, 1280, 1, 1)
    assert read_structure("sd15").layer("up_blocks.2.resnets.0.conv_shortcut:1").shape == (640, 640, 1, 1)


def test_copies_of_the_timestep_network_follow_the_first() -> None:
    structure = read_structure("dit-xl-2-512")
    tied = [layer for layer in structure.layers if layer.tie]
    assert len(tied) == 54
    assert {layer.tie for layer in tied} == {
        f"transformer_blocks.0.norm1.emb.timestep_embedder.linear_{i}" for i in (1, 2)
    }


def test_hunyuans_pooler_is_left_alone() -> None:
    structure = read_structure("hunyuan-dit")
    assert not any("pooler" in layer.name for layer in structure.layers)
    assert not any("pooler" in node.layer for node in structure.nodes)


def test_long_skips_of_the_graphs() -> None:
    skips = {name: sum(e.skip for e in read_structure(name).block_edges) for name in MODELS}
    expected = dict.fromkeys(MODELS, 0) | {"sd15": 12, "sdxl": 9, "hunyuan-dit": 19, "emoji-unet": 4}
    assert skips == expected


def test_rows_are_complete() -> None:
    for name, row in MODELS.items():
        assert row.name == name
        assert row.title
        assert row.source
        assert row.precision_bits in (16, 32)
        assert row.config
        assert row.steps > 0
        assert row.size > 0
        assert all(c.weights > 0 and c.bytes == c.weights * row.precision_bits // 8 for c in row.components)


def test_defaults() -> None:
    assert defaults_of("sd15") == (50, 7.5)
    assert defaults_of("/somewhere/else") == (20, 3.0)


def test_a_fine_tune_has_the_columns_of_its_base() -> None:
    row = MODELS["sdxl"]
    fine_tune = {**row.config, "sample_size": 96, "block_out_channels": tuple(row.config["block_out_channels"])}
    assert row_for(row.denoiser_class, fine_tune) is row
    assert rules_for(row.denoiser_class, fine_tune) == row.rules
    other = {**row.config, "block_out_channels": [8, 16, 32]}
    assert row_for(row.denoiser_class, other) is None
    assert rules_for(row.denoiser_class, other) == Rules()  # rows of this class disagree


def test_a_class_whose_rows_agree_lends_its_columns_to_any_size() -> None:
    hunyuan = MODELS["hunyuan-dit"]
    assert rules_for(hunyuan.denoiser_class, {"num_layers": 3}) == hunyuan.rules
    assert rules_for("SomethingElse", {}) == Rules()


def test_weights_are_found_in_the_hubs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    row = MODELS["dit-xl-2-512"]
    assert local_directory(row) is None
    assert not weights_present(row)
    snapshot = tmp_path / "models--facebook--DiT-XL-2-512" / "snapshots" / "abc"
    (snapshot / "transformer").mkdir(parents=True)
    (snapshot / "model_index.json").write_text("{}")
    assert local_directory(row) == snapshot
    assert not weights_present(row)
    (snapshot / "transformer" / "model.safetensors").write_text("")
    assert weights_present(row)


def test_the_demo_models_lie_in_the_repository() -> None:
    for name in ("emoji-unet", "emoji-dit"):
        source = MODELS[name].source
        assert not Path(source).is_absolute()
        assert local_directory(MODELS[name]) == Path(__file__).resolve().parents[3] / source


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ModelError, match=r"no model 'sd16'.*expected"):
        read_structure("sd16")
