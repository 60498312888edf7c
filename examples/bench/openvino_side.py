"""Times OpenVINO on the CPU, on the networks of Stable Diffusion 1.5 with random weights, traced from PyTorch.

Each network is converted for one shape and compiled; both take seconds that are told apart (`convert_s`, `compile_s`)
and memory that counts in `peak_gib` but not in `run_peak_gib`.
"""

import openvino
import torch

import measure
import shapes
from measure import Laps, Work

# bf16 is what it takes by itself where the processor has instructions for it: its default.
PRECISIONS = {"f32": {"INFERENCE_PRECISION_HINT": "f32"}, "f16": {"INFERENCE_PRECISION_HINT": "f16"}, "bf16": {}}


class Unet(torch.nn.Module):
    """The UNet with tensors in and out."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x, time, text, guidance):
        return self.network(x, time, encoder_hidden_states=text, timestep_cond=guidance, return_dict=False)[0]


class Encoder(torch.nn.Module):
    """The VAE from pictures to the means of their posteriors."""

    def __init__(self, vae):
        super().__init__()
        self.vae = vae

    def forward(self, pictures):
        return self.vae.quant_conv(self.vae.encoder(pictures)).chunk(2, dim=1)[0]


class Decoder(torch.nn.Module):
    """The VAE from latents to pictures."""

    def __init__(self, vae):
        super().__init__()
        self.vae = vae

    def forward(self, latents):
        return self.vae.decoder(self.vae.post_quant_conv(latents))


class Text(torch.nn.Module):
    """The text encoder up to its last hidden states."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, tokens):
        return self.network(tokens, return_dict=False)[0]


def unet(args, rows):
    """One evaluation of the UNet."""
    return compiled(args, Unet(shapes.unet(args)), shapes.latents(args, rows), *shapes.conditions(args, rows)[:3])


def vae_encode(args, rows):
    """Pictures to the means of their posteriors."""
    return compiled(args, Encoder(shapes.vae(args)), shapes.pictures(args, rows))


def vae_decode(args, rows):
    """Latents to pictures."""
    return compiled(args, Decoder(shapes.vae(args)), shapes.latents(args, rows))


def clip(args, rows):
    """Prompts to the last hidden states."""
    return compiled(args, Text(shapes.clip(args)), shapes.prompts(rows))


def compiled(args, network, *inputs):
    """The network as OpenVINO runs it, for the very shapes of `inputs`."""
    laps = Laps()
    # Given in f32, whatever it computes in.
    network, inputs = network.float(), [as_f32(value) for value in inputs]
    model = openvino.convert_model(network, example_input=inputs, input=[list(value.shape) for value in inputs])
    del network
    laps.lap("convert_s")
    request = openvino.Core().compile_model(model, "CPU", settings(args)).create_infer_request()
    del model
    laps.lap("compile_s")
    values = [value.numpy() for value in inputs]
    about = {name: round(seconds, 2) for name, seconds in laps.seconds.items()}
    return Work(lambda: ignore(request.infer(values)), about)


def as_f32(value):
    """A tensor in f32 unless it holds integers."""
    return value.float() if value.is_floating_point() else value


def settings(args):
    """One request at a time, on the wanted threads and in the wanted numbers."""
    return {
        **PRECISIONS[args.dtype],
        "INFERENCE_NUM_THREADS": args.threads,
        "PERFORMANCE_HINT": "LATENCY",
    }


def ignore(_):
    """Drops a result whose computing is all that was wanted."""


WORKS = {"unet": unet, "vae-encode": vae_encode, "vae-decode": vae_decode, "clip": clip}


def main():
    args = measure.options("Times OpenVINO.", list(WORKS))
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    with torch.inference_mode():
        measure.report("openvino", WORKS, args)


if __name__ == "__main__":
    main()
