"""Whether icd and Hugging Face's own huggingface_hub share a cache, both ways.

    python hub_cache.py ../../target/release/icd ../data/sd

A hub on this machine serves the model folder as the repository some/model. icd fetches it, and huggingface_hub finds
every file offline; huggingface_hub fetches it into another cache, and icd opens and verifies it offline. In a third
cache icd goes on with what another program began: half of a large file.
"""

import argparse
import hashlib
import http.server
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

REPOSITORY = "some/model"
COMMIT = "0123456789" * 4
LARGE = 100_000


def files(folder):
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in {".json", ".txt", ".toml", ".safetensors"}:
            yield path.relative_to(folder).as_posix(), path.read_bytes()


def blob(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sibling(name, content):
    told = {"rfilename": name, "size": len(content), "blobId": blob(content)}
    if len(content) >= LARGE:
        told["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return told


def handler(folder):
    held = dict(files(folder))
    listing = {
        "id": REPOSITORY, "modelId": REPOSITORY, "sha": COMMIT, "private": False, "tags": [], "downloads": 0,
        "siblings": [sibling(*file) for file in held.items()],
    }

    class Hub(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, status, body, headers):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_GET(self):
            path = self.path.split("?")[0]
            if path.startswith("/api/models/"):
                return self.answer(200, json.dumps(listing).encode(), {"content-type": "application/json"})
            _, _, rest = path.partition("/resolve/")
            content = held.get(rest.partition("/")[2])
            if content is None:
                return self.answer(404, b"", {"x-error-code": "EntryNotFound"})
            large = len(content) >= LARGE
            etag = hashlib.sha256(content).hexdigest() if large else blob(content)
            headers = {"etag": f'"{etag}"', "x-repo-commit": COMMIT, "accept-ranges": "bytes"}
            if large:
                headers |= {"x-linked-etag": f'"{etag}"', "x-linked-size": str(len(content))}
            wanted = self.headers.get("range")
            if wanted is None:
                return self.answer(200, content, headers)
            first = int(wanted.removeprefix("bytes=").split("-")[0])
            headers["content-range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
            return self.answer(206, content[first:], headers)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    return Hub


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("icd", type=Path)
    parser.add_argument("model", type=Path)
    args = parser.parse_args()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler(args.model))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"

    def run(home, command, **more):
        env = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", **more}
        subprocess.run([str(word) for word in command], env=env, check=True, stdout=subprocess.DEVNULL)

    def icd(home, *words, **more):
        run(home, [args.icd.resolve(), "model", *words], **more)

    def python(home, code, **more):
        run(home, [sys.executable, "-c", f"import huggingface_hub as hub\n{code}"], **more)

    held = dict(files(args.model))
    needed = [name for name in held if not name.startswith(("golden", "distil")) and "kohya" not in name
              and "diffusers." not in name.rpartition("/")[2]]
    offline = {"HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs, mixed = (Path(folder) / name for name in ("ours", "theirs", "mixed"))

        icd(ours, "fetch", f"hub:{REPOSITORY}", "--yes", "--quiet")
        snapshot = ours / "hub/models--some--model/snapshots" / COMMIT
        fetched = [path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()]
        check = "\n".join(f"assert open(hub.hf_hub_download({REPOSITORY!r}, {name!r}), 'rb').read() == "
                          f"open({str(args.model / name)!r}, 'rb').read()" for name in fetched)
        python(ours, check, **offline)
        print(f"huggingface_hub reads all {len(fetched)} files that icd fetched")

        python(theirs, "\n".join(f"hub.hf_hub_download({REPOSITORY!r}, {name!r})" for name in needed))
        icd(theirs, "verify", f"hub:{REPOSITORY}", **offline)
        icd(theirs, "fetch", f"hub:{REPOSITORY}", **offline)
        print(f"icd opens and verifies all {len(needed)} files that huggingface_hub fetched")

        large = max(held, key=lambda name: len(held[name]) if name in fetched else 0)
        digest = hashlib.sha256(held[large]).hexdigest()
        part = mixed / "hub/models--some--model/blobs" / f"{digest}.incomplete"
        part.parent.mkdir(parents=True)
        part.write_bytes(held[large][: len(held[large]) // 2])
        icd(mixed, "fetch", f"hub:{REPOSITORY}", "--yes", "--quiet")
        assert not part.exists() and (part.parent / digest).read_bytes() == held[large]
        python(mixed, check, **offline)
        print(f"icd goes on with half of {large} under the name that huggingface_hub gives it")


if __name__ == "__main__":
    main()
