"""What diffusers and transformers compute, in double precision, with a Stable Diffusion 1.5 of full size.

    python full_size.py sd15 DIR --dtype f32 --tokenizer TOKENIZER && python full_networks.py DIR
    ICD_FULL=DIR cargo test full_size

Writes DIR/networks.safetensors: inputs, and the outputs of the UNet (without adapters, 2 rows, 64x64 latents), the
autoencoder (512 pixels) and the text encoder. Takes some minutes and 16 GB of memory.
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
    folder = parser.parse_args().folder
    torch.manual_seed(0)
    results = {}
    for network in (text_encoder, unet, autoencoder):
        results |= network(folder)
    single = {name: value.float().contiguous() for name, value in results.items() if value.is_floating_point()}
    save_file(single, folder / "networks.safetensors")


def text_encoder(folder):
    """Tokens (2, 77) to states (2, 77, 768); the tokens are 320 + 7 i and 320 + 11 i."""
    clip = CLIPTextModel.from_pretrained(folder / "text_encoder").double()
    tokens = torch.stack([320 + step * torch.arange(77) for step in (7, 11)])
    return {"text_states": clip(tokens).last_hidden_state}


def unet(folder):
    """Two rows of other times, guidance and text to their noise."""
    network = UNet2DConditionModel.from_pretrained(folder / "unet").double()
    latent, text = single_precision(torch.randn(2, 4, 64, 64)), single_precision(torch.randn(2, 77, 768))
    guidance = guidance_embedding(GUIDANCE, network.config.time_cond_proj_dim).double()
    eps = network(latent, torch.tensor(TIMES), encoder_hidden_states=text, timestep_cond=guidance).sample
    return {"unet_latent": latent, "unet_text": text, "unet_eps": eps}


def autoencoder(folder):
    """A picture (1, 3, 512, 512) to its scaled mean latent, and a scaled latent to its picture."""
    vae = AutoencoderKL.from_pretrained(folder / "vae").double()
    scale = vae.config.scaling_factor
    picture = single_precision(torch.rand(1, 3, 512, 512) * 2 - 1)
    latent = single_precision(torch.randn(1, 4, 64, 64) * scale)
    return {
        "vae_picture": picture,
        "vae_mean": vae.encode(picture).latent_dist.mean * scale,
        "vae_latent": latent,
        "vae_decoded": vae.decode(latent / scale).sample,
    }


def single_precision(x):
    """The same numbers as f32 holds them, in f64."""
    return x.float().double()


if __name__ == "__main__":
    main()
