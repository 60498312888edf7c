"""Edits each picture that is named on stdin, with the model loaded once.

    ls pictures/*.png | python examples/engines/worker.py OUT [flags of icd batch]
"""

import json
import subprocess
import sys

out, *flags = sys.argv[1:]
pipe = subprocess.PIPE
command = ["icd", "batch", "-", "--output-dir", out, *flags]
with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as icd:
    for line in sys.stdin:
        job = {
            "image": line.strip(),
            "src_prompt": "a photo of a cat",
            "tgt_prompt": "a photo of a tiger",
        }
        print(json.dumps(job), file=icd.stdin, flush=True)
        answer = json.loads(icd.stdout.readline())
        print(answer["status"], *answer["outputs"], answer.get("error", ""))
    icd.stdin.close()
sys.exit(icd.returncode)
