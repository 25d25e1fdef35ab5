"""Pictures from a shipped pipeline, by the plain call and one seed per picture."""

from pathlib import Path

import torch
from diffusers import DiffusionPipeline

from assets.make.configs import GUIDANCE, PROMPT_TOKENS, STEPS
from assets.make.dataset import MODELS

BATCH = 32
# PixArt's own defaults are for 1024 px and a text encoder of 120 tokens or more.
CALL = {
    "emoji-unet": {},
    "emoji-dit": {
        "use_resolution_binning": False,
        "max_sequence_length": PROMPT_TOKENS,
        "clean_caption": False,
    },
}


def load_pipeline(name: str, models: Path = MODELS) -> DiffusionPipeline:
    """The shipped fp16 weights, run in float32."""
    pipeline = DiffusionPipeline.from_pretrained(models / name, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sample(
    name: str,
    pipeline: DiffusionPipeline,
    prompts: list[str],
    seeds: list[int],
    steps: int = STEPS,
    guidance: float = GUIDANCE,
) -> torch.Tensor:
    """uint8 [N, 3, 64, 64]; picture i depends on prompt i and seed i alone."""
    pictures = []
    for start in range(0, len(prompts), BATCH):
        part = slice(start, start + BATCH)
        output = pipeline(
            prompts[part],
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds[part]],
            output_type="np",
            **CALL[name],
        ).images
        pictures.append((torch.from_numpy(output) * 255).round().to(torch.uint8))
    return torch.cat(pictures).permute(0, 3, 1, 2).contiguous()
