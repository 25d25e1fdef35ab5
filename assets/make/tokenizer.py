"""Train the tokenizer: byte-level, so that any text has tokens; every caption's word is one."""

import argparse
import json
import tempfile
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from assets.make.configs import PROMPT_TOKENS, VOCABULARY
from assets.make.dataset import load_emoji

SPECIAL = ["<|startoftext|>", "<|endoftext|>"]


def learn_merges(captions: list[str]) -> tuple[dict[str, int], list[str]]:
    """Byte-pair merges learned from the captions, in the files' format."""
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Lowercase()
    learner.pre_tokenizer = CLIPTokenizer().backend_tokenizer.pre_tokenizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner.train_from_iterator(captions, trainer)
    with tempfile.TemporaryDirectory() as folder:
        vocabulary_file, merges_file = learner.model.save(folder)
        vocabulary = json.loads(Path(vocabulary_file).read_text())
        merges = Path(merges_file).read_text().splitlines()[1:]
    # A letter that never ends a word in the captions may still end one in a prompt.
    for letter in sorted(alphabet):
        vocabulary.setdefault(letter + "</w>", len(vocabulary))
    return vocabulary, merges


def build_tokenizer(captions: list[str]) -> CLIPTokenizer:
    """A CLIPTokenizer that pads to PROMPT_TOKENS."""
    vocabulary, merges = learn_merges(captions)
    pairs = [tuple(line.split(" ")) for line in merges]
    return CLIPTokenizer(vocab=vocabulary, merges=pairs, model_max_length=PROMPT_TOKENS)


def main() -> None:
    """Write the tokenizer's directory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/make/tokenizer"))
    options = parser.parse_args()
    captions = load_emoji().captions
    tokenizer = build_tokenizer(captions)
    tokenizer.save_pretrained(options.out)
    longest = max(len(ids) for ids in tokenizer(captions).input_ids)
    print(f"{len(tokenizer)} tokens; the longest caption has {longest}")


if __name__ == "__main__":
    main()
