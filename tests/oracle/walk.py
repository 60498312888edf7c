"""The walk of invertible consistency distillation, with prompt-to-prompt, in plain PyTorch.

Everything runs in f32 on the CPU over the networks of diffusers and transformers.
"""

import math

import torch
from torch.nn import functional as F

MASK_THRESHOLD = 0.3


# --- One formula -------------------------------------------------------------------------------


def schedule():
    """Signal and noise rates of the 1000 steps: sqrt(abar) and sqrt(1 - abar)."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    abar = torch.cumprod(1 - betas, 0)
    return abar.sqrt(), (1 - abar).sqrt()


SIGNAL, NOISE = schedule()


def jump(x, eps, t, s):
    """From step t to step s along the probability flow; step 0 is the clean latent."""
    clean = (x - NOISE[t] * eps) / SIGNAL[t]
    return clean if s == 0 else SIGNAL[s] * clean + NOISE[s] * eps


def guidance_embedding(w, width):
    """Sinusoidal features of the guidance strengths `w`, (rows, width)."""
    half = width // 2
    frequencies = torch.exp(torch.arange(half) * (-math.log(10000.0) / (half - 1)))
    angles = 1000 * torch.tensor(w, dtype=torch.float32)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def guidance_at(t, w, tau1, tau2):
    """Dynamic guidance: w up to tau1, none from tau2 on, linear between."""
    t = t / 1000
    if t <= tau1:
        return w
    return 0.0 if t >= tau2 else w * (tau2 - t) / (tau2 - tau1)


# --- The networks ------------------------------------------------------------------------------


class Text:
    """What the UNet reads of prompts: states (rows, length, width); in SDXL also pooled text."""

    def __init__(self, states, added=None):
        self.states, self.added = states, added

    def with_states(self, states):
        return Text(states, self.added)


@torch.no_grad()
def encode_text(prompts, tokenizers, encoders, time_ids=None):
    """Encodes `prompts`, a row each: one encoder (SD 1.5), or two and `time_ids` (SDXL)."""
    ids = [token_ids(tokenizer, prompts) for tokenizer in tokenizers]
    if len(encoders) == 1:
        return Text(encoders[0](ids[0]).last_hidden_state)
    out = [encoder(i, output_hidden_states=True) for encoder, i in zip(encoders, ids)]
    states = torch.cat([o.hidden_states[-2] for o in out], dim=-1)
    sizes = torch.tensor([time_ids] * len(prompts), dtype=torch.float32)
    return Text(states, {"text_embeds": out[1].text_embeds, "time_ids": sizes})


def token_ids(tokenizer, prompts):
    """Padded and truncated token ids, (rows, length)."""
    length = tokenizer.model_max_length
    options = {"padding": "max_length", "max_length": length, "truncation": True}
    return tokenizer(prompts, return_tensors="pt", **options).input_ids


@torch.no_grad()
def predict(unet, x, t, w, text):
    """One evaluation of the UNet: a guidance strength per row."""
    embedding = guidance_embedding(w, unet.config.time_cond_proj_dim)
    out = unet(
        x,
        t,
        encoder_hidden_states=text.states,
        timestep_cond=embedding,
        added_cond_kwargs=text.added,
    )
    return out.sample


def pixels(image):
    """A Pillow picture as (1, 3, h, w) in -1..1."""
    data = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
    data = data.reshape(1, image.height, image.width, 3).permute(0, 3, 1, 2)
    return data.contiguous() / 127.5 - 1  # in channels-last order PyTorch's norms lose digits


def draw(seed, *shapes):
    """Normal numbers of the given shapes, drawn one after another from one seed."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


# --- Walks -------------------------------------------------------------------------------------


def invert(unet, clean, noise, path, text):
    """Noises the clean latent at the path's start and walks up unguided: all latents."""
    latents = [SIGNAL[path[0]] * clean + NOISE[path[0]] * noise]
    for t, s in zip(path, path[1:]):
        eps = predict(unet, latents[-1], t, [0.0], text)
        latents.append(jump(latents[-1], eps, t, s))
    return latents


def decode_walk(unet, x, path, text, guidance, control=None, early=None, anchors=None):
    """Walks down from `x`, (1, 4, h, w), in as many rows as `text` has.

    guidance: (w, tau1, tau2) of the last row; the rows before it are unguided. early: states of
    the text to read instead while t > 1000 tau1. anchors: the inversion's latents by timestep, to
    which the first row is set back. Returns a list with, for every step, the latents
    after the jump (and the anchor), the mask of the blend (or None) and the latents after the
    blend.
    """
    w, tau1, tau2 = guidance
    rows = text.states.shape[0]
    x = x.expand(rows, -1, -1, -1)
    steps = []
    for i, (t, s) in enumerate(zip(path, path[1:])):
        strengths = [0.0] * (rows - 1) + [guidance_at(t, w, tau1, tau2)]
        read = text if early is None or t <= 1000 * tau1 else text.with_states(early)
        if control is not None:
            control.begin_step(i, x.shape[-2:])
        jumped = jump(x, predict(unet, x, t, strengths, read), t, s)
        if anchors is not None:
            jumped = torch.cat([anchors[s], jumped[1:]])
        mask = None if control is None else control.mask()
        x = jumped if mask is None else jumped[:1] + mask * (jumped - jumped[:1])
        steps.append((jumped, mask, x))
    return steps


# --- Prompt-to-prompt: words and tokens --------------------------------------------------------


def words_tokens(tokenizer, prompt):
    """The token positions of every word of `prompt`, split on single spaces."""
    spans, start = [], 1
    for word in prompt.split(" "):
        count = len(tokenizer(word, add_special_tokens=False).input_ids)
        spans.append(list(range(start, start + count)))
        start += count
    last = tokenizer.model_max_length - 1
    return [[position for position in span if position < last] for span in spans]


def tokens_of(tokenizer, prompt, word):
    """The token positions of every occurrence of `word` in `prompt`."""
    pairs = zip(prompt.split(" "), words_tokens(tokenizer, prompt))
    return [position for other, span in pairs if other == word for position in span]


def align(source, target):
    """For every target token the source token it is aligned with, or -1 (Needleman-Wunsch)."""
    score = [[0] * (len(target) + 1) for _ in range(len(source) + 1)]
    for i, a in enumerate(source, 1):
        for j, b in enumerate(target, 1):
            diagonal = score[i - 1][j - 1] + (1 if a == b else -1)
            score[i][j] = max(score[i][j - 1], score[i - 1][j], diagonal)
    aligned, i, j = [-1] * len(target), len(source), len(target)
    while i > 0 and j > 0:
        if score[i][j] == score[i][j - 1]:
            j -= 1
        elif score[i][j] == score[i - 1][j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            aligned[j] = i
    return aligned


def refine_map(tokenizer, source, target):
    """The matrix (source token, target token) of `refine`, and which target tokens it fills."""
    length = tokenizer.model_max_length
    encode = {"truncation": True, "max_length": length}
    ids = [tokenizer(prompt, **encode).input_ids for prompt in (source, target)]
    aligned = align(*ids) + list(range(len(ids[1]), length))
    matrix, keep = torch.zeros(length, length), torch.zeros(length)
    for j, i in enumerate(aligned):
        if i >= 0:
            matrix[i, j] = keep[j] = 1
    return matrix, keep


def replace_map(tokenizer, source, target):
    """The matrix (source token, target token) of `replace`."""
    length = tokenizer.model_max_length
    words = source.split(" "), target.split(" ")
    assert len(words[0]) == len(words[1]), "replace needs as many words in both prompts"
    spans = [words_tokens(tokenizer, prompt) for prompt in (source, target)]
    matrix = torch.zeros(length, length)
    i = j = 0
    for a, b, from_, to in zip(*words, *spans):
        if a == b or not from_:
            continue
        while i < from_[0] and j < length:
            matrix[i, j] = 1
            i, j = i + 1, j + 1
        if len(from_) == len(to):
            matrix[from_, to] = 1
        else:
            for column in to:
                matrix[from_, column] = 1 / len(to)
        i, j = i + len(from_), j + len(to)
    # Past the last replaced word nothing is shifted: a token keeps its own position, for as many
    # columns as are left of both sequences.
    for column in range(j, j + length - max(i, j)):
        matrix[column, column] = 1
    return matrix


def word_bounds(tokenizer, target, steps, cross):
    """Where the maps are rewritten: (steps + 1, tokens), 1 or 0."""
    length = tokenizer.model_max_length
    bounds = dict(cross) if isinstance(cross, dict) else {"default_": cross}
    alpha = torch.zeros(steps + 1, length)
    default = bounds.pop("default_", 1.0)
    for word, span in [(None, default), *bounds.items()]:
        start, end = span if isinstance(span, (list, tuple)) else (0, span)
        start, end = int(start * (steps + 1)), int(end * (steps + 1))
        tokens = range(length) if word is None else tokens_of(tokenizer, target, word)
        for token in tokens:
            alpha[:, token] = 0
            alpha[start:end, token] = 1
    return alpha


# --- Prompt-to-prompt: control of the attention maps -------------------------------------------


class Control:
    """Rewrites the target's attention maps with the source's, and masks the change of the picture.

    settings: replace (or refine), cross (share of the steps, or shares per word), self (share of
    the steps), eq (words and values to amplify) and blend (a word, or words, per prompt).
    """

    def __init__(self, unet, tokenizer, prompts, steps, settings):
        source, target = prompts
        if settings["replace"]:
            self.matrix = replace_map(tokenizer, source, target)
            self.keep = torch.ones(tokenizer.model_max_length)
        else:
            self.matrix, self.keep = refine_map(tokenizer, source, target)
        self.alpha = word_bounds(tokenizer, target, steps, settings["cross"])
        self.self_steps = int(steps * settings["self"])
        self.factors = torch.ones(tokenizer.model_max_length)
        eq = settings.get("eq") or {"words": [], "values": []}
        for word, value in zip(eq["words"], eq["values"]):
            self.factors[tokens_of(tokenizer, target, word)] = value
        self.selection = selection(tokenizer, prompts, settings.get("blend"))
        self.level, self.kept = blend_layers(unet)
        self.sums = {}
        for name, module in unet.named_modules():
            if name.endswith((".attn1", ".attn2")):
                module.set_processor(Processor(self, name))

    def begin_step(self, i, latent_size):
        self.step, self.size = i, latent_size

    def context(self, name, keys, values):
        """The keys and values of one layer, as they are."""
        return keys, values

    def rewrite(self, name, maps):
        """The maps (row, head, query, key) of one layer, rewritten."""
        source, target = maps
        if name.endswith(".attn2"):
            edit = source @ self.matrix * self.keep + target * (1 - self.keep)
            alpha = self.alpha[self.step]
            target = alpha * edit * self.factors + (1 - alpha) * target
        elif self.step < self.self_steps and 4 * maps.shape[2] <= math.prod(self.size):
            target = source
        maps = torch.stack([source, target])
        if name in self.kept:
            self.sums[name] = self.sums.get(name, 0) + maps
        return maps

    def mask(self):
        """Where the target may differ from the source: (1, 1, h, w), or None without a blend."""
        if self.selection is None:
            return None
        grid = self.size
        for _ in range(self.level):
            grid = [(side + 1) // 2 for side in grid]
        maps = torch.cat([self.sums[name] for name in self.kept], dim=1)
        attended = (maps * self.selection[:, None, None]).sum(-1).mean(1)
        attended = attended.reshape(2, 1, *grid)
        attended = F.max_pool2d(attended, 3, stride=1, padding=1)
        attended = F.interpolate(attended, size=self.size)
        self.share = attended / attended.amax((2, 3), keepdim=True)
        return (self.share > MASK_THRESHOLD).any(0, keepdim=True).float()


class Masactrl:
    """Mutual self-attention: from a step and a layer on all rows read the source's features."""

    def __init__(self, unet, start):
        self.first_step, first_layer = start
        sides = ["down_blocks", "mid_block", "up_blocks"]
        modules = [pair for pair in unet.named_modules() if pair[0].endswith((".attn1", ".attn2"))]
        modules.sort(key=lambda pair: sides.index(pair[0].split(".")[0]))  # by evaluation
        own = [name for name, _ in modules if name.endswith(".attn1")]
        self.layers = own[first_layer:]
        for name, module in modules:
            module.set_processor(Processor(self, name))

    def begin_step(self, i, latent_size):
        self.step = i

    def context(self, name, keys, values):
        if self.step < self.first_step or name not in self.layers:
            return keys, values
        return keys[:1].expand_as(keys), values[:1].expand_as(values)

    def rewrite(self, name, maps):
        return maps

    def mask(self):
        return None


def selection(tokenizer, prompts, blend):
    """The blend words' tokens of each prompt, (rows, tokens), or None."""
    if blend is None:
        return None
    out = torch.zeros(len(prompts), tokenizer.model_max_length)
    for row, (prompt, words) in enumerate(zip(prompts, blend)):
        for word in [words] if isinstance(words, str) else words:
            out[row, tokens_of(tokenizer, prompt, word)] = 1
    return out


def blend_layers(unet):
    """The level whose queries are a quarter of the latent's sides, and its cross-attentions.

    The middle block does not count. Without attention at that level the nearest one serves.
    """
    levels, last = {}, len(unet.up_blocks) - 1
    for name, _ in unet.named_modules():
        if name.endswith(".attn2") and not name.startswith("mid_block"):
            side, index = name.split(".")[:2]
            level = int(index) if side == "down_blocks" else last - int(index)
            levels.setdefault(level, []).append(name)
    level = min(levels, key=lambda level: abs(level - 2))
    return level, levels[level]


class Processor:
    """Attention of diffusers with its maps in the open."""

    def __init__(self, control, name):
        self.control, self.name = control, name

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **_):
        keys = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        split = lambda x: x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # noqa: E731
        q, k, v = split(attn.to_q(hidden_states)), split(attn.to_k(keys)), split(attn.to_v(keys))
        k, v = self.control.context(self.name, k, v)
        maps = (q @ k.transpose(-1, -2) * attn.scale).softmax(-1)
        out = self.control.rewrite(self.name, maps) @ v
        return attn.to_out[0](out.transpose(1, 2).flatten(2))
