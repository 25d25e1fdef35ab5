"""A tiny CLIP saved as a local directory, shared by the tests of metrics."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

WORDS = ["[PAD]", "[BOS]", "[EOS]", "[UNK]", "red", "green", "cat", "dog", "number", "sign"]


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    """Small matrices gain nothing from threads, and on a busy machine lose much waiting for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

    home = tmp_path_factory.mktemp("models") / "tiny-clip"
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[("[BOS]", 1), ("[EOS]", 2)])
    PreTrainedTokenizerFast(tokenizer_object=core, pad_token="[PAD]", bos_token="[BOS]", eos_token="[EOS]",
                            unk_token="[UNK]").save_pretrained(home)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**shape, "vocab_size": len(WORDS), "max_position_embeddings": 8, "bos_token_id": 1,
                     "eos_token_id": 2, "pad_token_id": 0},
        vision_config={**shape, "image_size": 16, "patch_size": 4}, projection_dim=8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(home)
    return home
