"""Adapters as PEFT and diffusers write them, and the weights that these merge: tests/data/adapters.

    target/oracle/bin/python tests/oracle/adapters.py

Each case is a file or a folder that `save_pretrained`, `save_lora_adapter` or `save_lora_weights`
wrote, or one in LyCORIS' names. expected.safetensors holds the weights of the changed layers under
`case/network.tensor`, merged by the library that wrote the case, after it has read it again.
"""

import json
import shutil
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_peft
from peft import (
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection

DATA = Path(__file__).parent.parent / "data"
OUT = DATA / "adapters"
# A convolution of nine pixels, in SD one of a single pixel, and linear layers; as expressions, since
# lists are saved in any order.
LAYERS = (
    r"mid_block\.(resnets\.0\.conv1|attentions\.0\.proj_in"
    r"|attentions\.0\.transformer_blocks\.0\.(attn1\.to_q|attn2\.to_out\.0))"
)
LYCORIS = ["mid_block.attentions.0.proj_in", "mid_block.resnets.0.conv1"]
# Cases of which the weights are those of a factor, too.
WEIGHTED = {"peft_rslora": 0.5, "peft_dora": -0.75, "peft_loha": 0.5, "peft_lokr": -1.5}
TEXT = r".*layers\.0\..*(q_proj|fc1)"
PEFT = "base_model.model."
PATTERNS = {
    "rank_pattern": {"attn1.to_q": 3, "conv1": 1},
    "alpha_pattern": {r"mid_block.*to_(q|k)": 12, "to_q": 2, "proj_in": 5},
}


def networks(family):
    """Fresh networks by name, in f32."""
    folder = DATA / family
    load = lambda kind, name: kind.from_pretrained(folder / name, dtype=torch.float32)  # noqa: E731
    found = {"unet": load(UNet2DConditionModel, "unet"), "text_encoder": load(CLIPTextModel, "text_encoder")}
    if family == "sdxl":
        found["text_encoder_2"] = load(CLIPTextModelWithProjection, "text_encoder_2")
    return found


@torch.no_grad()
def drawn(module, seed):
    """Draws an adapter's tensors, in values that half precision holds."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in sorted(module.named_parameters()):
        if any(part in name for part in ("lora_A", "lora_B", "hada_", "lokr_")):
            wide = torch.randn(value.shape, generator=generator) * 0.6 / value[0].numel() ** 0.5
            value.copy_(wide.half().float())
        elif "lora_magnitude" in name:
            gain = 1 + 0.3 * torch.rand(value.shape, generator=generator)
            value.copy_((value * gain).half().float())
    return module


def stored_names(family, network):
    """The names in the model's files by those of the loaded network."""
    names = {}
    for file in (DATA / family / network).glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            names |= {name.removeprefix("text_model."): name for name in tensors.keys()}
    return names


def changed(family, network, merged):
    """The weights of a merged network that differ from the model's."""
    before = networks(family)[network].state_dict()
    names = stored_names(family, network)
    after = merged.state_dict()
    assert before.keys() == after.keys(), "the network was not unloaded"
    found = {
        f"{network}.{names[name.removeprefix('text_model.')]}": value.float().contiguous()
        for name, value in after.items()
        if not torch.equal(value, before[name])
    }
    assert found, "the adapter changes nothing"
    return found


def by_peft(case, family, network, config, seed):
    """save_pretrained of one network."""
    folder = OUT / family / case
    model = drawn(get_peft_model(networks(family)[network], config), seed)
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text()) | {"base_model_name_or_path": None}  # no path of this machine
    file.write_text(json.dumps(config, indent=2, sort_keys=True))
    again = PeftModel.from_pretrained(networks(family)[network], folder)
    return changed(family, network, again.merge_and_unload())


def weighted(case, family, weight):
    """A case of by_peft, its scales multiplied as `set_adapters` of diffusers does."""
    model = PeftModel.from_pretrained(networks(family)["unet"], OUT / family / case)
    for module in model.modules():
        if hasattr(module, "set_scale"):
            module.set_scale("default", weight)
    return changed(family, "unet", model.merge_and_unload())


def settle(file):
    """Sorts the metadata of a file: safetensors writes them in any order."""
    content = file.read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:begin])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[begin:])


def by_diffusers(case, family, config, seed):
    """save_lora_adapter of the UNet."""
    folder = OUT / family / case
    unet = networks(family)["unet"]
    unet.add_adapter(config)
    drawn(unet, seed).save_lora_adapter(folder)
    settle(folder / "pytorch_lora_weights.safetensors")
    again = networks(family)["unet"]
    again.load_lora_adapter(folder, prefix=None, weight_name="pytorch_lora_weights.safetensors")
    again.fuse_lora()
    again.unload_lora()
    return changed(family, "unet", again)


def by_pipeline(case, family, configs, seed):
    """save_lora_weights of a whole pipeline, with the configurations in the metadata. PEFT reads the
    text encoders' part again: transformers' own reader asks for a later release of it."""
    pipeline = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
    given = {}
    for network, config in configs.items():
        model = drawn(get_peft_model(networks(family)[network], config), seed)
        layers = get_peft_model_state_dict(model).items()
        layers = {name.removeprefix(PEFT): value for name, value in layers}
        layers = layers if network == "unet" else convert_state_dict_to_diffusers(layers)
        metadata = model.peft_config["default"].to_dict()
        given[f"{network}_lora_layers"] = layers
        given[f"{network}_lora_adapter_metadata"] = metadata | {"base_model_name_or_path": None}
    pipeline.save_lora_weights(OUT / family, weight_name=f"{case}.safetensors", **given)
    settle(OUT / family / f"{case}.safetensors")
    weights, _, metadata = pipeline.lora_state_dict(
        OUT / family, weight_name=f"{case}.safetensors", return_lora_metadata=True
    )
    found = {}
    for network in configs:
        again = networks(family)[network]
        if network == "unet":
            again.load_lora_adapter(weights, prefix=network, metadata=metadata)
            again.fuse_lora()
            again.unload_lora()
        else:
            own = lambda all: {  # noqa: E731
                name.removeprefix(f"{network}."): value
                for name, value in all.items()
                if name.startswith(f"{network}.")
            }
            model = get_peft_model(again, LoraConfig(**own(metadata)))
            layers = convert_state_dict_to_peft(own(weights)).items()
            layers = {PEFT + name: value for name, value in layers}
            assert not set_peft_model_state_dict(model, layers).unexpected_keys
            again = model.merge_and_unload()
        found |= changed(family, network, again)
    return found


@torch.no_grad()
def by_lycoris(case, family, make, seed):
    """A file in kohya's names with the tensors that `make` gives for a weight, and the change of it
    by the formulas of LyCORIS (lycoris/functional)."""
    unet = networks(family)["unet"]
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: (0.5 * torch.randn(*shape, generator=generator)).half().float()  # noqa: E731
    file, found = {}, {}
    for module in LYCORIS:
        weight = unet.get_submodule(module).weight
        tensors, merged = make(weight, draw)
        base = "lora_unet_" + module.replace(".", "_")
        file |= {f"{base}.{name}": value.contiguous() for name, value in tensors.items()}
        found[f"unet.{module}.weight"] = merged.contiguous()
    save_file(file, OUT / family / f"{case}.safetensors")
    return found


def locon(weight, draw):
    """A LoCon in CP (Tucker) form: rebuild_tucker, alpha 3 of rank 2."""
    outputs, inputs, *kernel = weight.shape if weight.dim() == 4 else (*weight.shape, 1, 1)
    down, mid, up = draw(2, inputs, 1, 1), draw(2, 2, *kernel), draw(outputs, 2, 1, 1)
    delta = torch.einsum("i j ..., i p, j r -> p r ...", mid, up.flatten(1).T, down.flatten(1))
    tensors = {"lora_down.weight": down, "lora_up.weight": up, "lora_mid.weight": mid}
    tensors["alpha"] = torch.tensor(3.0)
    return tensors, weight + 1.5 * delta.reshape(weight.shape)


def dora(per_output):
    """A LoRA with magnitudes of outputs, or of inputs: apply_weight_decompose; alpha 1 of rank 2."""

    def make(weight, draw):
        flat = weight.flatten(1)
        down, up = draw(2, flat.shape[1]), draw(weight.shape[0], 2)
        whole = weight + 0.5 * (up @ down).reshape(weight.shape)
        dims = [d for d in range(weight.dim()) if d != (0 if per_output else 1)]
        norm = whole.square().sum(dim=dims, keepdim=True).sqrt()
        scale = (norm * (1 + 0.2 * draw(*norm.shape))).half().float()
        down = down.reshape(2, *weight.shape[1:])
        tensors = {"lora_down.weight": down, "lora_up.weight": up, "dora_scale": scale}
        tensors["alpha"] = torch.tensor(1.0)
        return tensors, whole * scale / norm

    return make


def loha(weight, draw):
    """make_weight: the elementwise product of two products; alpha 1 of rank 2."""
    columns = weight.flatten(1).shape[1]
    a, b, c, d = draw(len(weight), 2), draw(2, columns), draw(len(weight), 2), draw(2, columns)
    tensors = {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": c, "hada_w2_b": d}
    tensors["alpha"] = torch.tensor(1.0)
    return tensors, weight + 0.5 * ((a @ b) * (c @ d)).reshape(weight.shape)


def lokr(weight, draw):
    """A Kronecker product of whole matrices, whose scale is 1 whatever alpha is."""
    outputs, inputs, *kernel = weight.shape
    small, large = draw(2, 2), draw(outputs // 2, inputs // 2, *kernel)
    delta = torch.kron(small.reshape(2, 2, *[1] * len(kernel)), large)
    tensors = {"lokr_w1": small, "lokr_w2": large, "alpha": torch.tensor(7.0)}
    return tensors, weight + delta


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    lora = lambda **settings: LoraConfig(**{"r": 2, "lora_alpha": 6, "target_modules": LAYERS} | settings)  # noqa: E731
    text = lambda **settings: lora(target_modules=TEXT, **settings)  # noqa: E731
    for family in ("sd", "sdxl"):
        (OUT / family).mkdir(parents=True)
        encoders = [name for name in networks(family) if name != "unet"]
        cases = {
            "peft": by_peft("peft", family, "unet", lora(), 1),
            "peft_rslora": by_peft("peft_rslora", family, "unet", lora(use_rslora=True, **PATTERNS), 2),
            "peft_dora": by_peft("peft_dora", family, "unet", lora(use_dora=True, lora_alpha=3), 3),
            "adapter": by_diffusers("adapter", family, lora(**PATTERNS), 4),
            "weights": by_pipeline(
                "weights",
                family,
                {"unet": lora(use_rslora=True)}
                | {name: text(r=2 + i, lora_alpha=1 + i) for i, name in enumerate(encoders)},
                5,
            ),
            "locon": by_lycoris("locon", family, locon, 6),
            "dora_outputs": by_lycoris("dora_outputs", family, dora(True), 7),
            "dora_inputs": by_lycoris("dora_inputs", family, dora(False), 8),
            "loha": by_lycoris("loha", family, loha, 9),
            "lokr": by_lycoris("lokr", family, lokr, 10),
        }
        for kind, network in enumerate(encoders):
            case = f"peft_{network}"
            cases[case] = by_peft(case, family, network, text(alpha_pattern={"fc1": 9}), 11 + kind)
        target = {"target_modules": LAYERS, "r": 2, "alpha": 3}
        effective = {"use_effective_conv2d": True}
        cases["peft_loha"] = by_peft("peft_loha", family, "unet", LoHaConfig(**target, **effective), 13)
        low = LoKrConfig(r=1, alpha=3, target_modules=LAYERS, decompose_both=True, **effective)
        cases["peft_lokr"] = by_peft("peft_lokr", family, "unet", low, 14)
        whole = LoKrConfig(**target | {"r": 16}, rank_pattern={"conv1": 4})
        cases["peft_lokr_whole"] = by_peft("peft_lokr_whole", family, "unet", whole, 15)
        for case, weight in WEIGHTED.items():
            cases[f"{case}={weight}"] = weighted(case, family, weight)
        expected = {f"{case}/{name}": value for case, found in cases.items() for name, value in found.items()}
        save_file(expected, OUT / family / "expected.safetensors")
        print(family, {case: len(found) for case, found in cases.items()})


if __name__ == "__main__":
    main()
