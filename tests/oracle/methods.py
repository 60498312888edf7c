"""Writes methods.safetensors and methods.json: other ways into noise than consistency models.

    python methods.py FOLDER        a folder that make_golden.py made, as tests/data/sd

DDIM, negative-prompt and null-text inversion over the UNet and the schedulers of diffusers; the
loops are written from the papers and their authors' settings, each row of classifier-free
guidance in one batch as there. In methods.safetensors, for latents of photo.png at 64x64:

    clean                      the mean of its posterior, scaled
    NAME.inverted              the end of the DDIM inversion
    NAME.embeddings            null-text inversion: one for each step, the first step's first
    NAME.final                 rows (source, target) after the last step
    generate.final             a picture from seeded noise, away from a negative prompt
    plain.final                the same by the UNet without its guidance input
    masked.NAME                edits by consistency models and masked mutual self-attention
"""

import os
import sys
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")

import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F
from transformers.utils import logging

import tiny
from make_golden import BIRD, BUDGERIGAR, DOG, LEGO, WATERCOLOR, Model
from walk import (
    Control,
    Masactrl,
    Processor,
    decode_walk,
    draw,
    guidance_embedding,
    invert,
    pixels,
    tokens_of,
)

SCALE = 7.5
INNER_STEPS = 10
NEGATIVE = "a small house"
REFINE = {
    "replace": False,
    "cross": 0.4,
    "self": 0.6,
    "blend": None,
    "eq": {"words": ["snowy"], "values": [2.0]},
}
REPLACE = {
    "replace": True,
    "cross": 0.8,
    "self": 0.5,
    "blend": ["bird", "dog"],
    "eq": {"words": ["dog"], "values": [2.0]},
}
EDITS = [
    {"name": "ddim", "steps": 50, "prompts": [BIRD, DOG], "control": None},
    {"name": "ddim", "steps": 10, "prompts": [BIRD, WATERCOLOR], "control": REFINE},
    {
        "name": "ddim",
        "steps": 10,
        "prompts": [BIRD, DOG],
        "control": REPLACE,
        "negative": NEGATIVE,
        "anchor": True,
    },
    {"name": "ddim", "steps": 10, "prompts": [BIRD, DOG], "control": {"masactrl": [1, 4]}},
    {"name": "npi", "steps": 10, "prompts": [BIRD, LEGO], "control": None},
    {"name": "npi", "steps": 10, "prompts": [BIRD, DOG], "control": REPLACE},
    {"name": "nti", "steps": 5, "prompts": [BIRD, WATERCOLOR], "control": REFINE},
    {"name": "nti", "steps": 3, "prompts": [BIRD, DOG], "control": None, "negative": LEGO},
]
# Null-text inversion takes few steps: Adam follows the sign of gradients that are almost zero, and
# more steps of it in f32 and in double precision part ways in PyTorch itself.
#
# Consistency models with masks; of ddim the masks of both evaluations are the text's.
MASKED = [
    {"name": "icd", "prompts": [BIRD, DOG], "start": [1, 4], "words": ["bird", "dog"]},
    {"name": "icd_later", "prompts": [BIRD, BUDGERIGAR], "start": [2, 3], "words": ["branch", "house"]},
    {
        "name": "ddim",
        "steps": 10,
        "prompts": [BIRD, DOG],
        "start": [1, 3],
        "words": ["bird", "dog"],
    },
]


def main(folder):
    model = Model(folder, "sd")
    tensors, edits = {}, []
    image = Image.open(folder.parent / "photo.png").resize((64, 64))
    posterior = model.vae.encode(pixels(image)).latent_dist
    clean = posterior.mean.detach() * model.vae.config.scaling_factor
    tensors["clean"] = clean
    for index, edit in enumerate(EDITS):
        name = f"{edit['name']}{index}"
        add_edit(tensors, model, edit | {"name": name, "method": edit["name"]})
        edits.append(edit | {"name": name, "method": edit["name"]})
    settings = {
        "edits": edits,
        "masked": MASKED,
        "generate": add_generations(tensors, model),
        "scale": SCALE,
    }
    for edit in MASKED:
        add_masked(tensors, model, edit)
    tensors = {name: value.detach().contiguous().clone() for name, value in tensors.items()}
    save_file(tensors, folder / "methods.safetensors")
    tiny.write_json(folder / "methods.json", settings, indent=None)


# --- The networks --------------------------------------------------------------------------------


def evaluated(unet, x, t, states):
    """The noise, with gradients; a guidance input, if there is one, is 0."""
    width = unet.config.time_cond_proj_dim
    embedding = None if width is None else guidance_embedding([0.0] * len(x), width)
    return unet(x, t, encoder_hidden_states=states, timestep_cond=embedding).sample


def schedulers(folder, steps):
    """Up and down, both with Stable Diffusion's settings."""
    up = DDIMInverseScheduler.from_pretrained(folder / "scheduler")
    down = DDIMScheduler.from_pretrained(folder / "scheduler")
    for scheduler in (up, down):
        scheduler.set_timesteps(steps)
    return up, down


# --- Inversions ----------------------------------------------------------------------------------


@torch.no_grad()
def ddim_inversion(unet, scheduler, clean, states):
    """All latents from the clean one to the noise, unguided under the source prompt."""
    latents = [clean]
    for t in scheduler.timesteps.tolist():
        eps = evaluated(unet, latents[-1], t, states)
        latents.append(scheduler.step(eps, t, latents[-1]).prev_sample)
    return latents


def null_text_inversion(unet, scheduler, latents, states, begin):
    """The optimised embeddings (arXiv 2211.09794, algorithm 1, with its authors' settings)."""
    blank, x, out = begin, latents[-1], []
    timesteps = scheduler.timesteps.tolist()
    for i, t in enumerate(timesteps):
        blank = blank.clone().detach().requires_grad_()
        done = i / len(timesteps)
        optimiser = torch.optim.Adam([blank], lr=1e-2 * (1 - done / 2))  # 1 - i / 100 of 50
        goal = latents[len(latents) - i - 2]
        with torch.no_grad():
            with_text = evaluated(unet, x, t, states)
        for _ in range(INNER_STEPS):
            without = evaluated(unet, x, t, blank)
            eps = without + SCALE * (with_text - without)
            loss = F.mse_loss(scheduler.step(eps, t, x).prev_sample, goal)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if loss.item() < 1e-5 + 1e-3 * done:  # 1e-5 + 2e-5 i of 50
                break
        blank = blank.detach()
        out.append(blank)
        with torch.no_grad():
            without = evaluated(unet, x, t, blank)
            eps = without + SCALE * (with_text - without)
            x = scheduler.step(eps, t, x).prev_sample
    return out


# --- Edits ---------------------------------------------------------------------------------------


class Guided(Control):
    """Prompt-to-prompt in a batch of (unconditional, conditional) rows: on the second half."""

    def rewrite(self, name, maps):
        return torch.cat([maps[:2], super().rewrite(name, maps[2:])])


class GuidedMasactrl(Masactrl):
    """Mutual self-attention in both halves of a batch."""

    def context(self, name, keys, values):
        halves = zip(keys.chunk(2), values.chunk(2))
        pairs = [super(GuidedMasactrl, self).context(name, *half) for half in halves]
        return torch.cat([k for k, _ in pairs]), torch.cat([v for _, v in pairs])


def control_of(unet, tokenizer, edit):
    settings = edit["control"]
    if settings is None:
        return None
    if "masactrl" in settings:
        return GuidedMasactrl(unet, settings["masactrl"])
    return Guided(unet, tokenizer, edit["prompts"], edit["steps"], settings)


@torch.no_grad()
def denoised(unet, scheduler, x, states, blanks, control=None, anchors=None):
    """Rows denoised from `x` with classifier-free guidance, which leads away from blanks[i]."""
    x = x.expand(len(states), -1, -1, -1)
    timesteps = scheduler.timesteps.tolist()
    for i, t in enumerate(timesteps):
        if control is not None:
            control.begin_step(i, x.shape[-2:])
        read = torch.cat([blanks[i].expand_as(states), states])
        without, with_text = evaluated(unet, torch.cat([x, x]), t, read).chunk(2)
        eps = without + SCALE * (with_text - without)
        x = scheduler.step(eps, t, x).prev_sample
        if anchors is not None:
            x = torch.cat([anchors[len(anchors) - i - 2], x[1:]])
        mask = None if control is None else control.mask()
        if mask is not None and i >= int(0.2 * len(timesteps)):  # start_blend
            x = x[:1] + mask * (x - x[:1])
    return x


def add_edit(tensors, model, edit):
    unet = tiny.load_unet(model.folder).requires_grad_(False)
    up, down = schedulers(model.folder, edit["steps"])
    states = model.text(*edit["prompts"]).states
    source, negative = states[:1], model.text(edit.get("negative", "")).states
    latents = ddim_inversion(unet, up, tensors["clean"], source)
    name = edit["name"]
    tensors[f"{name}.inverted"] = latents[-1]
    if edit["method"] == "nti":
        blanks = null_text_inversion(unet, down, latents, source, negative)
        tensors[f"{name}.embeddings"] = torch.cat(blanks)
    else:
        blanks = [source if edit["method"] == "npi" else negative] * edit["steps"]
    control = control_of(unet, model.tokenizers[0], edit)
    anchors = latents if edit.get("anchor") else None
    final = denoised(unet, down, latents[-1], states, blanks, control, anchors)
    tensors[f"{name}.final"] = final


def add_generations(tensors, model):
    """From noise, with the UNet as it is, and without its guidance input."""
    settings = {"prompt": LEGO, "negative": NEGATIVE, "steps": 10, "seed": 150, "latent": [8, 8]}
    noise = draw(settings["seed"], (1, 4, 8, 8))[0]
    states, blank = model.text(LEGO).states, model.text(NEGATIVE).states
    for name, unet in [("generate", tiny.load_unet(model.folder)), ("plain", plain(model.folder))]:
        _, down = schedulers(model.folder, settings["steps"])
        blanks = [blank] * settings["steps"]
        tensors[f"{name}.final"] = denoised(unet, down, noise, states, blanks)
    return settings


def plain(folder):
    """The UNet of a folder without the projection of its guidance input."""
    guided = tiny.load_unet(folder)
    unet = UNet2DConditionModel.from_config(dict(guided.config) | {"time_cond_proj_dim": None})
    weights = guided.state_dict()
    weights.pop("time_embedding.cond_proj.weight")
    unet.load_state_dict(weights)
    return unet.eval()


# --- Masked mutual self-attention ----------------------------------------------------------------


class Masked(Masactrl):
    """MasaCtrl's mask variant: what the source's word covers reads what it covers there.

    The masks are the maps of the words in the cross-attention at a quarter of the latent's side,
    of this step and before the layer, averaged over heads and layers and stretched from 0 to 1.
    The source's is cut at 0.1; the target's mixes both readings as it is.
    """

    THRESHOLD = 0.1

    def __init__(self, unet, start, tokens, kept):
        super().__init__(unet, start)
        self.tokens, self.kept = tokens, kept
        for name, module in unet.named_modules():
            if name.endswith((".attn1", ".attn2")):
                module.set_processor(MaskedProcessor(self, name))

    def begin_step(self, i, latent_size):
        super().begin_step(i, latent_size)
        self.maps, self.grid = [], [(side + 3) // 4 for side in latent_size]
        self.latent = latent_size

    def keep(self, name, maps):
        """Stores the maps of the conditional rows (source, target)."""
        if name in self.kept:
            self.maps.append(maps[-2:].mean(1))

    def word(self, row, queries):
        """The stretched map of a row's word, at the resolution of so many queries."""
        own = torch.stack(self.maps).mean(0)[row][:, self.tokens[row]].sum(-1)
        low, high = own.min(), own.max()
        if low == high:
            return None
        own = ((own - low) / (high - low)).reshape(1, 1, *self.grid)
        scale = (self.latent[0] * self.latent[1] / queries) ** 0.5
        size = [round(side / scale) for side in self.latent]
        return F.interpolate(own, size=size).flatten()

    def read(self, q, k, v, scale):
        """The target's queries (1, heads, n, d) over the source's keys and values."""
        full = lambda k, v: (q @ k.transpose(-1, -2) * scale).softmax(-1) @ v  # noqa: E731
        if not self.maps:
            return full(k, v)
        source, target = (self.word(row, q.shape[2]) for row in (0, 1))
        if source is None or target is None:
            return full(k, v)
        inside = source >= self.THRESHOLD
        if inside.all() or not inside.any():
            return full(k, v)
        inner = full(k[:, :, inside], v[:, :, inside])
        outer = full(k[:, :, ~inside], v[:, :, ~inside])
        weight = target[:, None]
        return inner * weight + outer * (1 - weight)


class MaskedProcessor(Processor):
    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **_):
        keys = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        split = lambda x: x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # noqa: E731
        q, k, v = split(attn.to_q(hidden_states)), split(attn.to_k(keys)), split(attn.to_v(keys))
        control = self.control
        maps = (q @ k.transpose(-1, -2) * attn.scale).softmax(-1)
        out = maps @ v
        if encoder_hidden_states is not None:
            control.keep(self.name, maps)
        elif control.step >= control.first_step and self.name in control.layers:
            halves = [slice(i, i + 2) for i in range(0, len(q), 2)]  # (source, target)
            read = [
                torch.cat([out[h][:1], control.read(q[h][1:], k[h][:1], v[h][:1], attn.scale)])
                for h in halves
            ]
            out = torch.cat(read)
        return attn.to_out[0](out.transpose(1, 2).flatten(2))


@torch.no_grad()
def add_masked(tensors, model, edit):
    tokenizer = model.tokenizers[0]
    pairs = zip(edit["prompts"], edit["words"])
    tokens = [tokens_of(tokenizer, prompt, word) for prompt, word in pairs]
    states = model.text(*edit["prompts"])
    is_icd = "steps" not in edit
    unet = model.reverse if is_icd else tiny.load_unet(model.folder)
    unet.set_attn_processor(AttnProcessor2_0())
    if is_icd:
        noise = draw(0, (1, 4, 8, 8))[0]
        path = model.forward_path
        source = model.text(edit["prompts"][0])
        start = invert(model.forward, tensors["clean"], noise, path, source)[-1]
        control = Masked(unet, edit["start"], tokens, quarter(unet))
        steps = decode_walk(unet, start, model.reverse_path, states, (7.0, 0.8, 0.8), control)
        tensors[f"masked.{edit['name']}"] = steps[-1][2]
        return
    up, down = schedulers(model.folder, edit["steps"])
    latents = ddim_inversion(unet, up, tensors["clean"], states.states[:1])
    control = Masked(unet, edit["start"], tokens, quarter(unet))
    blanks = [model.text("").states] * edit["steps"]
    final = denoised(unet, down, latents[-1], states.states, blanks, control)
    tensors[f"masked.{edit['name']}"] = final


def quarter(unet):
    """The cross-attentions of the down and up blocks at a quarter of the latent's side."""
    names = [name for name, _ in unet.named_modules() if name.endswith(".attn2")]
    return [name for name in names if name.startswith(("down_blocks.2", "up_blocks.1"))]


if __name__ == "__main__":
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    main(Path(sys.argv[1]))
