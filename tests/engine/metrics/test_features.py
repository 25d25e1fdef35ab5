"""Extractors: names, preprocessing, determinism, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from engine.core.errors import InputError
from engine.metrics.alignment import clip_score, cosine
from engine.metrics.features import clip_extractor, features, find_extractor, is_clip, load_extractor, random_conv
from tests.engine.metrics.pictures import blurred, noise


def test_a_clip_lying_beside_a_model_is_found_by_what_it_is(tiny_clip: Path) -> None:
    found = find_extractor(tiny_clip.parent / "some-model")
    assert found.name == "tiny-clip" and found.dim == 8
    assert find_extractor(tiny_clip.parent).name == "tiny-clip"
    assert find_extractor(tiny_clip.parent.parent / "elsewhere" / "model").name == "random-conv"
    assert find_extractor().name == "random-conv"


def test_clip_features_are_what_transformers_computes(tiny_clip: Path) -> None:
    from transformers import CLIPModel

    extractor = clip_extractor(tiny_clip)
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    model = CLIPModel.from_pretrained(tiny_clip)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)
    with torch.no_grad():
        raw = model(input_ids=torch.tensor([[1, 4, 2]]), pixel_values=(images - mean) / std)
    assert features(extractor, images) == pytest.approx(raw.image_embeds.numpy(), abs=1e-5)
    assert extractor.of_texts is not None
    assert extractor.of_texts(["red"]) == pytest.approx(raw.text_embeds.numpy(), abs=1e-5)


def test_other_sizes_are_resized_and_cut_to_the_centre(tiny_clip: Path) -> None:
    extractor = clip_extractor(tiny_clip)
    flat = torch.full((1, 3, 16, 16), 0.25)
    wide = torch.full((1, 3, 40, 64), 0.25)
    assert features(extractor, wide) == pytest.approx(features(extractor, flat).numpy(), abs=1e-5)
    ramp = torch.linspace(0, 1, 32).expand(1, 3, 32, 32)
    padded = functional.pad(ramp, (32, 32, 0, 0), mode="replicate")
    assert features(extractor, padded) == pytest.approx(features(extractor, ramp).numpy(), abs=2e-3)
    squeezed = functional.interpolate(padded, (32, 32), mode="bilinear")
    assert features(extractor, squeezed) != pytest.approx(features(extractor, ramp).numpy(), abs=2e-2)


def test_batches_do_not_change_features(tiny_clip: Path) -> None:
    images = torch.rand(70, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for extractor in (clip_extractor(tiny_clip), random_conv()):
        whole = features(extractor, images)
        assert whole.shape == (70, extractor.dim)
        assert whole[65:] == pytest.approx(extractor.of_images(images[65:]).numpy(), abs=1e-5)


def test_the_random_net_is_the_same_every_time_and_draws_nothing_global() -> None:
    state = torch.random.get_rng_state()
    first, second = random_conv(), random_conv()
    assert torch.equal(torch.random.get_rng_state(), state)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(features(first, images), features(second, images))


def test_scores_follow_text_and_repeat_for_repeated_prompts(tiny_clip: Path) -> None:
    extractor = clip_extractor(tiny_clip)
    own = features(extractor, noise(3))
    values = clip_score(extractor, own, ["red cat", "dog", "dog"])
    assert extractor.of_texts is not None
    assert values[2] == pytest.approx(float(cosine(own[2:], extractor.of_texts(["dog"]))[0]), abs=1e-6)
    assert (abs(values) <= 1).all()
    with pytest.raises(InputError, match="3 images came with 1"):
        clip_score(extractor, own, ["red"])
    with pytest.raises(InputError, match="reads no text"):
        clip_score(random_conv(), own, ["red"] * 3)


def test_what_is_no_clip_is_refused(tmp_path: Path, tiny_clip: Path) -> None:
    with pytest.raises(InputError, match="No CLIP lies at"):
        load_extractor(str(tmp_path))
    (tmp_path / "config.json").write_text('["clip"]')
    assert not is_clip(tmp_path)
    assert load_extractor(str(tiny_clip)).name == "tiny-clip"
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (broken / name).write_bytes((tiny_clip / name).read_bytes())
    (broken / "model.safetensors").write_bytes(b"12345678")
    with pytest.raises(InputError, match="cannot be loaded"):
        clip_extractor(broken)


def test_features_move_with_the_damage() -> None:
    full = noise(4)
    own = features(random_conv(), full)
    near, far = (1 - cosine(own, features(random_conv(), blurred(full, a))).mean() for a in (0.02, 0.3))
    assert 0 < near < far
