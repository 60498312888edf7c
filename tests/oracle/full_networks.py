"""What diffusers and transformers compute, in double precision, with a Stable Diffusion 1.5 of full size.

    python full_size.py sd15 DIR --dtype f32 --tokenizer TOKENIZER && python full_networks.py DIR
    ICD_FULL=DIR cargo test full_size

Writes DIR/networks.safetensors: inputs, and the outputs of the UNet (without adapters, 2 rows, 64x64 latents), the
autoencoder (512 pixels) and the text encoder; and as `NAME_bf16` what PyTorch computes in bf16, whose error ours in bf16
is compared with. Takes some minutes and 16 GB of memory; `--size 256` takes a quarter of both.
"""

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextModel

from walk import guidance_embedding

TIMES, GUIDANCE = [779, 259], [0.0, 19.0]


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=512, help="side of the picture in pixels")
    args = parser.parse_args()
    results = {}
    for network in (text_encoder, unet, autoencoder):
        results |= computed(network, args, torch.float64)
        rounded = computed(network, args, torch.bfloat16)
        results |= {f"{name}_bf16": value for name, value in rounded.items()}
    single = {name: value.float().contiguous() for name, value in results.items() if value.is_floating_point()}
    save_file(single, args.folder / "networks.safetensors")


def computed(network, args, dtype):
    """What a network makes of the same inputs in this dtype."""
    torch.manual_seed(0)
    return network(args.folder, args.size, dtype)


def text_encoder(folder, _, dtype):
    """Tokens (2, 77) to states (2, 77, 768); the tokens are 320 + 7 i and 320 + 11 i."""
    clip = CLIPTextModel.from_pretrained(folder / "text_encoder").to(dtype)
    tokens = torch.stack([320 + step * torch.arange(77) for step in (7, 11)])
    return {"text_states": clip(tokens).last_hidden_state}


def unet(folder, size, dtype):
    """Two rows of other times, guidance and text to their noise."""
    network = UNet2DConditionModel.from_pretrained(folder / "unet").to(dtype)
    side = size // 8
    latent, text = single_precision(torch.randn(2, 4, side, side)), single_precision(torch.randn(2, 77, 768))
    guidance = guidance_embedding(GUIDANCE, network.config.time_cond_proj_dim).to(dtype)
    given = dict(encoder_hidden_states=text.to(dtype), timestep_cond=guidance)
    eps = network(latent.to(dtype), torch.tensor(TIMES), **given).sample
    return {"unet_latent": latent, "unet_text": text, "unet_eps": eps}


def autoencoder(folder, size, dtype):
    """A picture (1, 3, size, size) to its scaled mean latent, and a scaled latent to its picture."""
    vae = AutoencoderKL.from_pretrained(folder / "vae").to(dtype)
    scale = vae.config.scaling_factor
    picture = single_precision(torch.rand(1, 3, size, size) * 2 - 1)
    latent = single_precision(torch.randn(1, 4, size // 8, size // 8) * scale)
    return {
        "vae_picture": picture,
        "vae_mean": vae.encode(picture.to(dtype)).latent_dist.mean * scale,
        "vae_latent": latent,
        "vae_decoded": vae.decode((latent / scale).to(dtype)).sample,
    }


def single_precision(x):
    """The same numbers as f32 holds them, in f64."""
    return x.float().double()


if __name__ == "__main__":
    main()
