"""Runs batches from and to a local S3 server: with connections that are cut half-way, workers that
are killed, and two workers on the same jobs.

    python3 -m venv target/moto && target/moto/bin/pip install 'moto[server]'
    cargo build --release --features cloud
    target/moto/bin/python tests/cloud.py

ICD is the program (default target/release/icd), JOBS the number of jobs (60). Without moto, or with
an icd that was built without the feature `cloud`, the script tells so and skips everything.
"""

import json
import logging
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ICD = str(Path(os.environ.get("ICD", ROOT / "target/release/icd")).resolve())
COUNT = int(os.environ.get("JOBS", "60"))
BUCKET = "pictures"
FAILED = []


def check(passed, what, detail=""):
    print(("passed: " if passed else "FAILED: ") + what + (f": {detail}" if detail and not passed else ""))
    if not passed:
        FAILED.append(what)


class Proxy:
    """Passes connections on to a port, and cuts each after some bytes of either direction."""

    def __init__(self, port, seed):
        self.port, self.cuts, self.random = port, 0, random.Random(seed)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.own = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            server = socket.create_connection(("127.0.0.1", self.port))
            budget = {client: self.budget(), server: self.budget()}
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=self.pump, args=(one, other, budget), daemon=True).start()

    def budget(self):
        return self.random.choice([300, 3_000, 10_000, 30_000, 100_000] + 10 * [10**9])

    def pump(self, one, other, budget):
        try:
            while data := one.recv(4096):
                part = data[: budget[one]]
                other.sendall(part)
                budget[one] -= len(part)
                if len(part) < len(data):
                    self.cuts += 1
                    break
        except OSError:
            pass
        for end in (one, other):
            try:
                # What was sent arrives; a client that waits for more learns of the end.
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class Bucket:
    """What lies in the bucket, with the number of times that each object was written."""

    def __init__(self, client):
        self.client = client

    def put(self, key, content):
        self.client.put_object(Bucket=BUCKET, Key=key, Body=content)

    def read(self, key):
        return self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()

    def versions(self, prefix):
        counts = {}
        pages = self.client.get_paginator("list_object_versions")
        for page in pages.paginate(Bucket=BUCKET, Prefix=prefix):
            for version in page.get("Versions", []):
                name = version["Key"].removeprefix(prefix)
                counts[name] = counts.get(name, 0) + 1
        return counts

    def results(self, prefix):
        names = self.versions(prefix)
        return {name: self.read(prefix + name) for name in names if not name.endswith(".jsonl")}


def environment(port):
    own = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "ICD_CONFIG": "none",
        "ICD_DEVICE": "cpu",
        "ICD_THREADS": "1",
        "ICD_MODEL": str(ROOT / "tests/data/shapes"),
        "NO_PROXY": "127.0.0.1",
    }
    return {**os.environ, **own}


def start(port, *args):
    pipe = subprocess.PIPE
    command = [ICD, "batch", *args]
    return subprocess.Popen(command, env=environment(port), stdout=pipe, stderr=pipe, text=True)


def icd(port, *args):
    process = start(port, *args)
    out, err = process.communicate()
    return process.returncode, out, err


def jobs():
    """Twenty inversions at most, with several targets each; some results of other formats."""
    colours, shapes = ["red", "yellow", "green"], ["star", "heart", "circle", "square"]
    found = []
    for n in range(COUNT):
        ending = ["png", "png", "jpg", "webp"][n % 4]
        job = {
            "image": f"s3://{BUCKET}/in/scene.png",
            "seed": n // 10,
            "src_prompt": "on the left a large blue star",
            "tgt_prompt": f"on the left a large {colours[n % 3]} {shapes[n // 3 % 4]}",
            "output": f"deep é/{n}.{ending}",
        }
        if n % 5 == 0:
            job["no_metadata"] = True
        found.append(job)
    return found


def pixels(png):
    """The compressed pixels of a PNG, without its notes."""
    at, found = 8, b""
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        found += png[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
        at += length + 12
    return found


def local_results(home, manifest):
    """The pixels of the PNGs of a run on the disk."""
    scene = ROOT / "examples/scene.png"
    lines = [{**job, "image": str(scene)} for job in manifest]
    (home / "local.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    code, _, err = icd(1, str(home / "local.jsonl"), "--output-dir", str(home / "out"))
    check(code == 0, "a run on the disk", err)
    return {
        str(file.relative_to(home / "out")): pixels(file.read_bytes())
        for file in (home / "out").rglob("*.png")
    }


def create_once(bucket):
    """The server honours the header that exclusive creation is made of."""
    from botocore.exceptions import ClientError

    bucket.put("once", b"first")
    try:
        bucket.client.put_object(Bucket=BUCKET, Key="once", Body=b"second", IfNoneMatch="*")
        check(False, "the server honours If-None-Match")
    except ClientError as error:
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        check(status == 412 and bucket.read("once") == b"first", "the server honours If-None-Match")


def whole(port, bucket, expected):
    """A run without trouble, and again."""
    out = f"s3://{BUCKET}/whole"
    code, _, err = icd(port, f"s3://{BUCKET}/jobs.jsonl", "--output-dir", out)
    check(code == 0, "a run from and to the server", err)
    results = bucket.results("whole/")
    pngs = {name: pixels(content) for name, content in results.items() if name.endswith(".png")}
    check(pngs == expected and len(results) == COUNT, "its pixels are those of a run on the disk")
    code, printed, err = icd(port, f"s3://{BUCKET}/jobs.jsonl", "--output-dir", out)
    again = code == 0 and not printed and f"{COUNT} finished before" in err
    check(again and set(bucket.versions("whole/").values()) == {1}, "a second run writes nothing", err)
    code, printed, err = icd(port, f"s3://{BUCKET}/jobs.jsonl", "--output-dir", out, "--status")
    check(code == 0 and f"done: {COUNT}" in printed, "--status knows them all", printed + err)
    return results


def trouble(port, bucket, expected):
    """Connections are cut, two workers do the same jobs, and one of them is killed."""
    proxy = Proxy(port, seed=3)
    args = (f"s3://{BUCKET}/jobs.jsonl", "--output-dir", f"s3://{BUCKET}/trouble")
    first, second = start(proxy.own, *args), start(proxy.own, *args)
    while len(bucket.versions("trouble/")) < COUNT // 3 and first.poll() in (None, 75):
        if first.poll() == 75:
            first = start(proxy.own, *args)  # as an engine does
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    killed_at, (_, told) = len(bucket.versions("trouble/")), second.communicate()
    first.communicate()
    check(first.returncode == -signal.SIGKILL, f"a worker is killed at {killed_at} results")
    code, _, err = icd(proxy.own, *args)
    for _ in range(5):
        if code != 75:  # the network failed for too long: the same command goes on
            break
        code, _, err = icd(proxy.own, *args)
    check(code == 0, f"the same command finishes ({proxy.cuts} connections cut)", err)
    check("again in" in told + err and proxy.cuts > 0, "repeated requests are told", told)
    check(bucket.results("trouble/") == expected, "every result is there, and that of a run without trouble")
    versions = bucket.versions("trouble/").values()
    check(set(versions) == {1}, "no result is written twice", str(sorted(versions)[-3:]))


def half_upload(port, bucket):
    """An upload that is cut leaves no object."""
    listener = socket.create_server(("127.0.0.1", 0))

    def cut():
        while True:
            client, _ = listener.accept()
            client.recv(2000)
            client.close()

    threading.Thread(target=cut, daemon=True).start()
    head = b"PUT /pictures/half.png HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n" + b"x" * 500
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(head)
    time.sleep(0.5)
    # What the server itself does with it: if it keeps half of it, the program cannot know.
    check(not bucket.versions("half.png"), "the server keeps no half object")
    began = time.time()
    code, _, err = icd(listener.getsockname()[1], f"s3://{BUCKET}/jobs.jsonl", "--output-dir", "out")
    passed = code == 75 and "6 times" in err
    check(passed, f"a server that cuts all is the machine's fault ({time.time() - began:.0f} s)", err)


def folder(port, bucket):
    """A folder of pictures with captions and a mask."""
    scene = (ROOT / "examples/scene.png").read_bytes()
    for name, content in {"a.png": scene, "a.txt": b"a blue star\r\n", "b.png": scene, "b.mask.png": scene,
                          "b.txt": b"a blue star", "c.png": scene, "deep/d.png": scene}.items():
        bucket.put("folder/" + name, content)
    args = ("--output-dir", f"s3://{BUCKET}/from-folder", "--replace", "blue=red")
    code, printed, err = icd(port, f"s3://{BUCKET}/folder/", *args)
    check(code == 1 and len(printed.splitlines()) == 2, "a folder is listed", printed + err)
    failed = bucket.read("from-folder/failed.jsonl").decode()
    check("c.txt" in failed and failed.count("\n") == 1, "its failures are listed in the bucket", failed)
    bucket.put("folder/c.txt", b"a blue star")
    code, printed, err = icd(port, f"s3://{BUCKET}/folder", *args)
    check(code == 0 and len(printed.splitlines()) == 1, "mended, what failed is run", printed + err)
    check("failed.jsonl" not in str(bucket.client.list_objects_v2(Bucket=BUCKET, Prefix="from-folder/")),
          "the list of failures is gone")


def refusals(port, bucket):
    """What is in the way, missing or not allowed."""
    bucket.put("taken/0.png", b"precious")
    job = {**jobs()[0], "output": "0.png"}
    missing = {**jobs()[1], "image": f"s3://{BUCKET}/no <where>.png"}
    odd = {**jobs()[2], "image": f"s3://{BUCKET}/odd\x1b.png"}
    bucket.put("few.jsonl", "\n".join(map(json.dumps, [job, missing, odd])).encode())
    code, _, err = icd(port, f"s3://{BUCKET}/few.jsonl", "--output-dir", f"s3://{BUCKET}/taken")
    kept = bucket.read("taken/0.png") == b"precious"
    passed = code == 1 and kept and "--force" in err and "3 of 3 jobs failed" in err
    passed = passed and "no <where>.png: there is no such object" in err and "\x1b" not in err
    check(passed, "an object of another is kept, and a missing one is named", err)
    for url, what in ((f"s3://{BUCKET}/none.jsonl", "no such object"), ("s3://nobucket/jobs.jsonl", "NoSuchBucket")):
        code, _, err = icd(port, url, "--output-dir", "out")
        check(code == 2 and what in err and url in err, f"{url} is no manifest", f"{code} {err}")


def worker(port, bucket):
    """Jobs on stdin, each answered when its object is there."""
    command = [ICD, "batch", "-", "--output-dir", f"s3://{BUCKET}/served"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, env=environment(port), stdin=pipe, stdout=pipe, text=True)
    for job in jobs()[:3]:
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
        check(answer["status"] == "done" and len(bucket.read("served/" + job["output"])) > 0, "an answered job is there")
    process.stdin.close()
    check(process.wait() == 0, "a worker ends with its jobs")


def main():
    try:
        import boto3
        from moto.server import ThreadedMotoServer
    except ImportError:
        print("skipped: moto is not installed")
        return 0
    if "without object stores" in icd(1, "s3://x/jobs.jsonl", "--output-dir", "out")[2]:
        print(f"skipped: {ICD} was built without the feature cloud")
        return 0
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)  # requests that are cut are its errors
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    port = server.get_host_and_port()[1]
    own = environment(port)
    client = boto3.client("s3", endpoint_url=own["AWS_ENDPOINT_URL"], region_name="us-east-1",
                          aws_access_key_id="test", aws_secret_access_key="test")
    client.create_bucket(Bucket=BUCKET)
    client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    bucket = Bucket(client)
    bucket.put("in/scene.png", (ROOT / "examples/scene.png").read_bytes())
    manifest = jobs()
    bucket.put("jobs.jsonl", "\n".join(map(json.dumps, manifest)).encode())
    with tempfile.TemporaryDirectory() as home:
        os.chdir(home)
        create_once(bucket)
        expected = whole(port, bucket, local_results(Path(home), manifest))
        trouble(port, bucket, expected)
        folder(port, bucket)
        refusals(port, bucket)
        worker(port, bucket)
        half_upload(port, bucket)
        os.chdir("/")
    server.stop()
    return int(bool(FAILED))


if __name__ == "__main__":
    sys.exit(main())
