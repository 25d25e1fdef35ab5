"""Seeded random pipelines of every covered family, built in code without a download; for tests only.

Constraints: each saves and loads like a published checkpoint, and makes a two-step picture on a CPU in under
two seconds. Sizes are the smallest that still show what is particular to a family (two resolutions and long
skips in a U-Net, both kinds of block in a double-stream transformer, a skip pair in a long-skip transformer).
"""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import Any

WIDTH = 32  # channels of every text encoder
LETTERS = string.ascii_lowercase + string.digits + string.punctuation
LATENT = 4  # latent channels
SEED = 0
# An autoencoder that makes pictures of 64 px from latents of 8 x 8: some pipelines take that factor for granted.
FACTOR_8 = {
    "block_out_channels": (8, 8, 8, 16), "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4, "sample_size": 64,
}


def _clip_tokenizer(length: int = 77) -> Any:
    from transformers import CLIPTokenizer

    words = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=length)


def _t5_tokenizer(length: int = 512) -> Any:
    from transformers import T5Tokenizer

    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), ("▁", -2.0), *((letter, -3.0) for letter in LETTERS)]
    return T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=length)


def _bert_tokenizer() -> Any:
    from transformers import BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    return BertTokenizer(vocab={word: i for i, word in enumerate(words)}, model_max_length=77)


def _gemma_tokenizer() -> Any:
    from transformers import GemmaTokenizer

    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *LETTERS, *string.ascii_uppercase]
    return GemmaTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=512)


def _clip_text(tokenizer: Any, *, projected: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=37, num_hidden_layers=3, num_attention_heads=4,
        projection_dim=WIDTH, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def _t5_text(tokenizer: Any) -> Any:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(vocab_size=len(tokenizer), d_model=WIDTH, d_kv=8, d_ff=37, num_layers=2, num_heads=4)
    return T5EncoderModel(config).eval()


def _gemma_text(tokenizer: Any) -> Any:
    from transformers import Gemma2Config, Gemma2Model

    return Gemma2Model(Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=37, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, pad_token_id=0, eos_token_id=1, bos_token_id=2,
    )).eval()


def _vae(**changes: Any) -> Any:
    """A kl autoencoder with a scale factor of 2: pictures of 16 px have latents of 8 x 8."""
    from diffusers import AutoencoderKL

    config: dict[str, Any] = {
        "block_out_channels": (8, 16), "norm_num_groups": 4, "layers_per_block": 1, "latent_channels": LATENT,
        "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2, "sample_size": 16,
    }
    return AutoencoderKL(**{**config, **changes}).eval()


def _unet(**changes: Any) -> Any:
    from diffusers import UNet2DConditionModel

    config: dict[str, Any] = {
        "sample_size": 8, "in_channels": LATENT, "out_channels": LATENT, "block_out_channels": (16, 32),
        "layers_per_block": 2, "norm_num_groups": 8, "attention_head_dim": 2, "cross_attention_dim": WIDTH,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    return UNet2DConditionModel(**{**config, **changes}).eval()


def _stable_diffusion(**unet: Any) -> Any:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    tokenizer = _clip_tokenizer()
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False
    )
    return StableDiffusionPipeline(
        vae=_vae(), text_encoder=_clip_text(tokenizer), tokenizer=tokenizer, unet=_unet(**unet), scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )


def sd1() -> Any:
    """Stable Diffusion 1.x: 1x1 convolutions around the transformers."""
    return _stable_diffusion()


def sd2() -> Any:
    """Stable Diffusion 2.x: linear projections around the transformers, heads per level."""
    return _stable_diffusion(use_linear_projection=True, attention_head_dim=(2, 4))


def sdxl() -> Any:
    """Stable Diffusion XL: size and pooled-text conditions, several transformer blocks in one attention."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    tokenizer = _clip_tokenizer()
    unet = _unet(
        use_linear_projection=True, attention_head_dim=(2, 4), transformer_layers_per_block=(1, 2),
        addition_embed_type="text_time", addition_time_embed_dim=8, cross_attention_dim=2 * WIDTH,
        projection_class_embeddings_input_dim=6 * 8 + WIDTH,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    return StableDiffusionXLPipeline(
        vae=_vae(), text_encoder=_clip_text(tokenizer), tokenizer=tokenizer,
        text_encoder_2=_clip_text(tokenizer, projected=True), tokenizer_2=_clip_tokenizer(), unet=unet,
        scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
    )


def sd3() -> Any:
    """Stable Diffusion 3: text and picture in two streams that attend to each other."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    clip, t5 = _clip_tokenizer(), _t5_tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=1, in_channels=LATENT, out_channels=LATENT, num_layers=2, attention_head_dim=8,
        num_attention_heads=4, caption_projection_dim=32, joint_attention_dim=2 * WIDTH,
        pooled_projection_dim=2 * WIDTH,
    ).eval()
    return StableDiffusion3Pipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(), vae=_vae(shift_factor=0.06),
        text_encoder=_clip_text(clip, projected=True), tokenizer=clip,
        text_encoder_2=_clip_text(clip, projected=True), tokenizer_2=_clip_tokenizer(),
        text_encoder_3=_widened_t5(t5), tokenizer_3=t5,
    )


def _widened_t5(tokenizer: Any) -> Any:
    """A T5 as wide as two CLIP encoders side by side."""
    from transformers import T5Config, T5EncoderModel

    config = T5Config(vocab_size=len(tokenizer), d_model=2 * WIDTH, d_kv=8, d_ff=37, num_layers=1, num_heads=4)
    return T5EncoderModel(config).eval()


def flux() -> Any:
    """Flux: double-stream, then single-stream blocks, rotary positions, embedded guidance."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    clip, t5 = _clip_tokenizer(), _t5_tokenizer()
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=4 * LATENT, num_layers=2, num_single_layers=2, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=WIDTH, pooled_projection_dim=WIDTH, axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    ).eval()
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=_vae(shift_factor=0.06, use_quant_conv=False,
                                                              use_post_quant_conv=False),
        text_encoder=_clip_text(clip), tokenizer=clip, text_encoder_2=_t5_text(t5), tokenizer_2=t5,
        transformer=transformer,
    )


def _pixart_transformer(**changes: Any) -> Any:
    from diffusers import PixArtTransformer2DModel

    config: dict[str, Any] = {
        "sample_size": 8, "num_layers": 3, "patch_size": 2, "attention_head_dim": 8, "num_attention_heads": 3,
        "caption_channels": WIDTH, "in_channels": LATENT, "cross_attention_dim": 24, "out_channels": 2 * LATENT,
        "use_additional_conditions": False,
    }
    return PixArtTransformer2DModel(**{**config, **changes}).eval()


def pixart_alpha() -> Any:
    """PixArt-alpha: one modulation for all blocks, class-free, learned variance."""
    from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline

    t5 = _t5_tokenizer(120)
    return PixArtAlphaPipeline(
        tokenizer=t5, text_encoder=_t5_text(t5), vae=_vae(), transformer=_pixart_transformer(),
        scheduler=DPMSolverMultistepScheduler(),
    )


def pixart_sigma() -> Any:
    """PixArt-Sigma."""
    from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPipeline

    t5 = _t5_tokenizer(300)
    return PixArtSigmaPipeline(
        tokenizer=t5, text_encoder=_t5_text(t5), vae=_vae(), transformer=_pixart_transformer(),
        scheduler=DPMSolverMultistepScheduler(),
    )


def dit() -> Any:
    """DiT: class labels, a timestep embedder in every block."""
    from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    transformer = DiTTransformer2DModel(
        sample_size=8, num_layers=3, patch_size=2, attention_head_dim=8, num_attention_heads=3, in_channels=LATENT,
        out_channels=2 * LATENT, attention_bias=True, activation_fn="gelu-approximate", num_embeds_ada_norm=1000,
        norm_type="ada_norm_zero", norm_elementwise_affine=False,
    ).eval()
    labels = {i: f"class {i}" for i in range(1000)}
    return DiTPipeline(transformer=transformer, vae=_vae(), scheduler=DDIMScheduler(), id2label=labels)


def hunyuan() -> Any:
    """Hunyuan-DiT: long skips between transformer blocks, two text encoders, an attention pooler."""
    from diffusers import DDPMScheduler, HunyuanDiT2DModel, HunyuanDiTPipeline
    from transformers import BertConfig, BertModel

    bert, t5 = _bert_tokenizer(), _t5_tokenizer(256)
    transformer = HunyuanDiT2DModel(
        sample_size=8, num_layers=6, patch_size=2, attention_head_dim=8, num_attention_heads=3, in_channels=LATENT,
        cross_attention_dim=WIDTH, cross_attention_dim_t5=WIDTH, pooled_projection_dim=16, hidden_size=24,
        activation_fn="gelu-approximate",
    ).eval()
    text = BertModel(BertConfig(vocab_size=len(bert), hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4,
                                intermediate_size=37)).eval()
    return HunyuanDiTPipeline(
        vae=_vae(**FACTOR_8), text_encoder=text, tokenizer=bert, transformer=transformer, scheduler=DDPMScheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        text_encoder_2=_t5_text(t5), tokenizer_2=t5,
    )


def sana() -> Any:
    """SANA: linear attention, convolutional feed-forward, a deep-compression autoencoder."""
    from diffusers import AutoencoderDC, FlowMatchEulerDiscreteScheduler, SanaPipeline, SanaTransformer2DModel

    tokenizer = _gemma_tokenizer()
    transformer = SanaTransformer2DModel(
        sample_size=16, patch_size=1, in_channels=LATENT, out_channels=LATENT, num_layers=2, num_attention_heads=4,
        attention_head_dim=8, num_cross_attention_heads=4, cross_attention_head_dim=8, cross_attention_dim=32,
        caption_channels=WIDTH,
    ).eval()
    vae = AutoencoderDC(
        in_channels=3, latent_channels=LATENT, attention_head_dim=2, encoder_block_types=("ResBlock",) * 2,
        decoder_block_types=("ResBlock",) * 2, encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1), encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()), downsample_block_type="conv", upsample_block_type="interpolate",
        decoder_norm_types="rms_norm", decoder_act_fns="silu", scaling_factor=0.41407,
    ).eval()
    return SanaPipeline(tokenizer=tokenizer, text_encoder=_gemma_text(tokenizer), vae=vae, transformer=transformer,
                        scheduler=FlowMatchEulerDiscreteScheduler())


def lumina2() -> Any:
    """Lumina 2: its forward looks at the values of masks, so it is traced within its pipeline."""
    from diffusers import FlowMatchEulerDiscreteScheduler, Lumina2Pipeline, Lumina2Transformer2DModel

    tokenizer = _gemma_tokenizer()
    transformer = Lumina2Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=LATENT, out_channels=LATENT, hidden_size=24, num_layers=2,
        num_refiner_layers=1, num_attention_heads=3, num_kv_heads=1, multiple_of=16, axes_dim_rope=(4, 2, 2),
        axes_lens=(300, 64, 64), cap_feat_dim=WIDTH,
    ).eval()
    return Lumina2Pipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(), vae=_vae(shift_factor=0.06, **FACTOR_8),
        text_encoder=_gemma_text(tokenizer), tokenizer=tokenizer,
    )


def ddpm() -> Any:
    """Unconditional DDPM: a U-Net on pixels, no prompt, no autoencoder."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    unet = UNet2DModel(
        sample_size=16, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8, attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ).eval()
    return DDPMPipeline(unet=unet, scheduler=DDPMScheduler())


def _seeded(build: Callable[[], Any]) -> Callable[[], Any]:
    """`build` with the same weights every time; the caller's random state is left as it was."""

    def built() -> Any:
        import torch

        from engine.models.quiet import quiet

        with torch.random.fork_rng(devices=[]), quiet():
            torch.manual_seed(SEED)
            pipeline = build()
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    built.__doc__ = build.__doc__
    return built


TINY: dict[str, Callable[[], Any]] = {
    build.__name__.replace("_", "-"): _seeded(build)
    for build in (sd1, sd2, sdxl, sd3, flux, pixart_alpha, pixart_sigma, dit, hunyuan, sana, lumina2, ddpm)
}
