"""The shipped directories work with plain diffusers and transformers calls."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, PixArtAlphaPipeline, StableDiffusionPipeline
from transformers import CLIPModel, CLIPProcessor

from assets.make.configs import DENOISERS
from assets.make.dataset import MODELS
from assets.make.judge import measure, passed
from assets.make.sampling import load_pipeline, sample

# Models are shipped one after the other as their training ends; assets/make/README.md says which are there.
SHIPPED = [name for name in sorted(DENOISERS) if (MODELS / name / "model_index.json").is_file()]
CLASSES = {"emoji-unet": StableDiffusionPipeline, "emoji-dit": PixArtAlphaPipeline}


@pytest.mark.parametrize("name", SHIPPED)
def test_four_steps_give_a_picture_and_seeds_matter(name):
    pipeline = load_pipeline(name)
    assert type(pipeline) is CLASSES[name]
    one, same, other = sample(name, pipeline, ["cat face"] * 3, [1, 1, 2], steps=4).float()
    assert one.std() > 10
    assert torch.equal(one, same) and not torch.equal(one, other)


@pytest.mark.parametrize("name", SHIPPED)
def test_directories_are_complete_and_half_precision(name):
    pipeline = DiffusionPipeline.from_pretrained(MODELS / name)
    positions = pipeline.text_encoder.config.max_position_embeddings
    assert positions >= 120 >= pipeline.tokenizer.model_max_length
    assert not [p for p in (MODELS / name).rglob("*") if p.suffix in {".bin", ".pt", ".pkl", ".ckpt"}]


def test_the_judge_loads_with_its_processor():
    folder = MODELS / "emoji-clip"
    model = CLIPModel.from_pretrained(folder)
    assert model.config.projection_dim <= 64
    assert json.loads((folder / "preprocessor_config.json").read_text())["size"] == {"height": 64, "width": 64}
    assert CLIPProcessor.from_pretrained(folder)(text=["cat face"]).input_ids


def test_at_least_one_model_is_shipped():
    assert SHIPPED


def test_assets_stay_small():
    total = sum(p.stat().st_size for p in Path(MODELS).rglob("*") if p.is_file())
    assert total < 60e6


@pytest.mark.slow
def test_bars():
    table = measure(SHIPPED, 256)
    assert passed(table), table
