"""Writes tests/data: two tiny models and the values that every stage of them must give.

    pip install -r requirements.txt
    python make_golden.py [folder]

The golden values are f32, computed from the half-precision weights of the folders; prompts and
settings are in golden.json. In golden.safetensors:

    noise.*                       seeded normal numbers; first and second come from one generator
    resize.WxH                    photo.png resized, (height, width, 3) in 8 bits (sd)
    text.*, pooled.*              what the UNet reads of a prompt
    vae.mean, logvar, sample      the posterior of square.png, not yet scaled
    vae.decode_in, decode_out     a scaled latent and its picture, -1 to 1 and not clamped
    unet.square, unet.odd         the UNet without an adapter; forward and reverse: with one merged
    inversion.*                   photo.png: the clean scaled latent, noised, after every jump
    NAME.step*, mask*, final      an edit: rows (source, target) after a jump and before its blend,
                                  where the blend lets the target differ, rows after the last blend
"""

import os
import shutil
import sys
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")

import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import AttnProcessor2_0
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.utils import logging

import tiny
from walk import (
    Control,
    Masactrl,
    decode_walk,
    draw,
    encode_text,
    invert,
    pixels,
    predict,
    refine_map,
    replace_map,
    token_ids,
    words_tokens,
)

BIRD = "a photo of a bird standing on a branch"
LEGO = "a photo of a lego bird standing on a branch"
WATERCOLOR = "a watercolor painting of a bird standing on a snowy branch"
DOG = "a photo of a dog standing on a branch"
BUDGERIGAR = "a photo of a budgerigar standing on a house"
LONG = "a small painting of a snowy house by the lake at night, " * 7

TOKENIZED = [
    "",
    BIRD,
    LEGO,
    "A Photo,  of a BUDGERIGAR!? (it's 1984...)\n\tand more ",
    "caf\u00e9 cafe\u0301 \u00c9COLE na\u00efve",
    "stra\u00dfe \u65e5\u672c \U0001f426 \ufb01n",
    "don't we'll I'm they've she'd you're THE'S 'tis",
    "under_score semi;colon a-b/c",
    "<tag> #5 @home 100% x=y~",
    LONG,
]
SPLIT = [BIRD, BUDGERIGAR, "a  Photo, of\ta \U0001f426 bird's caf\u00e9!", LONG]
REFINED = [(BIRD, LEGO), (BIRD, WATERCOLOR), (WATERCOLOR, BIRD), ("", BIRD), (BIRD, LONG)]
REPLACED = [
    (BIRD, DOG),
    (BIRD, BUDGERIGAR),
    (BUDGERIGAR, BIRD),
    ("a budgerigar by the sea and a bird", "a dog by the woodpecker and a budgerigar"),
]
SEED = 10500
TIME_IDS = [1024, 1024, 0, 0, 1024, 1024]

# Whole edits. A control is None, or as walk.Control reads it. Latents are those of photo.png.
SD_EDITS = [
    {
        "name": "edit_none",
        "prompts": [BIRD, LEGO],
        "control": None,
        "guidance": [19.0, 0.8, 0.8],
    },
    {
        "name": "edit_refine_amplify_blend",
        "prompts": [BIRD, LEGO],
        "control": {
            "replace": False,
            "cross": 0.4,
            "self": 0.5,
            "blend": ["bird", "lego"],
            "eq": {"words": ["lego"], "values": [3.0]},
        },
        "guidance": [19.0, 0.8, 0.8],
    },
    {
        "name": "edit_refine_words",
        "prompts": [BIRD, WATERCOLOR],
        "control": {
            "replace": False,
            "cross": {"default_": 0.4, "snowy": [0.2, 0.8], "painting": 1.0},
            "self": 0.25,
            "blend": None,
            "eq": {"words": ["snowy", "watercolor"], "values": [2.0, 5.0]},
        },
        "guidance": [15.0, 0.3, 0.9],
    },
    {
        "name": "edit_replace_blend",
        "prompts": [BIRD, DOG],
        "control": {
            "replace": True,
            "cross": 0.8,
            "self": 0.6,
            "blend": ["bird", "dog"],
            "eq": {"words": ["dog"], "values": [4.0]},
        },
        "guidance": [19.0, 0.7, 0.7],
    },
    {
        "name": "edit_replace_tokens",
        "prompts": [BIRD, BUDGERIGAR],
        "control": {
            "replace": True,
            "cross": 1.0,
            "self": 0.5,
            "blend": [["bird", "branch"], ["budgerigar", "house"]],
            "eq": None,
        },
        "guidance": [11.0, 0.7, 0.7],
    },
    {
        "name": "edit_anchored_refine",
        "prompts": [BIRD, WATERCOLOR],
        "anchor": True,
        "control": {
            "replace": False,
            "cross": 0.4,
            "self": 0.6,
            "blend": None,
            "eq": {"words": ["snowy"], "values": [4.0]},
        },
        "guidance": [19.0, 0.8, 0.8],
    },
    {
        "name": "edit_anchored_replace_blend",
        "prompts": [BIRD, DOG],
        "anchor": True,
        "control": {
            "replace": True,
            "cross": 0.6,
            "self": 0.5,
            "blend": ["bird", "dog"],
            "eq": {"words": ["dog"], "values": [4.0]},
        },
        "guidance": [19.0, 0.8, 0.8],
    },
    {
        "name": "edit_masactrl",
        "prompts": [BIRD, DOG],
        "control": {"masactrl": [1, 4]},
        "guidance": [7.0, 0.8, 0.8],
    },
    {
        "name": "edit_anchored_masactrl",
        "prompts": [BIRD, WATERCOLOR],
        "anchor": True,
        "control": {"masactrl": [2, 1]},
        "guidance": [7.0, 0.8, 0.8],
    },
]
SDXL_EDITS = [
    {
        "name": "edit_keep",
        "prompts": [BIRD, LEGO],
        "early": BIRD,
        "control": None,
        "guidance": [7.0, 0.7, 0.7],
    },
    {
        "name": "edit_push",
        "prompts": [BIRD, LEGO],
        "early": LEGO,
        "control": None,
        "guidance": [19.0, 0.7, 0.7],
    },
    {
        "name": "edit_refine_amplify_blend",
        "prompts": [BIRD, LEGO],
        "early": None,
        "control": {
            "replace": False,
            "cross": 0.4,
            "self": 0.5,
            "blend": ["branch", "branch"],
            "eq": {"words": ["lego"], "values": [3.0]},
        },
        "guidance": [7.0, 0.7, 0.7],
    },
    {
        "name": "edit_masactrl",
        "prompts": [BIRD, LEGO],
        "early": None,
        "control": {"masactrl": [1, 3]},
        "guidance": [7.0, 0.7, 0.7],
    },
]


def main(data):
    """Writes everything afresh under `data`."""
    write_photos(data)
    for family, write, edits in [
        ("sd", tiny.write_sd, SD_EDITS),
        ("sdxl", tiny.write_sdxl, SDXL_EDITS),
    ]:
        folder = data / family
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write(folder)
        write_golden(Model(folder, family), edits, data)
    size = sum(path.stat().st_size for path in data.rglob("*") if path.is_file())
    print(f"{size / 1024:.0f} KiB under {data.name}")


def write_photos(data):
    """A synthetic landscape with a bird, wide and square."""
    data.mkdir(parents=True, exist_ok=True)
    for name, width, height in [("photo.png", 128, 96), ("square.png", 64, 64)]:
        image = Image.new("RGB", (width, height))
        for y in range(height):
            for x in range(width):
                image.putpixel((x, y), (40 + y, 90 + x // 2, 200 - y - x // 4))
        pen = ImageDraw.Draw(image)
        pen.rectangle([0, height * 3 // 4, width, height * 3 // 4 + 5], fill=(90, 60, 30))
        pen.ellipse([width // 3, height // 4, width * 2 // 3, height * 3 // 4], fill=(220, 60, 40))
        left, top = width // 3, height // 3
        beak = [(left, height // 2), (width // 5, top), (left, top)]
        pen.polygon(beak, fill=(250, 200, 30))
        image.save(data / name, optimize=True)


class Model:
    """The networks of one folder, in f32."""

    def __init__(self, folder, family):
        self.folder, self.family = folder, family
        two = family == "sdxl"
        classes = [CLIPTextModel, CLIPTextModelWithProjection][: 1 + two]
        suffixes = ["", "_2"][: 1 + two]
        self.tokenizers = [
            CLIPTokenizer.from_pretrained(folder / f"tokenizer{suffix}") for suffix in suffixes
        ]
        self.encoders = [
            cls.from_pretrained(folder / f"text_encoder{suffix}", dtype=torch.float32)
            for cls, suffix in zip(classes, suffixes)
        ]
        self.vae = AutoencoderKL.from_pretrained(folder / "vae", dtype=torch.float32)
        self.unet = tiny.load_unet(folder)
        names = tiny.adapter_names(family)
        self.forward = merged(folder, names["forward"])
        self.reverse = merged(folder, names["reverse"])
        self.forward_path, self.reverse_path = tiny.PATHS[family]

    def text(self, *prompts):
        return encode_text(list(prompts), self.tokenizers, self.encoders, TIME_IDS)


def merged(folder, name):
    """The UNet with an adapter merged into its weights by PEFT."""
    weights = load_file(folder / f"{name}.safetensors")
    weights = {key.removeprefix("unet."): value.float() for key, value in weights.items()}
    layers = {key.removeprefix("base_model.model.").rsplit(".lora_", 1)[0] for key in weights}
    rank = next(value.shape[0] for key, value in weights.items() if "lora_A" in key)
    config = LoraConfig(r=rank, lora_alpha=tiny.ALPHA, target_modules=sorted(layers))
    model = get_peft_model(tiny.load_unet(folder), config)
    missed = set_peft_model_state_dict(model, weights).unexpected_keys
    assert not missed, missed
    return model.merge_and_unload()


@torch.no_grad()
def write_golden(model, edits, data):
    """Writes golden.safetensors and golden.json of one folder."""
    tensors = {}
    if model.family == "sd":
        add_noise(tensors)
        add_resize(tensors, data)
    add_text(tensors, model)
    add_vae(tensors, model, data)
    settings = {"unet": add_unet(tensors, model)}
    add_inversion(tensors, model, data)
    settings["generate"] = add_generation(tensors, model)
    for edit in edits:
        add_edit(tensors, model, edit)
    tensors = {name: value.contiguous().clone() for name, value in tensors.items()}
    save_file(tensors, model.folder / "golden.safetensors")
    settings |= {
        "source": BIRD,
        "target": LEGO,
        "inversion": {"picture": "photo.png", "seed": SEED, "path": model.forward_path},
        "decoding": {"path": model.reverse_path},
        "edits": edits,
        "tokens": [
            {"prompt": p, "ids": [token_ids(t, [p])[0].tolist() for t in model.tokenizers]}
            for p in TOKENIZED
        ],
    }
    if model.family == "sdxl":
        settings["time_ids"] = TIME_IDS
    else:
        settings |= token_maps(model.tokenizers[0])
    tiny.write_json(model.folder / "golden.json", settings, indent=None)


def token_maps(tokenizer):
    """The tokens of words, and the (source token, target token, share) of refine and replace."""

    def entries(matrix):
        places = matrix.nonzero().tolist()
        return [[i, j, round(matrix[i, j].item(), 6)] for i, j in places]

    return {
        "words": [{"prompt": p, "tokens": words_tokens(tokenizer, p)} for p in SPLIT],
        "refine": [
            {"prompts": pair, "entries": entries(refine_map(tokenizer, *pair)[0])}
            for pair in REFINED
        ],
        "replace": [
            {"prompts": pair, "entries": entries(replace_map(tokenizer, *pair))}
            for pair in REPLACED
        ],
    }


def add_noise(tensors):
    """Normal numbers: short, on and off the blocks of 16, and two draws from one seed."""
    for count in (1, 5, 15, 16, 17, 40):
        tensors[f"noise.seed7.{count}"] = draw(7, (count,))[0]
    first, second = draw(SEED, (1, 4, 5, 3), (1, 4, 5, 3))
    tensors["noise.first"], tensors["noise.second"] = first, second
    tensors["noise.short_first"], tensors["noise.short_second"] = draw(SEED, (3,), (18,))


def add_text(tensors, model):
    """Text states, and in SDXL the pooled text, of short, empty and too long prompts."""
    for name, prompt in [("source", BIRD), ("empty", ""), ("long", LONG)]:
        text = model.text(prompt)
        tensors[f"text.{name}"] = text.states
        if text.added:
            tensors[f"pooled.{name}"] = text.added["text_embeds"]


def add_vae(tensors, model, data):
    """The posterior of square.png, a sample of it, and a decoded latent of another shape."""
    posterior = model.vae.encode(pixels(Image.open(data / "square.png"))).latent_dist
    tensors["vae.mean"], tensors["vae.logvar"] = posterior.mean, posterior.logvar
    generator = torch.Generator().manual_seed(3)
    tensors["vae.sample_seed3"] = posterior.sample(generator)
    latent = draw(4, (1, 4, 3, 5))[0]
    tensors["vae.decode_in"] = latent
    tensors["vae.decode_out"] = model.vae.decode(latent / model.vae.config.scaling_factor).sample


def add_unet(tensors, model):
    """The UNet on a square latent and on an odd one with two rows; and with adapters."""
    square, odd = draw(5, (1, 4, 8, 8), (2, 4, 9, 13))
    tensors["unet.square.in"], tensors["unet.odd.in"] = square, odd
    one, two = model.text(BIRD), model.text(BIRD, LEGO)
    tensors["unet.square.out"] = predict(model.unet, square, 519, [7.0], one)
    tensors["unet.odd.out"] = predict(model.unet, odd, 259, [0.0, 11.0], two)
    tensors["unet.forward.out"] = predict(model.forward, square, 519, [7.0], one)
    tensors["unet.reverse.out"] = predict(model.reverse, square, 519, [7.0], one)
    return {
        "square": {"t": 519, "w": [7.0], "prompts": [BIRD]},
        "odd": {"t": 259, "w": [0.0, 11.0], "prompts": [BIRD, LEGO]},
    }


def add_inversion(tensors, model, data):
    """photo.png inverted: SD 1.5 starts from the posterior's mean, SDXL from a sample."""
    posterior = model.vae.encode(pixels(Image.open(data / "photo.png"))).latent_dist
    shape = posterior.mean.shape
    if model.family == "sdxl":
        posterior_noise, noise = draw(SEED, shape, shape)
        clean = posterior.mean + posterior.std * posterior_noise
    else:
        clean, noise = posterior.mean, draw(SEED, shape)[0]
    clean = clean * model.vae.config.scaling_factor
    tensors["inversion.clean"] = clean
    latents = invert(model.forward, clean, noise, model.forward_path, model.text(BIRD))
    for i, latent in enumerate(latents[1:]):
        tensors[f"inversion.step{i}"] = latent
    tensors["inversion.start"] = latents[0]


def add_generation(tensors, model):
    """One prompt from seeded noise, constant guidance."""
    noise = draw(150, (1, 4, 8, 8))[0]
    steps = decode_walk(model.reverse, noise, model.reverse_path, model.text(LEGO), (7.0, 1.0, 1.0))
    tensors["generate.final"] = steps[-1][2]
    return {"prompt": LEGO, "seed": 150, "latent": [8, 8], "guidance": [7.0, 1.0, 1.0]}


def add_edit(tensors, model, edit):
    """A whole decoding walk from the inverted photo."""
    start = tensors["inversion.step3"]
    model.reverse.set_attn_processor(AttnProcessor2_0())
    control, early = None, None
    if model.family == "sdxl" and edit["control"] is None:
        text, early = model.text(edit["prompts"][1]), model.text(edit["early"]).states
    else:
        text = model.text(*edit["prompts"])
    if edit["control"] is not None and "masactrl" in edit["control"]:
        control = Masactrl(model.reverse, edit["control"]["masactrl"])
    elif edit["control"] is not None:
        count = len(model.reverse_path) - 1
        control = Control(
            model.reverse, model.tokenizers[0], edit["prompts"], count, edit["control"]
        )
    path, guidance = model.reverse_path, edit["guidance"]
    anchors = trajectory(tensors, model.forward_path) if edit.get("anchor") else None
    steps = decode_walk(model.reverse, start, path, text, guidance, control, early, anchors)
    name = edit["name"]
    for i, (jumped, mask, _) in enumerate(steps):
        if name == "edit_refine_amplify_blend" and model.family == "sd":
            tensors[f"{name}.step{i}"] = jumped
        if mask is not None:
            tensors[f"{name}.mask{i}"] = mask.to(torch.uint8)
    tensors[f"{name}.final"] = steps[-1][2]


def trajectory(tensors, path):
    """The latents of the inversion by their timesteps."""
    latents = [tensors[f"inversion.step{i}"] for i in range(len(path) - 1)]
    return {0: tensors["inversion.clean"], **dict(zip(path[1:], latents))}


def add_resize(tensors, data):
    """photo.png resized by Pillow's default filter, (height, width, 3) in 8 bits."""
    image = Image.open(data / "photo.png")
    for width, height in [(40, 24), (24, 40), (20, 110)]:
        resized = image.resize((width, height))
        values = torch.frombuffer(bytearray(resized.tobytes()), dtype=torch.uint8)
        tensors[f"resize.{width}x{height}"] = values.reshape(height, width, 3)


if __name__ == "__main__":
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    here = Path(__file__).resolve().parent
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else here.parent / "data")
