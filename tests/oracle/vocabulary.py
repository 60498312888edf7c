"""A small vocabulary in the file format of CLIP's tokenizer.

CLIP numbers its tokens so: 256 byte symbols, the same 256 ending a word, one entry per merge,
and the start and end tokens last. Only the merges are learned here, from a few sentences.
"""

import json
import re
from collections import Counter
from pathlib import Path

SENTENCES = """
a photo of a bird standing on a branch
a photo of a lego bird standing on a snowy branch
a photo of a dog sitting on a wooden branch
a watercolor painting of a red house by the lake at night
a photo of a house by the lake in the morning
a small painting of a snowy house
"""
START, END = "<|startoftext|>", "<|endoftext|>"


def byte_symbols():
    """The printable characters that stand for the bytes, in the order of CLIP's vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


def learn_merges(text, count):
    """The `count` most frequent pairs, merged one after another; ties go to the first in order."""
    words = Counter(re.findall(r"[a-z]+", text.lower()))
    pieces = {word: [*word[:-1], word[-1] + "</w>"] for word in words}
    merges = []
    while len(merges) < count:
        pairs = Counter()
        for word, parts in pieces.items():
            for pair in zip(parts, parts[1:]):
                pairs[pair] += words[word]
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        pieces = {word: merge(parts, best) for word, parts in pieces.items()}
    return merges


def merge(parts, pair):
    """`parts` with every neighbouring `pair` joined, from the left."""
    out = []
    for part in parts:
        joined = out and (out[-1], part) == pair
        out = [*out[:-1], out[-1] + part] if joined else [*out, part]
    return out


def write_tokenizer(folder, length, pad, merge_count=72):
    """Writes vocab.json, merges.txt and tokenizer_config.json and returns the vocabulary's size."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    symbols = byte_symbols()
    merges = learn_merges(SENTENCES, merge_count)
    entries = [*symbols, *(s + "</w>" for s in symbols), *map("".join, merges), START, END]
    vocabulary = {entry: i for i, entry in enumerate(entries)}
    assert len(vocabulary) == len(entries), "every merge makes a new token"
    text = json.dumps(vocabulary, ensure_ascii=False, separators=(",", ":"))
    (folder / "vocab.json").write_text(text, encoding="utf-8")
    lines = ["#version: 0.2", *map(" ".join, merges), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    config = {
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": pad,
        "model_max_length": length,
        "tokenizer_class": "CLIPTokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return len(vocabulary)
