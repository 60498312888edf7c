"""Runs `icd`, PyTorch and OpenVINO turn by turn on the same work and prints one markdown table.

    compare.py --icd target/release/examples/bench --openvino-python ovenv/bin/python

Each measurement is a process of its own, so that its memory is its own. A round measures every case on every side, one
side right after the other and each round starting with another side: what slows the machine for minutes slows all
sides. Times and memories are medians over the rounds; a ratio is the median of the rounds' own ratios.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).parent
CASES = "unet:1 unet:2 vae-encode:1 vae-decode:1 clip:2 edit:2 train-step:32"
SIDES = ["icd", "torch", "openvino"]
NOT_OPENVINO = {"edit", "train-step"}
HEAD = ["what", "rows", "size", *(f"{side} s" for side in SIDES), "icd/torch", "icd/openvino"]
HEAD += [f"{side} GiB" for side in SIDES]


def main():
    args = options()
    results = defaultdict(dict)  # (what, rows, part, side) to the lines by round
    for turn in range(args.rounds):
        for what, rows in args.cases:
            for side in rotated(sides_of(what, args), turn):
                for name, line in lines(measured(side, what, rows, args)):
                    results[what, rows, name, side][turn] = line
    print(table(results, args.cases))


def options():
    """What to compare, and how often."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--icd", type=shlex.split, help="command of our benchmark; without it only the others run")
    parser.add_argument("--python", default=sys.executable, help="Python with PyTorch, diffusers, transformers, peft")
    parser.add_argument("--openvino-python", help="Python with those and OpenVINO; without it OpenVINO is left out")
    parser.add_argument("--cases", type=cases, default=cases(CASES), help=f"what:rows, such as '{CASES}'")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=3, help="runs of one measurement; an edit is run once")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="f32")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, for icd and PyTorch")
    parser.add_argument("--family", default="sd15", help="sd15 or sdxl, for the UNet")
    parser.add_argument("--compile", help="mode in which torch.compile takes PyTorch's UNet; eager without it")
    parser.add_argument("--model", help="the model folder of an edit by icd")
    parser.add_argument(
        "--channels-last",
        type=lambda text: set(text.split(",")),
        default={"vae-encode", "vae-decode", "train-step"},
        help="where PyTorch lays pictures out channels last, because it is faster so; 'none' for nowhere",
    )
    return parser.parse_args()


def cases(text):
    """Pairs of work and rows."""
    return [(what, int(rows)) for what, rows in (case.split(":") for case in text.split())]


def sides_of(what, args):
    """The sides that can do this work."""
    sides = ["icd"] if args.icd else []
    sides.append("torch")
    if args.openvino_python and what not in NOT_OPENVINO:
        sides.append("openvino")
    return sides


def rotated(sides, turn):
    """The same sides, beginning with another one each turn."""
    start = turn % len(sides)
    return sides[start:] + sides[:start]


def measured(side, what, rows, args):
    """One measurement in a process of its own: its JSON line, or nothing where it failed."""
    command = [*program(side, args), *flags(side, what, rows, args)]
    print(f"{side:>8} {what}:{rows} ", end="", file=sys.stderr, flush=True)
    done = subprocess.run(command, capture_output=True, text=True)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not found:
        print(f"failed\n{done.stderr[-2000:]}", file=sys.stderr)
        return None
    print(f"{found[0]['median_s']:.3f} s, {found[0].get('busy_cores', '?')} cores busy", file=sys.stderr)
    return found[0]


def program(side, args):
    """The command of a side, without its flags."""
    return {
        "icd": args.icd,
        "torch": [args.python, str(HERE / "torch_side.py")],
        "openvino": [args.openvino_python, str(HERE / "openvino_side.py")],
    }[side]


def flags(side, what, rows, args):
    """The flags that all sides know, and PyTorch's layout."""
    runs = 1 if what == "edit" else args.runs
    given = dict(what=what, rows=rows, size=args.size, threads=args.threads, runs=runs, dtype=args.dtype)
    given |= dict(device=args.device, family=args.family)
    if side == "icd" and what == "edit":
        given["model"] = args.model
    if side == "torch" and what == "unet" and args.compile:
        given["compile"] = args.compile
    common = [part for name, value in given.items() for part in (f"--{name}", str(value))] + ["--json"]
    return common + ["--channels-last"] * (side == "torch" and what in args.channels_last)


def lines(line):
    """A result under the empty name, and each of its parts under its own, as a result with only a time."""
    if line:
        yield "", line
        for part, seconds in line.get("parts", {}).items():
            yield part, {"median_s": seconds, "size": line["size"]}


def table(results, cases):
    """All results as a markdown table."""
    rows = [HEAD, ["---"] + ["---:"] * (len(HEAD) - 1)]
    for what, count in cases:
        for name in dict.fromkeys(key[2] for key in results if key[:2] == (what, count)):
            rows.append(row(what, count, name, {side: results.get((what, count, name, side), {}) for side in SIDES}))
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)


def row(what, count, name, found):
    """One line of the table; a dash where a side has nothing."""
    size = next(str(line["size"]) for by_round in found.values() for line in by_round.values())
    label = f"{what}, {name}" if name else what
    times = [middle(found[side], "median_s", ".3f") for side in SIDES]
    ratios = [ratio(found["icd"], found[side]) for side in SIDES[1:]]
    peaks = [middle(found[side], "peak_gib", ".2f") for side in SIDES]
    return [label, str(count), size, *times, *ratios, *peaks]


def middle(found, key, form):
    """The median of a number over the rounds, as text."""
    numbers = [line[key] for line in found.values() if line.get(key)]
    return format(statistics.median(numbers), form) if numbers else "-"


def ratio(ours, theirs):
    """The median of our time over theirs, round by round, as text."""
    pairs = [ours[turn]["median_s"] / theirs[turn]["median_s"] for turn in ours.keys() & theirs.keys()]
    return f"{statistics.median(pairs):.2f}" if pairs else "-"


if __name__ == "__main__":
    main()
