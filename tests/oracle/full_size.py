"""Writes a Stable Diffusion 1.5 or SDXL of full size with random weights, and its two adapters.

    python full_size.py sd15 OUT --dtype f32 --tokenizer DIR

The folder loads like a released one and takes as long to run; its pictures mean nothing. Weights
are written one after another, so that it needs little memory. The tokenizer files are copied from
a diffusers folder (or a folder with vocab.json and merges.txt) given by --tokenizer.
"""

import argparse
import json
import shutil
import struct
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

import tiny

DTYPES = {"f32": ("F32", torch.float32), "f16": ("F16", torch.float16)}
RANK = 64

VAE = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
}
TEXT = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "bos_token_id": 49406,
    "eos_token_id": 49407,
}
SD15 = {
    "path": "sd",
    "pipeline": "StableDiffusionPipeline",
    "vae": VAE | {"sample_size": 512, "scaling_factor": 0.18215},
    "text": {"text_encoder": (CLIPTextModel, TEXT)},
    "unet": {
        "sample_size": 64,
        "block_out_channels": [320, 640, 1280, 1280],
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "attention_head_dim": 8,
        "cross_attention_dim": 768,
        "time_cond_proj_dim": 512,
    },
}
SDXL = {
    "path": "sdxl",
    "pipeline": "StableDiffusionXLPipeline",
    "vae": VAE | {"sample_size": 1024, "scaling_factor": 0.13025},
    "text": {
        "text_encoder": (CLIPTextModel, TEXT),
        "text_encoder_2": (
            CLIPTextModelWithProjection,
            TEXT
            | {
                "hidden_size": 1280,
                "intermediate_size": 5120,
                "num_hidden_layers": 32,
                "num_attention_heads": 20,
                "projection_dim": 1280,
                "hidden_act": "gelu",
            },
        ),
    },
    "unet": {
        "sample_size": 128,
        "block_out_channels": [320, 640, 1280],
        "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
        "up_block_types": ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"],
        "attention_head_dim": [5, 10, 20],
        "transformer_layers_per_block": [1, 2, 10],
        "use_linear_projection": True,
        "cross_attention_dim": 2048,
        "time_cond_proj_dim": 512,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
FAMILIES = {"sd15": SD15, "sdxl": SDXL}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("out", type=Path)
    parser.add_argument("--dtype", choices=DTYPES, default="f16")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    generator = torch.Generator().manual_seed(args.seed)
    write_model(FAMILIES[args.family], args.out, args.dtype, generator)
    for part in FAMILIES[args.family]["text"]:
        copy_tokenizer(args.tokenizer, args.out, part.replace("text_encoder", "tokenizer"))


def write_model(family, out, dtype, generator):
    """Writes every network of `family`, the adapters and the settings."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**family["unet"])
        vae = AutoencoderKL(**family["vae"])
        texts = {
            part: cls(CLIPTextConfig(**config)) for part, (cls, config) in family["text"].items()
        }
    for part, network in [("unet", unet), ("vae", vae)]:
        network.save_config(out / part)
        name = "diffusion_pytorch_model.safetensors"
        write_weights(out / part / name, shapes(network), dtype, generator)
    for part, network in texts.items():
        network.config.save_pretrained(out / part)
        named = {hub_name(name): shape for name, shape in shapes(network).items()}
        write_weights(out / part / "model.safetensors", named, dtype, generator)
    for name in tiny.adapter_names(family["path"]).values():
        write_weights(out / f"{name}.safetensors", adapter_shapes(unet), dtype, generator)
    tiny.write_scheduler(out)
    tokenizers = [part.replace("text_encoder", "tokenizer") for part in texts]
    tiny.write_index(out, family["pipeline"], [*texts, *tokenizers, "unet", "vae"])
    tiny.write_settings(out, family["path"])


def shapes(network):
    """Name to shape of every weight."""
    return {name: list(weight.shape) for name, weight in network.named_parameters()}


def hub_name(name):
    """A text encoder's weight as the published checkpoints name it."""
    plain = name.startswith(("text_model.", "text_projection."))
    return name if plain else f"text_model.{name}"


def adapter_shapes(unet):
    """The two factors of every adapted layer, with PEFT's names."""
    suffixes = set(tiny.FORWARD_LAYERS) | set(tiny.REVERSE_LAYERS)
    out = {}
    for name, shape in shapes(unet).items():
        layer = name.removesuffix(".weight")
        if layer != name and any(layer.endswith(f".{suffix}") for suffix in suffixes):
            rows, columns, *kernel = shape
            out[f"{tiny.PEFT_PREFIX}{layer}.lora_A.weight"] = [RANK, columns, *kernel]
            out[f"{tiny.PEFT_PREFIX}{layer}.lora_B.weight"] = [rows, RANK, *(1 for _ in kernel)]
    return out


def write_weights(path, named, dtype, generator):
    """A safetensors file: the header's length and the header in JSON, then the weights in turn."""
    code, torch_dtype = DTYPES[dtype]
    header, offset = {}, 0
    for name, shape in named.items():
        end = offset + torch.Size(shape).numel() * torch_dtype.itemsize
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header | {"__metadata__": {"format": "pt"}}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in named.items():
            file.write(drawn(name, shape, generator).to(torch_dtype).numpy().tobytes())


def drawn(name, shape, generator):
    """Random values that keep the activations near one in size."""
    value = torch.randn(shape, generator=generator)
    if "lora_B" in name:
        return value * 0.02
    if "embedding.weight" in name:
        return value * 0.5
    if len(shape) > 1:
        gain = next((gain for part, gain in tiny.GAINS.items() if part in name), 0.7)
        return value * (min(gain, 1.0) / value[0].numel() ** 0.5)
    centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
    return centre + 0.05 * value


def copy_tokenizer(source, out, part):
    """Copies the tokenizer's files; `source` holds them, or a folder `part` with them."""
    folder = next(
        (f for f in (source / part, source / "tokenizer", source) if (f / "vocab.json").exists()),
        None,
    )
    if folder is None:
        raise SystemExit(f"{source}: no vocab.json, nor in {part}/ or tokenizer/ below it")
    (out / part).mkdir(parents=True, exist_ok=True)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).exists():
            shutil.copyfile(folder / name, out / part / name)


if __name__ == "__main__":
    main()
