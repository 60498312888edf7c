"""Networks and inputs with the shapes of Stable Diffusion and random weights; nothing is downloaded."""

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
TOKENS = 77
TEXT_WIDTH = 768
GUIDANCE_WIDTH = 512

UNET = dict(
    sample_size=64,
    block_out_channels=(320, 640, 1280, 1280),
    layers_per_block=2,
    attention_head_dim=8,  # eight heads: diffusers counts them under this name
    cross_attention_dim=TEXT_WIDTH,
    time_cond_proj_dim=GUIDANCE_WIDTH,
)

UNET_XL = dict(
    sample_size=128,
    block_out_channels=(320, 640, 1280),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    layers_per_block=2,
    attention_head_dim=(5, 10, 20),
    transformer_layers_per_block=(1, 2, 10),
    use_linear_projection=True,
    cross_attention_dim=2048,
    time_cond_proj_dim=GUIDANCE_WIDTH,
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
)

FAMILIES = {"sd15": UNET, "sdxl": UNET_XL}

VAE = dict(
    sample_size=512,
    block_out_channels=(128, 256, 512, 512),
    layers_per_block=2,
    latent_channels=4,
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    scaling_factor=0.18215,
)

CLIP = dict(
    vocab_size=49408,
    hidden_size=TEXT_WIDTH,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_attention_heads=12,
    max_position_embeddings=TOKENS,
    hidden_act="quick_gelu",
)

TRAINED = dict(
    sample_size=16,
    in_channels=4,
    out_channels=4,
    block_out_channels=(32, 64),
    layers_per_block=2,
    down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    attention_head_dim=4,  # four heads at both levels, 8 and 16 wide
    cross_attention_dim=64,
    norm_num_groups=8,
)


def unet(args):
    """The guidance-distilled UNet: 860 million weights for SD1.5, 2.6 billion for SDXL."""
    with torch.device(args.device):
        return ready(UNet2DConditionModel(**FAMILIES[args.family]), args)


def vae(args):
    """The autoencoder, 84 million weights."""
    return ready(AutoencoderKL(**VAE), args)


def clip(args):
    """The text encoder of CLIP ViT-L/14, 123 million weights."""
    return ready(CLIPTextModel(CLIPTextConfig(**CLIP)), args)


def trained(args):
    """The small UNet of the training step, 1,577,828 weights, in training mode and f32."""
    network = UNet2DConditionModel(**TRAINED).train()
    return network.to(args.device, memory_format=memory_format(args))


def ready(module, args):
    """Puts a network into the wanted number and memory format, for inference."""
    module = module.to(args.device, DTYPES[args.dtype])
    return module.eval().requires_grad_(False).to(memory_format=memory_format(args))


def memory_format(args):
    """How the side at hand lays pictures out."""
    return torch.channels_last if getattr(args, "channels_last", False) else torch.contiguous_format


def noise(args, *shape):
    """Normal numbers; pictures and latents in the wanted memory format."""
    values = torch.randn(shape, device=args.device).to(DTYPES[args.dtype])
    return values.contiguous(memory_format=memory_format(args)) if len(shape) == 4 else values


def latents(args, rows):
    """Latents of pictures of the wanted size, (rows, 4, size / 8, size / 8)."""
    return noise(args, rows, 4, args.size // 8, args.size // 8)


def pictures(args, rows):
    """Pictures in -1..1, (rows, 3, size, size)."""
    return noise(args, rows, 3, args.size, args.size).clamp_(-1, 1)


def prompts(args, rows):
    """Token numbers of full prompts, (rows, 77)."""
    return torch.randint(0, 49406, (rows, TOKENS), device=args.device)


def conditions(args, rows):
    """What the UNet takes beside the latents: time step, embedded text, embedded guidance and SDXL's additions."""
    text = noise(args, rows, TOKENS, FAMILIES[args.family]["cross_attention_dim"])
    time = torch.tensor(499, device=args.device)
    return time, text, noise(args, rows, GUIDANCE_WIDTH), added(args, rows)


def added(args, rows):
    """The pooled text (rows, 1280) and the six sizes of SDXL; nothing for SD1.5."""
    if args.family == "sd15":
        return None
    sizes = torch.tensor([[1024.0, 1024.0, 0.0, 0.0, 1024.0, 1024.0]] * rows, device=args.device)
    return {"text_embeds": noise(args, rows, 1280), "time_ids": sizes.to(DTYPES[args.dtype])}
