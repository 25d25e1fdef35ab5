"""Prompts as the denoisers read them: hidden states of the frozen text tower."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import CLIPModel, CLIPTokenizer

from assets.make.configs import PROMPT_TOKENS


@dataclass(frozen=True, slots=True)
class Prompts:
    """Row i belongs to caption i; the last row is the empty prompt."""

    states: torch.Tensor  # [N + 1, 32, 128]
    mask: torch.Tensor  # [N + 1, 32], 1 where there is text

    def shortened(self) -> "Prompts":
        """Without the columns that are padding in every row, for denoisers that mask padding."""
        longest = int(self.mask.sum(1).max())
        return Prompts(self.states[:, :longest], self.mask[:, :longest])


@torch.no_grad()
def read_prompts(folder: Path, captions: list[str]) -> Prompts:
    """Run the text tower of a CLIP directory over all captions and the empty prompt."""
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    tower = CLIPModel.from_pretrained(folder).eval().text_model
    tokens = tokenizer(
        [*captions, ""],
        padding="max_length",
        max_length=PROMPT_TOKENS,
        truncation=True,
        return_tensors="pt",
    )
    # No mask: the tower is causal, so padding cannot change the text before it, and the
    # Stable Diffusion pipeline passes none either.
    return Prompts(tower(tokens.input_ids).last_hidden_state.float(), tokens.attention_mask.float())
