"""What the Python sides of the benchmark share: options, clock, memory and the printed line."""

import argparse
import ctypes
import gc
import json
import statistics
import threading
import time
from dataclasses import dataclass, field
from typing import Callable

# These always run with these rows, whatever `--rows` says.
FIXED_ROWS = {"clip": 2, "edit": 2, "train-step": 32}


@dataclass
class Work:
    """Something to time: `run` does it once and may return the seconds of its parts, `about` is printed beside.

    `settle` waits until a device has done all that it was given.
    """

    run: Callable
    about: dict = field(default_factory=dict)
    settle: Callable = lambda: None


class Laps:
    """Seconds of the named parts of one run, in which `settle` waits for the device; equal names add up."""

    def __init__(self, settle=lambda: None):
        self.seconds = {}
        self._settle = settle
        self._since = time.perf_counter()

    def lap(self, name):
        """Books the time since the last lap under `name`."""
        self._settle()
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now


class PeakMemory:
    """The highest anonymous resident memory of this process inside the block, in GiB, sampled from a thread."""

    def __init__(self, every=0.01):
        self.gib = anonymous_gib()
        self._every = every
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()

    def _watch(self):
        while not self._done.wait(self._every):
            self.gib = max(self.gib, anonymous_gib())


def anonymous_gib():
    """Resident memory that no file backs, in GiB; 0 where the system has no /proc."""
    try:
        with open("/proc/self/status") as status:
            line = next(line for line in status if line.startswith("RssAnon:"))
    except OSError:
        return 0.0
    return int(line.split()[1]) / 2**20


def options(description, whats, **defaults):
    """The command line that every side takes; `defaults` adds flags of one side as name=(default, help)."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--what", type=names(whats), default=whats, help=f"any of {','.join(whats)}")
    parser.add_argument("--size", type=int, default=512, help="side of the picture in pixels")
    parser.add_argument("--rows", type=numbers, default=[1], help="batch sizes, such as 1,2,4")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--warmup", type=int, help="runs before the clock starts (default 1, for edit 0)")
    parser.add_argument("--dtype", choices=["f32", "f16", "bf16"], default="f32")
    parser.add_argument("--family", choices=["sd15", "sdxl"], default="sd15", help="whose shapes the UNet has")
    parser.add_argument("--device", default="cpu", help="cpu or, where a side can, cuda")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    for flag, (default, text) in defaults.items():
        kind = {"action": "store_true"} if default is False else {"default": default}
        parser.add_argument(f"--{flag.replace('_', '-')}", help=text, **kind)
    return parser.parse_args()


def names(known):
    """A parser of comma-separated names that must be among `known`."""

    def parse(text):
        wanted = text.split(",")
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not one of {', '.join(known)}")
        return wanted

    return parse


def numbers(text):
    """Comma-separated whole numbers."""
    return [int(number) for number in text.split(",")]


def report(side, works, args):
    """Builds, times and prints everything asked for; `works[what](args, rows)` makes a `Work`."""
    for what in args.what:
        for rows in [FIXED_ROWS[what]] if what in FIXED_ROWS else args.rows:
            given = ["family", "size", "dtype", "device", "threads"]
            head = dict(side=side, what=what, rows=rows) | {name: getattr(args, name) for name in given}
            show({**head, **measure(lambda: works[what](args, rows), args.runs, warmup(what, args))}, args.json)


def warmup(what, args):
    """How many untimed runs come first: an edit is long enough to go without."""
    return args.warmup if args.warmup is not None else int(what != "edit")


def measure(build, runs, warmup):
    """Times `runs` runs of the work that `build` makes; the peak is of everything and, apart, of the runs.

    Fewer busy cores than threads mean that something else was running.
    """
    tidy()
    with PeakMemory() as building:
        work = build()
    tidy()
    with PeakMemory() as running:
        for _ in range(warmup):
            work.run()
        work.settle()
        begun = time.process_time()
        timed = [clock(work) for _ in range(runs)]
        worked = time.process_time() - begun
    seconds = [total for total, _ in timed]
    return {
        "median_s": round(statistics.median(seconds), 4),
        "best_s": round(min(seconds), 4),
        "runs": [round(second, 4) for second in seconds],
        "peak_gib": round(max(building.gib, running.gib), 3),
        "run_peak_gib": round(running.gib, 3),
        "busy_cores": round(worked / sum(seconds), 2),
        **parts([laps for _, laps in timed]),
        **work.about,
    }


def clock(work):
    """Seconds of one run, and those of its parts where it has some."""
    start = time.perf_counter()
    laps = work.run()
    work.settle()
    return time.perf_counter() - start, laps


def parts(laps):
    """The median of each part over the runs, under `parts`; nothing for work without parts."""
    if not isinstance(laps[0], dict):
        return {}
    return {"parts": {name: round(statistics.median(lap[name] for lap in laps), 4) for name in laps[0]}}


def tidy():
    """Collects garbage and, with glibc, hands freed memory back, so that one peak does not leak into the next."""
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        pass


def show(line, as_json):
    """Prints one result for a program or for a person."""
    if as_json:
        print(json.dumps(line), flush=True)
        return
    inside = ", ".join(f"{name} {seconds:.3f}" for name, seconds in line.get("parts", {}).items())
    print(
        f"{line['what']} rows {line['rows']} size {line['size']} {line['dtype']}: "
        f"median {line['median_s']:.3f} s, best {line['best_s']:.3f} s, peak {line['peak_gib']:.2f} GiB"
        + (f" ({inside})" if inside else ""),
        flush=True,
    )
