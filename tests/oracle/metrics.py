"""Measures of two pictures by torchmetrics, lpips, timm, transformers and torchvision.

    oracle tests/oracle/metrics.py              # tests/data/metrics.json: tiny networks
    oracle tests/oracle/metrics.py --full DIR   # the published sizes: weights and values in DIR

The weights are drawn by a formula that `tests/it/metrics.rs` has, too, so that no file holds them.
Needs torchmetrics, lpips, timm, torchvision and scikit-image beside `requirements.txt`.
"""

import argparse
import json
import re
from pathlib import Path

import lpips
import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from skimage.metrics import structural_similarity
from timm.models.vision_transformer import VisionTransformer
from torchmetrics.functional.image.lpips import _LPIPS
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure
from torchmetrics.regression import MeanSquaredError
from torchvision.transforms import Normalize, Resize
from transformers import (
    BitImageProcessorPil,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTModel,
)

DATA = Path(__file__).resolve().parents[1] / "data"
TOKENIZER = DATA / "sd" / "tokenizer"
PROMPTS = ["the cat on the palm tree", "the dog's hat on the woodpecker"]
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SALT = 7
TINY = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2}
BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}


def drawn(name, shape):
    """Weights that follow from their name and shape."""
    salt = SALT
    for byte in name.encode():
        salt = (salt ^ byte) * 16777619 % 2**32
    count = int(np.prod(shape))
    bits = (np.arange(count, dtype=np.uint64) * 2654435761 + salt) % 2**32
    bits ^= bits >> 16
    bits = bits * 73244475 % 2**32
    bits ^= bits >> 16
    unit = 2 * (bits.astype(np.float64) / 2**32) - 1
    if len(shape) >= 2:
        fan_in = count // shape[0]
        values = unit * (3 / fan_in) ** 0.5 if fan_in > 1 else 0.5 * unit
    elif name.endswith(("weight", "gamma", "lambda1")):
        values = 1 + 0.2 * unit
    else:
        values = 0.2 * unit
    return torch.from_numpy(values.astype(np.float32).reshape(shape))


def fill(module, names=str):
    """Draws all weights of a module; their names in a file are `names` of those in the module."""
    state = {
        names(name): drawn(names(name), tuple(value.shape))
        for name, value in module.state_dict().items()
        if value.is_floating_point() and value.dim() and names(name)
    }
    own = {
        name: state[names(name)] if names(name) in state else value
        for name, value in module.state_dict().items()
    }
    module.load_state_dict(own)
    module.eval()
    return state


def pictures():
    """A photo, the same mirrored, and a mask of what may change."""
    photo = Image.open(DATA / "photo.png").convert("RGB")
    mirrored = photo.transpose(Image.FLIP_LEFT_RIGHT)
    mask = np.zeros((photo.height, photo.width), dtype=np.uint8)
    mask[20:70, 30:80] = 1
    return photo, mirrored, mask


def unit(picture):
    return torch.from_numpy(np.asarray(picture)).permute(2, 0, 1)[None].float() / 255


def masked(picture, mask):
    return Image.fromarray(np.asarray(picture) * mask[:, :, None])


def square(picture):
    return picture.crop((0, 0, picture.height, picture.height)).resize((320, 320))


def likenesses(a, b):
    x, y = unit(a), unit(b)
    ssim = StructuralSimilarityIndexMeasure(data_range=1.0, return_full_image=True)
    mean, full = ssim(x.double(), y.double())
    cut = structural_similarity(
        np.asarray(a), np.asarray(b), gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, channel_axis=2, data_range=255,
    )
    # torchmetrics before 1.4.2 took the mean of this part.
    assert abs(full[..., 5:-5, 5:-5].mean().item() - cut) < 1e-5
    return {
        "psnr": PeakSignalNoiseRatio(data_range=1.0)(x, y).item(),
        "mse": MeanSquaredError()(x[0].contiguous(), y[0].contiguous()).item(),
        "ssim_mirrored": mean.item(),
        "ssim_cut": cut,
    }


def lpips_of(pairs):
    """SqueezeNet and linear layers with random weights."""
    network = _LPIPS(pretrained=True, net="squeeze", pnet_rand=True)
    other = lpips.LPIPS(pretrained=True, net="squeeze", pnet_rand=True, verbose=False)

    def names(name):
        # net.slices.1.3.squeeze.weight in torchmetrics, net.slice2.3.squeeze.weight in lpips
        found = re.match(r"net\.slices?\.?\d+\.(.*)", name)
        if found:
            return f"features.{found[1]}"
        return name if re.match(r"lin\d\.", name) else ""  # those in `lins` are the same

    state = fill(network, names)
    fill(other, names)
    values = []
    for a, b in pairs:
        value = network(unit(a) * 2 - 1, unit(b) * 2 - 1).item()
        assert abs(value - other(unit(a) * 2 - 1, unit(b) * 2 - 1).item()) < 1e-4
        values.append(value)
    return state, values


def clip_of(config, cases):
    network = CLIPModel(CLIPConfig(**config))
    state = fill(network)
    processor = CLIPImageProcessorPil()
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    values = []
    for picture, text in cases:
        pixels = processor(picture, return_tensors="pt")["pixel_values"]
        context = config["text_config"]["max_position_embeddings"]
        tokens = tokenizer(text, truncation=True, max_length=context, return_tensors="pt")
        output = network(pixel_values=pixels, **tokens)
        cosine = torch.nn.functional.cosine_similarity(output.image_embeds, output.text_embeds)
        values.append(max(100 * cosine.item(), 0))
    return state, values


def clip_config(text, vision, projection):
    vocabulary = len(CLIPTokenizer.from_pretrained(TOKENIZER))
    special = {"bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1}
    return {
        "text_config": {"vocab_size": vocabulary, **text, **special},
        "vision_config": {"image_size": 224, **vision},
        "projection_dim": projection,
    }


def structure_of(config, pairs):
    """By timm's network, and by transformers' with the same weights."""
    network = VisionTransformer(
        img_size=224, patch_size=8, num_classes=0, embed_dim=config["hidden_size"],
        depth=config["num_hidden_layers"], num_heads=config["num_attention_heads"],
    )
    state = fill(network)
    taken = []
    network.blocks[-1].attn.qkv.register_forward_hook(lambda _, __, out: taken.append(out))
    normalize = Normalize(MEAN, DEVIATION)

    def similarities(picture, antialias):
        pixels = torch.from_numpy(np.asarray(picture)).permute(2, 0, 1)[None].float()
        network(normalize(Resize(224, max_size=480, antialias=antialias)(pixels)))
        keys = taken.pop().chunk(3, dim=-1)[1][0]
        lengths = keys.norm(dim=1)[:, None]
        return keys @ keys.T / (lengths @ lengths.T).clamp(min=1e-8)

    values = {}
    for antialias in (True, False):
        pair = [
            torch.nn.functional.mse_loss(similarities(a, antialias), similarities(b, antialias)).item()
            for a, b in pairs
        ]
        values["on" if antialias else "off"] = pair
    check_layouts(network, config, state)
    return state, values


def check_layouts(network, config, state):
    """The final states by both libraries, the weights renamed."""
    other = ViTModel(
        ViTConfig(**config, intermediate_size=4 * config["hidden_size"], patch_size=8,
                  image_size=224, layer_norm_eps=1e-6), add_pooling_layer=False)
    renamed = hugging_face(state, config)
    other.load_state_dict({name: renamed[hub_vit(name)] for name in other.state_dict()})
    x = torch.rand(1, 3, 224, 224)
    gap = network.forward_features(x) - other.eval()(x).last_hidden_state
    assert gap.abs().max() < 1e-3


def hub_vit(name):
    name = name.replace("mlp.fc1", "intermediate.dense").replace("mlp.fc2", "output.dense")
    return hub_name(f"encoder.{name.replace('layers.', 'layer.')}" if name[:7] == "layers." else name)


def hugging_face(state, config):
    """timm's names as those of the hub's files."""
    names = {
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "norm": "layernorm",
    }
    for i in range(config["num_hidden_layers"]):
        block, layer = f"blocks.{i}.", f"encoder.layer.{i}."
        names |= {
            f"{block}norm1": f"{layer}layernorm_before",
            f"{block}norm2": f"{layer}layernorm_after",
            f"{block}attn.proj": f"{layer}attention.output.dense",
            f"{block}mlp.fc1": f"{layer}intermediate.dense",
            f"{block}mlp.fc2": f"{layer}output.dense",
        }
    renamed = {}
    for name, value in state.items():
        module, _, kind = name.rpartition(".")
        if name in names:
            renamed[names[name]] = value
        elif module.endswith("attn.qkv"):
            layer = f"encoder.layer.{module.split('.')[1]}.attention.attention"
            for part, third in zip(("query", "key", "value"), value.chunk(3)):
                renamed[f"{layer}.{part}.{kind}"] = third.clone()
        else:
            renamed[f"{names[module]}.{kind}"] = value
    return renamed


def hub_name(name):
    """The name in the hub's files: since version 5, transformers has others for some layers."""
    for new, old in (("q_proj", "attention.query"), ("k_proj", "attention.key"),
                     ("v_proj", "attention.value"), ("o_proj", "output.dense")):
        name = name.replace(f"attention.{new}.", f"attention.{old}.")
    return name


def dinov2_of(config, pairs):
    network = Dinov2Model(Dinov2Config(**config, patch_size=14, image_size=518))
    state = fill(network, hub_name)
    processor = BitImageProcessorPil(
        size={"shortest_edge": 256}, resample=3, crop_size={"height": 224, "width": 224},
        image_mean=list(MEAN), image_std=list(DEVIATION),
    )

    def pooled(picture):
        pixels = processor(picture.convert("RGB"), return_tensors="pt")["pixel_values"]
        return network(pixels).pooler_output

    similarity = torch.nn.functional.cosine_similarity
    return state, [similarity(pooled(a), pooled(b)).item() for a, b in pairs]


def measured(full):
    a, b, mask = pictures()
    rest = 1 - mask
    kept = (masked(a, rest), masked(b, rest))
    if full:
        text = {"max_position_embeddings": 77, "hidden_size": 768, "intermediate_size": 3072,
                "num_hidden_layers": 12, "num_attention_heads": 12}
        vision = {"patch_size": 14, "hidden_size": 1024, "intermediate_size": 4096,
                  "num_hidden_layers": 24, "num_attention_heads": 16}
        sizes = (clip_config(text, vision, 768), BASE, BASE)
    else:
        text = {"max_position_embeddings": 32, "hidden_size": 64, "intermediate_size": 128,
                "num_hidden_layers": 2, "num_attention_heads": 1}
        vision = {"patch_size": 28, "hidden_size": 128, "intermediate_size": 256,
                  "num_hidden_layers": 2, "num_attention_heads": 2}
        sizes = (clip_config(text, vision, 96), TINY, {**TINY, "hidden_size": 64, "num_attention_heads": 1})
    cases = [(a, PROMPTS[0]), (b, PROMPTS[1]), (masked(b, mask), PROMPTS[1])]
    with torch.no_grad():
        squeeze, lpips_values = lpips_of([(a, b), kept])
        clip, clip_values = clip_of(sizes[0], cases)
        dino, structure = structure_of(sizes[1], [(square(a), square(b))])
        dinov2, dinov2_values = dinov2_of(sizes[2], [(a, b)])
    networks = {"lpips": squeeze, "clip": clip, "dino": dino, "dinov2": dinov2}
    values = {
        "whole": likenesses(a, b),
        "preserved": likenesses(*kept),
        "lpips": lpips_values,
        "clip": clip_values,
        "structure": structure,
        "dinov2": dinov2_values,
    }
    return networks, values, sizes


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", type=Path)
    full = parser.parse_args().full
    networks, values, sizes = measured(full is not None)
    if full is None:
        shapes = {
            network: {name: list(value.shape) for name, value in state.items()}
            for network, state in networks.items()
        }
        text = json.dumps({"prompts": PROMPTS, "values": values, "shapes": shapes})
        (DATA / "metrics.json").write_text(text + "\n")
        return
    for network, state in networks.items():
        (full / network).mkdir(parents=True, exist_ok=True)
        state = {name: value.contiguous() for name, value in state.items()}
        save_file(state, full / network / "model.safetensors")
    (full / "dino-hub").mkdir(exist_ok=True)
    save_file(hugging_face(networks["dino"], sizes[1]), full / "dino-hub" / "model.safetensors")
    for file in TOKENIZER.iterdir():
        (full / "clip" / file.name).write_bytes(file.read_bytes())
    (full / "values.json").write_text(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    main()
