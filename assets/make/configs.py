"""The shapes of the demo models: each function builds one untrained module.

Constraints: 64 px RGB pictures, 8x8x16 latents, a denoiser that makes a picture in about a tenth
of a second on two processor cores, and training that ends within an hour or two without a GPU.
"""

from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    PixArtTransformer2DModel,
    UNet2DConditionModel,
)
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

IMAGE_SIZE = 64  # px
LATENT_SIZE = 8
LATENT_CHANNELS = 16
TEXT_WIDTH = 128
TEXT_POSITIONS = 128  # PixArt asks for 120 tokens by default
PROMPT_TOKENS = 32  # what the tokenizer pads to; the longest caption has 18
VOCABULARY = 3072  # upper bound; the tokenizer may hold fewer
BOS, EOS = 0, 1  # padding repeats the end token
PROJECTION = 64
STEPS = 20
GUIDANCE = 3.0


def build_autoencoder() -> AutoencoderKL:
    """2.8M weights, of which the decoder has 1.7M."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 128),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=IMAGE_SIZE,
    )


def build_clip(vocabulary: int = VOCABULARY) -> CLIPModel:
    """Judge and text tower: two small transformers meeting in 64 dimensions."""
    text = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=TEXT_POSITIONS,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=EOS,
    )
    vision = CLIPVisionConfig(
        hidden_size=160,
        intermediate_size=640,
        num_hidden_layers=4,
        num_attention_heads=5,
        image_size=IMAGE_SIZE,
        patch_size=8,
    )
    return CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=PROJECTION))


def build_unet() -> UNet2DConditionModel:
    """About 7M weights: two resolutions, a cross-attention in every block, long skips."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(96, 160),
        layers_per_block=1,
        attention_head_dim=4,
        cross_attention_dim=TEXT_WIDTH,
        norm_num_groups=32,
    )


def build_dit() -> PixArtTransformer2DModel:
    """About 6M weights: ten blocks over 16 tokens, each token a 2x2 patch of the latents."""
    return PixArtTransformer2DModel(
        num_attention_heads=6,
        attention_head_dim=32,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=10,
        norm_num_groups=32,
        cross_attention_dim=192,
        sample_size=LATENT_SIZE,
        patch_size=2,
        caption_channels=TEXT_WIDTH,
        use_additional_conditions=False,
    )


def build_scheduler() -> DPMSolverMultistepScheduler:
    """The sampler saved with both pipelines; training draws its noise levels from it too."""
    return DPMSolverMultistepScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        steps_offset=1,  # unused by this spacing, but the Stable Diffusion pipeline insists
    )


DENOISERS = {"emoji-unet": build_unet, "emoji-dit": build_dit}
