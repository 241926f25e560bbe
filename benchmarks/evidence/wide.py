"""Study 3, the table of both priors on a base model of twice the width, overfitted for 30 epochs.

    python benchmarks/evidence/wide.py            # goes on where it was stopped
    python benchmarks/evidence/world_page.py      # docs/world.md, from the results

Protocol, written before the first run. What is trained and measured is said in
`benchmarks/overfitting.py`. One base model (SIZE; hidden size 256), which reads the world of the
map; LoRAs on 300 rows, COURSE: 30 epochs, the rate from 5e-3 to 0 by a cosine; SEEDS of rows,
adapter and order. All else is as on the map, whose point and rule play no part here. An earlier
start of this table was stopped after a few runs at seed 0, whose results were not kept.

Arms, each at every seed. ARMS first, seed by seed: plain SFT; the uniform prior at mean 0.1 (at
most 0.5) by the rank of perplexity under the base model, constant and shuffled; the reference prior
at mean 0.1 likewise; the reference prior at mean 0.4 (at most 0.9) by perplexity and constant. Then
TRUTH, by the true entropy of a row's question, as a perfect judge would say it: the uniform prior
at 0.1, the reference prior at 0.1 and 0.4.

Measures: NLL a token and ECE (10 bins of equal width) on 1,200 held-out rows in the three groups,
and KL to the base model on statements. Differences are paired by seed; an interval is Student's at
95 % over seeds, not corrected for how many there are. Every arm is shown, whichever way it comes
out.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

from overfitting import Arm, Course, Study, make_base

from axolotl_ual.demo.base_model import BaseSize

RESULTS = Path(__file__).parent / "results" / "wide.json"
SIZE = BaseSize(hidden_size=256, intermediate_size=1024, batch=4, learning_rate=7e-4)
COURSE = Course((30,), rate=5e-3, cosine=True)
WORLD = 0
SEEDS = (0, 1, 2, 3, 4)
ARMS = (
    Arm("SFT"),
    Arm("uniform: UAL", "uniform", 0.1),
    Arm("uniform: constant", "uniform", 0.1, control="constant"),
    Arm("uniform: shuffled", "uniform", 0.1, control="shuffled"),
    Arm("reference: UAL", "reference", 0.1),
    Arm("reference: constant", "reference", 0.1, control="constant"),
    Arm("reference: shuffled", "reference", 0.1, control="shuffled"),
    Arm("reference, mean 0.4: UAL", "reference", 0.4, 0.9),
    Arm("reference, mean 0.4: constant", "reference", 0.4, 0.9, control="constant"),
)
TRUTH = (
    Arm("uniform: true entropy", "uniform", 0.1, estimator="truth"),
    Arm("reference: true entropy", "reference", 0.1, estimator="truth"),
    Arm("reference, mean 0.4: true entropy", "reference", 0.4, 0.9, estimator="truth"),
)


def run(results: Path, folder: Path) -> None:
    """Make the runs that the results do not hold; they are written after each.

    Args:
        results: JSON with `base` (by seed), `arms` (by name and seed) and `protocol`.
        folder: keeps the base model; one that is there is taken as it is.
    """
    document: dict[str, Any] = {"base": {}, "arms": {}}
    if results.is_file():
        document = json.loads(results.read_text(encoding="utf-8"))
    document["protocol"] = __doc__
    base = make_base(folder, WORLD, SIZE)
    studies = {seed: Study(base, seed) for seed in SEEDS}
    document["base"] = {str(seed): study.before for seed, study in studies.items()}
    for seed, arm in (*itertools.product(SEEDS, ARMS), *itertools.product(SEEDS, TRUTH)):
        done = document["arms"].setdefault(arm.name, {})
        if str(seed) in done:
            continue
        (done[str(seed)],) = studies[seed].run(arm, COURSE)
        results.parent.mkdir(parents=True, exist_ok=True)
        results.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        print(seed, arm.name, f"{done[str(seed)]['seconds']:.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--base", type=Path, help="folder that keeps the base model")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        run(args.results, args.base or Path(name))


if __name__ == "__main__":
    main()
