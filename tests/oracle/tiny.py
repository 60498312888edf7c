"""Two tiny random models, one per family, in the folder layouts of diffusers.

Every weight is drawn from a seeded generator and stored in half precision, so that the folders
come out the same each time. The widths are as small as the layers allow; the structure is whole.
"""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from vocabulary import END, write_tokenizer

ALPHA = 8
# Weights drawn larger or smaller than their width asks for: peaked attention maps that differ from
# place to place, as those of a trained network do, and gentle residuals, for a deep random network
# would otherwise magnify every rounding error.
GAINS = {
    "attn2.to_q.": 4.0,
    "attn2.to_k.": 4.0,
    "attn1.to_q.": 1.5,
    "attn1.to_k.": 1.5,
    "conv_in.": 4.0,
    "time_emb_proj.": 0.3,
    "to_out.0.": 0.4,
    "ff.net.2.": 0.4,
    "conv2.": 0.4,
    "proj_out.": 0.5,
}
# The layers that the released adapters change, in two halves: to save bytes each adapter here
# changes one half of them.
FORWARD_LAYERS = (
    "to_k to_out.0 proj_in ff.net.0.proj conv1 conv_shortcut "
    "downsamplers.0.conv upsamplers.0.conv time_emb_proj"
).split()
REVERSE_LAYERS = "to_q to_v to_out.0 proj_out ff.net.2 conv2 conv_shortcut time_emb_proj".split()
PEFT_PREFIX = "unet.base_model.model."
PATHS = {
    "sd": ([19, 259, 519, 779, 999], [999, 779, 519, 259, 0]),
    "sdxl": ([19, 249, 499, 699, 999], [999, 699, 499, 249, 0]),
}


def adapter_names(family):
    """The names of the released adapter files: they carry the timesteps of their path."""
    forward, reverse = PATHS[family]
    names = ("forward", forward[:-1]), ("reverse", reverse[-2::-1])
    return {kind: "-".join([kind, *map(str, steps)]) for kind, steps in names}


def write_sd(folder):
    """The Stable Diffusion 1.5 family: three attentive levels and a plain one."""
    vocabulary = write_tokenizer(folder / "tokenizer", length=32, pad=END)
    text = text_config(vocabulary, 12, 32, "quick_gelu", eos_token_id=vocabulary - 1)
    save_text(folder / "text_encoder", CLIPTextModel(text), seed=1, prefix="text_model.")
    save_vae(folder / "vae", scaling_factor=0.18215, seed=2)
    unet = UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(4, 4, 8, 8),
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        norm_num_groups=2,
        attention_head_dim=2,  # the number of heads, in spite of its name
        cross_attention_dim=12,
        time_cond_proj_dim=16,
    )
    fill(unet, seed=119).half().save_pretrained(folder / "unet")
    write_part(folder)
    write_adapters(folder, "sd", {"forward": (2, 4), "reverse": (3, 5)})
    write_namings(folder, adapter_names("sd")["forward"])
    write_scheduler(folder)
    write_index(folder, "StableDiffusionPipeline", ["text_encoder", "tokenizer", "unet", "vae"])
    write_settings(folder, "sd")


def write_sdxl(folder):
    """The SDXL family: two text encoders, pooled text and sizes as added conditioning."""
    vocabulary = write_tokenizer(folder / "tokenizer", length=77, pad=END)
    write_tokenizer(folder / "tokenizer_2", length=77, pad="!")
    # The published configurations carry the end token of an older vocabulary: 2.
    first = text_config(vocabulary, 12, 77, "quick_gelu", eos_token_id=2)
    second = text_config(vocabulary, 16, 77, "gelu", eos_token_id=2)
    save_text(folder / "text_encoder", CLIPTextModel(first), seed=6)
    save_text(folder / "text_encoder_2", CLIPTextModelWithProjection(second), seed=7)
    save_vae(folder / "vae", scaling_factor=0.13025, seed=8)
    unet = UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(4, 8, 8),
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",),
        norm_num_groups=2,
        attention_head_dim=(1, 2, 4),  # the numbers of heads, in spite of its name
        transformer_layers_per_block=(1, 1, 2),
        use_linear_projection=True,
        cross_attention_dim=28,
        time_cond_proj_dim=16,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 10,
    )
    fill(unet, seed=149).half().save_pretrained(folder / "unet", max_shard_size="60KB")
    write_adapters(folder, "sdxl", {"forward": (2, 10), "reverse": (3, 11)})
    write_scheduler(folder)
    parts = ["text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "vae"]
    write_index(folder, "StableDiffusionXLPipeline", parts)
    write_settings(folder, "sdxl")


def text_config(vocabulary, width, length, activation, eos_token_id):
    """A text encoder of two layers and two heads."""
    return CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=length,
        hidden_act=activation,
        projection_dim=10,
        bos_token_id=0,
        eos_token_id=eos_token_id,
    )


def fill(module, seed):
    """Draws every weight of `module`: see GAINS."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in sorted(module.named_parameters()):
        drawn = torch.randn(weight.shape, generator=generator)
        if "embedding.weight" in name:
            value = 0.8 * drawn
        elif weight.dim() > 1:
            gain = next((gain for part, gain in GAINS.items() if part in name), 1.0)
            value = drawn * gain / weight[0].numel() ** 0.5
        else:
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            value = centre + 0.1 * drawn
        weight.data.copy_(value)
    return module.eval()


def save_text(folder, encoder, seed, prefix=""):
    """Saves a text encoder; `prefix` names the weights as older releases of transformers do."""
    fill(encoder, seed).half().save_pretrained(folder)
    path = folder / "model.safetensors"
    weights = {prefix + name: value for name, value in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})


def save_vae(folder, scaling_factor, seed):
    """An autoencoder of four levels: eight pixels to a latent."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 4, 4),
        layers_per_block=1,
        norm_num_groups=2,
        scaling_factor=scaling_factor,
        sample_size=64,
    )
    fill(vae, seed).half().save_pretrained(folder)


def write_part(folder):
    """A few of the UNet's weights as a PyTorch state dict, the other format of the release."""
    weights = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    kept = ("conv_in.", "time_embedding.", "down_blocks.0.resnets.0.")
    part = {name: value for name, value in weights.items() if name.startswith(kept)}
    torch.save(part, folder / "unet_part.pt")


def write_adapters(folder, family, plans):
    """Writes the two adapters with PEFT's names; a plan is (rank, seed)."""
    layers = {"forward": FORWARD_LAYERS, "reverse": REVERSE_LAYERS}
    for kind, (rank, seed) in plans.items():
        config = LoraConfig(r=rank, lora_alpha=ALPHA, target_modules=layers[kind])
        weights = get_peft_model_state_dict(get_peft_model(load_unet(folder), config))
        generator = torch.Generator().manual_seed(seed)
        drawn = {}
        for name in sorted(weights):
            width = weights[name][0].numel()
            scale = 1.0 if "lora_A" in name else 0.15 * rank**0.5 / ALPHA
            value = torch.randn(weights[name].shape, generator=generator) * scale
            drawn["unet." + name] = (value / width**0.5).half().contiguous()
        save_file(drawn, folder / f"{adapter_names(family)[kind]}.safetensors")


def write_namings(folder, name):
    """The same adapter as diffusers and as kohya's scripts name it."""
    weights = load_file(folder / f"{name}.safetensors")
    plain = {key.removeprefix(PEFT_PREFIX): value for key, value in weights.items()}
    StableDiffusionPipeline.save_lora_weights(
        folder, unet_lora_layers=plain, weight_name=f"{name}.diffusers.safetensors"
    )
    kohya = {}
    for key, value in plain.items():
        module, side = key.removesuffix(".weight").rsplit(".", 1)
        base = "lora_unet_" + module.replace(".", "_")
        kohya[f"{base}.{'lora_down' if side == 'lora_A' else 'lora_up'}.weight"] = value
        kohya[f"{base}.alpha"] = torch.tensor(ALPHA).half()
    save_file(kohya, folder / f"{name}.kohya.safetensors")


def load_unet(folder):
    """The UNet of `folder` in f32, from its rounded weights."""
    return UNet2DConditionModel.from_pretrained(folder / "unet", dtype=torch.float32)


def write_scheduler(folder):
    """The noise schedule; the sampler named is the pipeline's, not the one used here."""
    (folder / "scheduler").mkdir(exist_ok=True)
    write_json(
        folder / "scheduler" / "scheduler_config.json",
        {
            "_class_name": "DDIMScheduler",
            "num_train_timesteps": 1000,
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "prediction_type": "epsilon",
            "set_alpha_to_one": False,
            "steps_offset": 1,
            "clip_sample": False,
        },
    )


def write_index(folder, pipeline, parts):
    """model_index.json: which class reads which folder."""
    classes = {
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    index = {"_class_name": pipeline, "scheduler": ["diffusers", "DDIMScheduler"]}
    write_json(folder / "model_index.json", index | {part: classes[part] for part in parts})


def write_settings(folder, family):
    """icd.toml: the adapters, their strength and the paths they were distilled on."""
    forward, reverse = PATHS[family]
    names = adapter_names(family)
    lines = [
        f'forward_adapter = "{names["forward"]}.safetensors"',
        f'reverse_adapter = "{names["reverse"]}.safetensors"',
        f"forward_path = {forward}",
        f"reverse_path = {reverse}",
        f"adapter_alpha = {ALPHA}",
    ]
    Path(folder, "icd.toml").write_text("\n".join(lines) + "\n")


def write_json(path, value, indent=2):
    """Writes `value` to `path` as JSON."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
