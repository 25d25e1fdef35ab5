"""The shipped glyphs and captions belong together."""

import pytest
import torch

from assets.make.augment import SIZES, all_sizes, moved, varied
from assets.make.dataset import load_emoji, to_signed, to_unit
from assets.make.tokenizer import build_tokenizer


@pytest.fixture(scope="module")
def emoji():
    return load_emoji()


def test_every_glyph_has_one_caption(emoji):
    assert len(emoji.pictures) == len(emoji.captions) == len(emoji.codepoints) == 1360
    assert len(set(emoji.captions)) == len(set(emoji.codepoints)) == 1360
    assert all(caption == caption.lower().strip() != "" for caption in emoji.captions)


def test_every_glyph_shows_something_on_white(emoji):
    flat = emoji.pictures.flatten(1)
    assert (flat.amin(1) < 250).all()
    corners = emoji.pictures[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == 255).float().mean() > 0.95


def test_range_conversion_is_exact(emoji):
    some = emoji.pictures[:8]
    assert torch.equal((to_unit(to_signed(some)) * 255).round().to(torch.uint8), some)


def test_moving_keeps_the_picture(emoji):
    some, generator = emoji.pictures[:8], torch.Generator().manual_seed(0)
    assert torch.equal(moved(some, 0, generator), some)
    ink = (255 - moved(some, 2, generator).float()).sum((1, 2, 3))
    assert torch.allclose(ink, (255 - some.float()).sum((1, 2, 3)), rtol=0.02)


def test_variants_have_all_sizes(emoji):
    sizes = all_sizes(emoji.pictures[:4])
    assert sizes.shape == (len(SIZES), 4, 3, 64, 64)
    drawn = varied(sizes, torch.tensor([0, 3, 3]), 2, torch.Generator().manual_seed(1))
    assert drawn.shape == (3, 3, 64, 64) and drawn.dtype == torch.uint8


def test_any_text_has_tokens(emoji):
    tokenizer = build_tokenizer(emoji.captions)
    for text in ("", "cat face", "CAT FACE!", "مرحبا بالعالم", "🦕", "x" * 500, "\n\t"):
        ids = tokenizer(text, padding="max_length", truncation=True).input_ids
        assert len(ids) == tokenizer.model_max_length
        assert ids[0] == tokenizer.bos_token_id and tokenizer.eos_token_id in ids
    assert tokenizer("Cat Face").input_ids == tokenizer("cat face").input_ids
    assert tokenizer.decode(tokenizer("cat face").input_ids, skip_special_tokens=True) == "cat face"
