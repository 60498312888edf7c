"""Runs the jobs of a manifest on Ray: each actor keeps one `icd batch -` with its model loaded.

    python examples/engines/ray_batch.py JOBS.jsonl OUT [--actors N] [--gpus 1] [-- flags of icd batch]

Jobs go to whichever actor is free. One that dies, or whose icd was killed, is restarted, and its
job is run again; a finished one is skipped. The exit code is that of `icd batch`: 0 all done, 1
some jobs failed, 2 wrong usage.
"""

import argparse
import json
import os
import subprocess
import sys

import ray
from ray.util import ActorPool

# An actor that dies is restarted, and the call that it was in is made again.
SURVIVES = {"max_restarts": -1, "max_task_retries": 5}


@ray.remote(**SURVIVES)
class Worker:
    """A process of `icd batch -`."""

    def __init__(self, flags, folder):
        command = ["icd", "batch", "-", *flags]
        pipe = subprocess.PIPE
        self.icd = subprocess.Popen(command, cwd=folder, stdin=pipe, stdout=pipe, text=True)

    def run(self, job):
        """Sends a job and waits for its answer."""
        try:
            self.icd.stdin.write(job + "\n")
            self.icd.stdin.flush()
        except BrokenPipeError:
            pass
        answer = self.icd.stdout.readline()
        if answer:
            return json.loads(answer)
        if self.icd.wait() == 2:
            return {"status": "usage", "error": "icd refused its flags", "job": job}
        os._exit(1)  # killed, or the machine failed: Ray starts another one


def arguments():
    own, flags = sys.argv[1:], []
    if "--" in own:
        at = own.index("--")
        own, flags = own[:at], own[at + 1 :]
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("jobs")
    parser.add_argument("out")
    parser.add_argument("--actors", type=int, help="as many as fit, if not given")
    parser.add_argument("--gpus", type=float, default=0, help="of each actor")
    return parser.parse_args(own), flags


def main():
    args, flags = arguments()
    with open(args.jobs, encoding="utf-8") as file:
        jobs = [line.strip() for line in file if line.strip()]
    ray.init()
    resource = "GPU" if args.gpus else "CPU"
    count = args.actors or int(ray.cluster_resources()[resource] / (args.gpus or 1))
    flags = ["--output-dir", args.out, *flags]
    worker = Worker.options(num_cpus=1, num_gpus=args.gpus)
    workers = [worker.remote(flags, os.getcwd()) for _ in range(max(1, min(count, len(jobs))))]
    counts = {}
    for answer in ActorPool(workers).map_unordered(lambda own, job: own.run.remote(job), jobs):
        counts[answer["status"]] = counts.get(answer["status"], 0) + 1
        if "error" in answer:
            print(json.dumps(answer), file=sys.stderr)
    print(json.dumps(counts))
    return 2 if "usage" in counts else int("failed" in counts)


if __name__ == "__main__":
    sys.exit(main())
