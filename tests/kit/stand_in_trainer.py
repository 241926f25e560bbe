"""What `--launcher` hands a recipe to: puts an adapter where Axolotl would, and notes the call.

The adapter is one that was made before, chosen by the recipe's seed. `STOP_AT=n` in the environment
makes the n-th call fail.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import yaml

if __name__ == "__main__":
    recipe = yaml.safe_load(Path(sys.argv[1]).read_text())
    with Path("calls.txt").open("ab") as calls:
        calls.write(f"{sys.argv[1]}\n".encode())
        calls.flush()
        end = calls.tell()  # Another may have written behind it since.
    call = Path("calls.txt").read_bytes()[:end].count(b"\n")
    if call == int(os.environ.get("STOP_AT", "0")):
        sys.exit("out of memory")
    shutil.copytree(f"adapter-{1 + recipe['seed'] % 2}", recipe["output_dir"])
