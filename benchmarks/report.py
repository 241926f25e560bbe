"""Time, memory and size of a report, and when its page is ready.

    python benchmarks/report.py                        # 100,000 and 1,000,000 rows of about 0.9 kB
    python benchmarks/report.py --rows 100000 --browser

Each report is made by the command in a process of its own. `--browser` opens the page in Chromium
(`apt-get install chromium-driver`) and searches it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "kit"))

DISTINCT = 20_000
"""Different rows; of more they are repeated, each with its own number."""


def make_folder(folder: Path, rows: int) -> Path:
    """An annotated folder of rows with a spread of repeats."""
    from output_folders import alpaca, write_annotated

    once = alpaca(min(rows, DISTINCT))
    table = pa.concat_tables([once] * -(-rows // DISTINCT)).slice(0, rows)
    asked = [f"{text} #{i}" for i, text in enumerate(table["instruction"].to_pylist())]
    rng = np.random.default_rng(0)
    return write_annotated(
        folder,
        {"train": table.set_column(0, "instruction", pa.array(asked))},
        {"train": rng.beta(2, 3, rows)},
        further={"train": {"ual_spread": np.abs(rng.normal(0, 0.1, rows))}},
    )


def build(folder: Path) -> str:
    """Run the command and say what it took."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "axolotl_ual.preprocess.cli", "report", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    if status:
        raise SystemExit(f"{' '.join(command)}: status {status}")
    size = (folder / "report.html").stat().st_size / 1e6
    cpu = used.ru_utime + used.ru_stime
    memory = used.ru_maxrss * 1024 / 1e9
    return f"{seconds:.1f} s ({cpu:.1f} s of CPU), {memory:.2f} GB, {size:.1f} MB"


def show(folder: Path, profile: Path) -> str:
    """Open the page, and search it once."""
    from browser import chromium

    with chromium(profile) as browser:
        browser.open(folder / "report.html")
        ready = int(browser.run("document.documentElement.dataset.ready")) / 1e3
        began = time.perf_counter()
        browser.one("#search").send_keys("bread")
        browser.until("document.getElementById('status').textContent.includes('match')")
        return f"ready after {ready:.2f} s, first search {time.perf_counter() - began:.2f} s"


def main() -> None:
    """Make and show a report of each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--browser", action="store_true")
    given = parser.parse_args()
    for rows in given.rows:
        with tempfile.TemporaryDirectory() as scratch:
            folder = make_folder(Path(scratch) / "out", rows)
            print(f"{rows:>9,} rows: {build(folder)}", flush=True)
            if given.browser:
                print(f"{'':>9}       {show(folder, Path(scratch) / 'profile')}", flush=True)


if __name__ == "__main__":
    main()
