"""Whether diffusers and peft read what `icd model convert` writes.

    cargo build --release && python convert.py ../../target/release/icd

A tiny UNet is saved as a PyTorch state dict and an adapter of rank 4 with PEFT's names. The program makes safetensors
of the one, merges the other into it, and names the adapter as diffusers and as kohya's scripts do. diffusers loads all
of these, and each output is compared with that of peft's own model. Fails where one is more than 1e-5 apart.
"""

import argparse
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_lora_to_diffusers
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tiny import ALPHA, FORWARD_LAYERS, REVERSE_LAYERS, fill

LAYERS = sorted(set(FORWARD_LAYERS + REVERSE_LAYERS))
NAME = "forward-19-259-519-779.safetensors"
TOLERANCE = 1e-5


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("icd", type=Path)
    icd = parser.parse_args().icd.resolve()
    with TemporaryDirectory() as folder:
        folder = Path(folder)
        expected = write(folder)

        def convert(*words):
            subprocess.run([icd, "model", "convert", *words], cwd=folder, check=True)

        gaps = {read.__name__: gap(read(folder, convert), expected) for read in READERS}
    for name, value in gaps.items():
        print(f"{name}: {value:.1e} apart")
    assert max(gaps.values()) < TOLERANCE


def tiny_unet():
    return fill(
        UNet2DConditionModel(
            sample_size=8,
            layers_per_block=1,
            block_out_channels=(8, 16),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            norm_num_groups=2,
            attention_head_dim=2,
            cross_attention_dim=12,
            time_cond_proj_dim=16,
        ),
        seed=5,
    )


@torch.no_grad()
def write(folder):
    """Writes unet.pt, config.json and the adapter; gives the output of both in peft."""
    unet = tiny_unet()
    torch.save(unet.state_dict(), folder / "unet.pt")
    unet.save_config(folder)
    model = get_peft_model(unet, LoraConfig(r=4, lora_alpha=ALPHA, target_modules=LAYERS))
    generator = torch.Generator().manual_seed(9)
    weights = get_peft_model_state_dict(model)
    for name, value in sorted(weights.items()):
        weights[name] = torch.randn(value.shape, generator=generator) / value[0].numel() ** 0.5
    assert not set_peft_model_state_dict(model, weights).unexpected_keys
    save_file({f"unet.{name}": value for name, value in weights.items()}, folder / NAME)
    plain, changed = output(tiny_unet()), output(model)
    assert gap(plain, changed) > 0.1, "the adapter changes nothing"
    return changed


@torch.no_grad()
def output(unet):
    generator = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    return unet(draw(2, 4, 8, 8), 519, draw(2, 5, 12), timestep_cond=draw(2, 16)).sample


def gap(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def merged_folder(folder, convert):
    convert("unet.pt", "unet.safetensors")
    stored, given = load_file(folder / "unet.safetensors"), torch.load(folder / "unet.pt")
    assert stored.keys() == given.keys()
    assert all(torch.equal(stored[name], value) for name, value in given.items())
    convert("unet.safetensors", "merged", "--adapter", NAME)
    return output(UNet2DConditionModel.from_pretrained(folder / "merged"))


def diffusers_names(folder, convert):
    convert(NAME, "diffusers.safetensors", "--naming", "diffusers")
    unet = tiny_unet()
    unet.load_lora_adapter(folder, weight_name="diffusers.safetensors", prefix="unet")
    return output(unet)


def kohya_names(folder, convert):
    convert(NAME, "kohya.safetensors", "--naming", "kohya")
    weights, alphas = _convert_non_diffusers_lora_to_diffusers(load_file(folder / "kohya.safetensors"))
    unet = tiny_unet()
    unet.load_lora_adapter(weights, network_alphas=alphas, prefix="unet")
    return output(unet)


def peft_names_again(folder, convert):
    convert("kohya.safetensors", "peft.safetensors", "--naming", "peft")
    weights, given = load_file(folder / "peft.safetensors"), load_file(folder / NAME)
    assert weights.keys() == given.keys()
    with safe_open(folder / "peft.safetensors", "pt") as file:
        notes = file.metadata()
    assert notes["icd.path"] == "19,259,519,779,999", notes
    config = LoraConfig(r=4, lora_alpha=float(notes["icd.alpha"]), target_modules=LAYERS)
    model = get_peft_model(tiny_unet(), config)
    weights = {name.removeprefix("unet."): value for name, value in weights.items()}
    assert not set_peft_model_state_dict(model, weights).unexpected_keys
    return output(model)


READERS = (merged_folder, diffusers_names, kohya_names, peft_names_again)

if __name__ == "__main__":
    main()
