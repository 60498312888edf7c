"""The losses of both distillations and their gradients, in double precision, on the tiny model of tests/data/sd.

    python distil.py ../data/sd

Writes DIR/distil.json: for each loss its value and, for each trained tensor, the norm of its gradient and the
gradient's product with a wave, sum(g[i] * sin(0.7 i)). The adapters are those of the folder, merged in a way that
gradients flow through; the inputs are torch.randn of seeds that the reader draws too.
"""

import argparse
import json
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file
from torch.func import functional_call

import tiny
from walk import NOISE, SIGNAL, guidance_embedding

ROWS = 4
STRIDE = 20
HUBER = 0.001
FORWARD_ENDS, REVERSE_ENDS = [259, 519, 779, 999], [779, 519, 259, 0]
TIMES = {
    "guidance": [3, 250, 611, 999],
    "reverse_consistency": [19, 279, 539, 999],
    "forward_consistency": [19, 239, 539, 979],
    "forward_preservation": [259, 519, 779, 999],
    "reverse_preservation": [19, 259, 519, 779],
}
GUIDANCE = [0.0, 7.0, 11.0, 19.0]
UNGUIDED = [0.0] * ROWS


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    world = World(folder)
    results = {"guidance": measured(world.guidance(), world.weights)}
    for name, adapter in [
        ("reverse_consistency", world.reverse),
        ("forward_consistency", world.forward),
        ("forward_preservation", world.forward),
        ("reverse_preservation", world.reverse),
    ]:
        results[name] = measured(getattr(world, name)(), adapter.factors)
    text = json.dumps({"times": TIMES, "strengths": GUIDANCE, "losses": results}, separators=(",", ":"))
    (folder / "distil.json").write_text(text.replace('},"', '},\n"') + "\n")


def measured(loss, tensors):
    """A loss, and two numbers for the gradient of each tensor that has one."""
    found = torch.autograd.grad(loss, list(tensors.values()), allow_unused=True)
    named = {name: g for name, g in zip(tensors, found) if g is not None}
    return {"value": loss.item(), "gradients": {name: summary(g) for name, g in named.items()}}


def summary(gradient):
    """Its norm, and its product with a wave."""
    flat = gradient.flatten()
    wave = torch.sin(0.7 * torch.arange(flat.numel(), dtype=torch.float64))
    return [float(f"{value:.8g}") for value in (flat.norm(), flat @ wave)]


class Adapter:
    """Low-rank factors that gradients flow to."""

    def __init__(self, file):
        self.factors = {name: value.double().requires_grad_() for name, value in load_file(file).items()}

    def merged(self, weights):
        """The network's weights with the changes added."""
        out = dict(weights)
        for name, down in self.factors.items():
            if "lora_A" in name:
                up = self.factors[name.replace("lora_A", "lora_B")]
                key = name.removeprefix(tiny.PEFT_PREFIX).replace("lora_A.weight", "weight")
                change = up.flatten(1) @ down.flatten(1) * (tiny.ALPHA / down.shape[0])
                out[key] = weights[key] + change.reshape(weights[key].shape)
        return out


class World:
    """The networks and what they are given."""

    def __init__(self, folder):
        self.unet = UNet2DConditionModel.from_pretrained(folder / "unet").double()
        self.weights = {name: value.detach().requires_grad_() for name, value in self.unet.named_parameters()}
        self.frozen = {name: value.detach() for name, value in self.weights.items()}
        names = tiny.adapter_names("sd")
        self.forward, self.reverse = (Adapter(folder / f"{names[way]}.safetensors") for way in ("forward", "reverse"))
        self.latent, self.noise = drawn(1, (ROWS, 4, 8, 8)), drawn(2, (ROWS, 4, 8, 8))
        width = self.unet.config.cross_attention_dim
        self.text, self.blank = drawn(3, (ROWS, 6, width)), drawn(4, (ROWS, 6, width))

    def eps(self, weights, x, times, guidance, text=None):
        """The predicted noise under these weights."""
        embedded = guidance_embedding(guidance, self.unet.config.time_cond_proj_dim).double()
        given = dict(encoder_hidden_states=self.text if text is None else text, timestep_cond=embedded)
        return functional_call(self.unet, weights, (x, torch.tensor(times)), given).sample

    def guidance(self):
        """The student is the network that takes guidance, the teacher the same network unguided."""
        times = TIMES["guidance"]
        x = mix(self.latent, self.noise, soft(times))
        told, untold = (self.eps(self.frozen, x, times, UNGUIDED, text) for text in (self.text, self.blank))
        strengths = column([w + 1 for w in GUIDANCE])
        target = untold + strengths * (told - untold)
        return (self.eps(self.weights, x, times, GUIDANCE) - target).square().mean()

    def reverse_consistency(self):
        times = TIMES["reverse_consistency"]
        after = [max(t - STRIDE, 0) for t in times]
        ends = [max(end for end in REVERSE_ENDS if end <= t) for t in after]
        return self.consistency(self.reverse, times, after, ends, GUIDANCE)

    def forward_consistency(self):
        times = TIMES["forward_consistency"]
        after = [t + STRIDE for t in times]
        ends = [min(end for end in FORWARD_ENDS if end >= t) for t in after]
        return self.consistency(self.forward, times, after, ends, UNGUIDED)

    def consistency(self, student, times, after, ends, guidance):
        weights = student.merged(self.frozen)
        x = mix(self.latent, self.noise, hard(times))
        moved = jump(x, self.eps(self.frozen, x, times, guidance), hard(times), soft(after))
        with torch.no_grad():
            leapt = jump(moved, self.eps(weights, moved, after, guidance), hard(after), hard(ends))
            arrived = torch.tensor([t == end for t, end in zip(after, ends)])[:, None, None, None]
            target = torch.where(arrived, moved, leapt)
        return distance(jump(x, self.eps(weights, x, times, guidance), hard(times), hard(ends)), target)

    def forward_preservation(self):
        times = TIMES["forward_preservation"]
        lower = [max([end for end in REVERSE_ENDS if end < t]) or 19 for t in times]
        return self.preservation(self.reverse, self.forward, times, lower)

    def reverse_preservation(self):
        times = TIMES["reverse_preservation"]
        upper = [min(end for end in FORWARD_ENDS if end > t) for t in times]
        return self.preservation(self.forward, self.reverse, times, upper)

    def preservation(self, there, back, times, away):
        x = mix(self.latent, self.noise, hard(times))
        with torch.no_grad():
            eps = self.eps(there.merged(self.frozen), x, times, UNGUIDED)
            moved = jump(x, eps, hard(times), hard(away))
        eps = self.eps(back.merged(self.frozen), moved, away, UNGUIDED)
        return distance(jump(moved, eps, hard(away), hard(times)), x)


def drawn(seed, shape):
    """Normal numbers as f32 holds them, in f64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def column(values):
    return torch.tensor(values, dtype=torch.float64)[:, None, None, None]


def soft(times):
    """Signal and noise of each row as the betas give them."""
    return column([SIGNAL[t].item() for t in times]), column([NOISE[t].item() for t in times])


def hard(times):
    """The same with the clean latent at time 0."""
    signal, noise = soft(times)
    clean = column(times) == 0
    return torch.where(clean, 1.0, signal), torch.where(clean, 0.0, noise)


def mix(x, noise, levels):
    return levels[0] * x + levels[1] * noise


def jump(x, eps, levels, ends):
    return mix((x - levels[1] * eps) / levels[0], eps, ends)


def distance(a, b):
    return (((a - b).square() + HUBER**2).sqrt() - HUBER).mean()


if __name__ == "__main__":
    main()
