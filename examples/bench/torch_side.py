"""Times PyTorch and diffusers on the networks of Stable Diffusion with random weights, eager or compiled.

unet        one evaluation of the guidance-distilled UNet, fused attention (the default of diffusers)
vae-encode  picture to the mean of the posterior
vae-decode  latent to picture
clip        two prompts of 77 tokens
edit        all network work of one edit by the reference implementation of iCD, see `edit`
train-step  one step of training a UNet of 1.6 million weights, see `train_step`
"""

import torch
from diffusers.models.attention_processor import AttnProcessor
from peft import LoraConfig

import measure
import shapes
from measure import Laps, Work

# The modules that the released adapters touch, by the ends of their names.
ADAPTED = (
    "to_q to_k to_v to_out.0 proj_in proj_out ff.net.0.proj ff.net.2 "
    "conv1 conv2 conv_shortcut downsamplers.0.conv upsamplers.0.conv time_emb_proj"
).split()

TRAIN_SIZE = 8 * shapes.TRAINED["sample_size"]


def exact_f32():
    """Keeps f32 products and convolutions of a GPU in f32: no TF32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def settle():
    """Waits for the GPU, where one is used."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def work(run, about=None):
    """Something to time on any device."""
    return Work(run, about or {}, settle)


def unet(args, rows):
    """One evaluation of the UNet: latents (rows, 4, size / 8, size / 8), text (rows, 77, 768)."""
    network, x = compiled(shapes.unet(args), args), shapes.latents(args, rows)
    given = shapes.conditions(args, rows)
    return work(lambda: evaluate(network, x, given))


def vae_encode(args, rows):
    """Pictures (rows, 3, size, size) to the means of their posteriors, (rows, 4, size / 8, size / 8)."""
    network, x = shapes.vae(args), shapes.pictures(args, rows)
    return work(lambda: ignore(network.encode(x).latent_dist.mean))


def vae_decode(args, rows):
    """Latents (rows, 4, size / 8, size / 8) to pictures (rows, 3, size, size)."""
    network, x = shapes.vae(args), shapes.latents(args, rows)
    return work(lambda: ignore(network.decode(x).sample))


def clip(args, rows):
    """Prompts (rows, 77) to the last hidden states, (rows, 77, 768)."""
    network, tokens = shapes.clip(args), shapes.prompts(args, rows)
    return work(lambda: ignore(network(tokens).last_hidden_state))


def edit(args, _):
    """The network evaluations of one 4+4 step edit, source and one target, batched as the reference batches them.

    1 VAE encoding of one row; 2 runs of the text encoder ("" and the source prompt; "" and both prompts);
    1 VAE decoding of one row (the reconstruction that the inversion returns);
    4 forward steps of 2 rows, an unconditional copy being evaluated and dropped: 8 row evaluations;
    4 reverse steps of 4 rows, source and target and a dropped copy of both: 16 row evaluations;
    1 VAE decoding of two rows.

    The reference fuses both adapters into their UNets, as `--adapters merged` does by having nothing to add;
    `unmerged` keeps them beside the weights. Prompt-to-prompt patches the reverse pipeline only, whose attention maps
    are computed whole; the forward pipeline keeps the fused attention of diffusers on its first inversion.
    Left out, all in the reference's favour: the rewriting and keeping of the maps, the local blend, the jumps, a third
    UNet that lies idle, and second and third copies of VAE and text encoder.
    """
    forward, reverse = adapted_unet(args), adapted_unet(args)
    reverse.set_attn_processor(AttnProcessor())
    vae, text = shapes.vae(args), shapes.clip(args)
    return work(lambda: edit_once(args, vae, text, forward, reverse), {"adapters": args.adapters})


def edit_once(args, vae, text, forward, reverse):
    """One edit; the seconds of its parts."""
    laps = Laps(settle)
    vae.encode(shapes.pictures(args, 1)).latent_dist.mean
    laps.lap("vae-encode")
    for prompts in (1, 1), (1, 2):
        for rows in prompts:
            text(shapes.prompts(args, rows))
    laps.lap("clip")
    vae.decode(shapes.latents(args, 1)).sample
    laps.lap("vae-decode")
    evaluate_often(args, forward, rows=2)
    laps.lap("unet-forward")
    evaluate_often(args, reverse, rows=4)
    laps.lap("unet-reverse")
    vae.decode(shapes.latents(args, 2)).sample
    laps.lap("vae-decode")
    return laps.seconds


def evaluate_often(args, network, rows, steps=4):
    """The evaluations of one path."""
    x, given = shapes.latents(args, rows), shapes.conditions(args, rows)
    for _ in range(steps):
        evaluate(network, x, given)


def evaluate(network, x, given):
    """One evaluation of a UNet; the result is dropped."""
    time, text, guidance, added = given
    network(x, time, encoder_hidden_states=text, timestep_cond=guidance, added_cond_kwargs=added)


def compiled(network, args):
    """The network as `torch.compile` makes it, where that is asked for."""
    return torch.compile(network, fullgraph=True, mode=args.compile) if args.compile else network


def adapted_unet(args):
    """A UNet as the reference's adapter leaves it: fused into the weights, or kept beside them at rank 64."""
    network = shapes.unet(args)
    if args.adapters == "unmerged":
        network.add_adapter(LoraConfig(r=64, lora_alpha=8, init_lora_weights=False, target_modules=ADAPTED))
        network = shapes.ready(network, args)
    return network


@torch.inference_mode(False)
def train_step(args, rows):
    """One training step of `shapes.TRAINED`, a UNet of 1,577,828 weights in 434 tensors, in f32.

    Latents (32, 4, 16, 16), text (32, 16, 64), one time step per row, target of the latents' shape. Two levels of 32
    and 64 channels, both with cross-attention, two residual blocks each (three on the way up), the middle block of
    diffusers (two residual blocks about one transformer), four heads, one transformer layer of its width with GEGLU,
    1x1 convolutions around it, 8 groups, eps 1e-5, SiLU, time embedding 32 -> 128 -> 128, no guidance embedding.
    Timed apart: forward with the mean squared error, backward, and AdamW (one kernel for all weights, no decay),
    which includes setting the gradients to none.
    """
    network = shapes.trained(args)
    optimiser = torch.optim.AdamW(network.parameters(), lr=8e-6, weight_decay=0.0, fused=True)
    batch = training_batch(rows)
    return work(lambda: train_once(network, optimiser, batch), {"size": TRAIN_SIZE, "weights": weights(network)})


@torch.inference_mode(False)
def train_once(network, optimiser, batch):
    """One training step; the seconds of its parts."""
    x, time, text, target = batch
    laps = Laps(settle)
    loss = torch.nn.functional.mse_loss(network(x, time, encoder_hidden_states=text).sample, target)
    laps.lap("forward")
    loss.backward()
    laps.lap("backward")
    optimiser.step()
    optimiser.zero_grad()
    laps.lap("optimiser")
    return laps.seconds


def training_batch(rows):
    """Latents, time steps, text and target of one step."""
    latent = (rows, 4, 16, 16)
    return torch.randn(latent), torch.randint(0, 1000, (rows,)), torch.randn(rows, 16, 64), torch.randn(latent)


def weights(network):
    """How many numbers are trained."""
    return sum(weight.numel() for weight in network.parameters())


def ignore(_):
    """Drops a result whose computing is all that was wanted."""


WORKS = {
    "unet": unet,
    "vae-encode": vae_encode,
    "vae-decode": vae_decode,
    "clip": clip,
    "edit": edit,
    "train-step": train_step,
}


def main():
    args = measure.options(
        "Times PyTorch and diffusers.",
        list(WORKS),
        channels_last=(False, "lay pictures out channels last"),
        adapters=("merged", "merged or unmerged, for edit"),
        compile=(None, "torch.compile in this mode, such as default or max-autotune; for unet"),
    )
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    exact_f32()
    with torch.inference_mode():
        measure.report("torch", WORKS, args)


if __name__ == "__main__":
    main()
