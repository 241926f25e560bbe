"""The studies of `benchmarks/evidence/`: each runs at toy size, and the page is what it draws."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import importlib.util
import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from scipy import stats

from tiny import make_model

ROOT = Path(__file__).resolve().parents[1]
EVIDENCE = ROOT / "benchmarks" / "evidence"
MODELS = ("one", "two", "three", "gpt4")
ADJECTIVES = ("quick", "brown", "lazy", "seven", "wise", "old")
NOUNS = ("fox", "dog", "owls", "books")
WORDS = tuple(f"{one} {other}" for one in ADJECTIVES for other in NOUNS)


def command(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(EVIDENCE / f"{name}.py"), *words],
        capture_output=True,
        text=True,
        check=False,
    )


def sentence(number: int, length: int = 6) -> str:
    return " ".join(WORDS[(number * 5 + place * 3) % len(WORDS)] for place in range(length))


def contents() -> dict[str, bytes]:
    """Every file of the lock by name, with a few rows of its own format."""
    sums = [
        {"question": f"What is {n} + 1?", "answer": f"So <<{n}+1={n + 1}>>{n + 1}\n#### {n + 1}"}
        for n in range(16)
    ]
    roles = [
        {"instruction": f"Play {sentence(n)}", "input": "", "response": sentence(n + 3, 8)}
        for n in range(16)
    ]
    pairs = [
        {
            "chosen": f"\n\nHuman: Ask {n}\n\nAssistant: {sentence(n)}",
            "rejected": f"\n\nHuman: Ask {n}\n\nAssistant: {sentence(n + 7, 4)}",
        }
        for n in range(12)
    ]
    found = {
        "gsm8k": "\n".join(map(json.dumps, sums)).encode(),
        "roleplay": json.dumps(roles).encode(),
        "harmless": gzip.compress("\n".join(map(json.dumps, pairs)).encode()),
    }
    for place, model in enumerate(MODELS):
        answers = [
            {"instruction": f"Tell {n}: {sentence(n)}", "output": sentence(n * (place + 1), 7)}
            for n in range(8)
        ]
        found[f"alpaca_eval/{model}"] = json.dumps(answers).encode()
    return found


def write_data(folder: Path, files: Mapping[str, bytes]) -> Path:
    """The files where `sources.py` looks for them, and their lock."""
    locked = {}
    for name, content in files.items():
        entry = {"repository": "some/one", "commit": "0" * 40, "file": f"data/{name}.json"}
        path = folder / "some+one" / entry["file"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        locked[name] = {**entry, "sha256": hashlib.sha256(content).hexdigest()}
    lock = folder / "lock.json"
    lock.write_text(json.dumps({"packages": {}, "files": locked}), encoding="utf-8")
    return lock


def toy_protocol() -> dict[str, Any]:
    """The protocol with small numbers."""
    fixed: dict[str, Any] = json.loads((EVIDENCE / "protocol.json").read_text(encoding="utf-8"))
    small = {"lora_r": 2, "epochs": 1, "batch": 4, "most_tokens": 200, "seeds": [0]}
    training, staged = fixed["training"], fixed["staged"]
    training.update(small, train_rows=8, held_out_rows=8, neutral_rows=4)
    training["estimators"]["self_consistency"].update(answers=2, max_tokens=4)
    training["clustering"].update(tokens=4, states=60)
    training["diversity"].update(rows=2, tokens=4)
    staged.update(small, train_pairs=6, held_out_pairs=4)
    fixed["transitions"].update(small, train_pairs=6, held_out_pairs=4, batch=2)
    fixed["transitions"].update(changes=[1, 2], later=[1])
    fixed["exact"].update(small, train_rows=8, held_out_rows=8)
    fixed["exact"]["generated"].update(rows=2, tokens=4)
    fixed["ablated"].update(small, train_rows=8, held_out_rows=8, controls=["sft"])
    fixed["ablated"]["generation"].update(rows=2, max_tokens=4)
    fixed["ablated"]["clustering"].update(tokens=4, rows=60)
    fixed["own"].update(small, train_pairs=5, held_out_pairs=3, prompts=10, most_prompt_tokens=200)
    fixed["own"]["sampling"].update(n=3, max_tokens=4)
    fixed["estimators"].update(rows=6, resamples=20)
    fixed["estimators"]["estimators"]["mc_dropout"].update(passes=2)
    fixed["estimators"]["estimators"]["self_consistency"].update(answers=2, max_tokens=4)
    return fixed


class Toy:
    """Runs the commands of studies on toy data with a tiny model."""

    def __init__(self, folder: Path) -> None:
        self.results, self.page = folder / "results", folder / "evidence.md"
        protocol = folder / "protocol.json"
        protocol.write_text(json.dumps(toy_protocol()), encoding="utf-8")
        options = {
            "--data": folder / "data",
            "--work": folder / "work",
            "--results": self.results,
            "--page": self.page,
            "--protocol": protocol,
            "--lock": write_data(folder / "data", contents()),
            "--model": make_model(folder / "model", texts=[" ".join(WORDS)]),
        }
        self._words = [word for option, path in options.items() for word in (option, str(path))]

    def ask(self, study: str, action: str) -> subprocess.CompletedProcess[str]:
        return command(study, action, *self._words)

    def written(self, study: str) -> dict[str, int]:
        """When each result was written, by name."""
        return {p.stem: p.stat().st_mtime_ns for p in (self.results / study).glob("*.json")}


@pytest.mark.slow
def test_the_studies_run_from_data_to_page(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    for study in ("estimators", "training", "staged", "own", "transitions", "exact", "ablated"):
        made = toy.ask(study, "run")
        assert made.returncode == 0, made.stderr[-3000:]
    assert {"spread", "judge", "self_consistency"} <= set(toy.written("estimators"))
    assert {"base", "seed-0-sft", "seed-0-ual-reference"} <= set(toy.written("training"))

    own = json.loads((toy.results / "own" / "pairs.json").read_text(encoding="utf-8"))
    assert (len(own["gap"]), own["pairs"]) == (5, 3)
    _check_transitions(toy)
    _check_exact(toy)
    _check_ablated(toy)

    before = toy.written("staged")
    (toy.results / "staged" / "seed-0-clear.json").unlink()
    resumed = toy.ask("staged", "resume")
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    after = toy.written("staged")
    assert {name for name in before if after[name] != before[name]} == {"seed-0-clear"}

    refused = toy.ask("staged", "run")
    assert (refused.returncode, "holds results" in refused.stderr) == (1, True)

    drawn = toy.ask("staged", "render")
    assert drawn.returncode == 0, drawn.stderr[-3000:]
    page = toy.page.read_text(encoding="utf-8")
    for line in (
        "| self_consistency | 6 |",
        "| ual-reference | 1 |",
        "| smoothed | 1 |",
        "| held out, after step | 1 | 2 | 3 |",
        "| ual less sft |",
        "(NLL, upper half by entropy), by `ablate` | cannot tell |",
        "own answers, 3",
    ):
        assert line in page
    assert "5 pairs of the model's own answers, 3 held out" in page


def read(toy: Toy, study: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (toy.results / study / f"{name}.json").read_text(encoding="utf-8")
    )
    return found


def _check_transitions(toy: Toy) -> None:
    """Three steps of two pairs: every pair once, in `staged` the clearest first."""
    gap = read(toy, "transitions", "pairs")["gap"]
    clearest = sorted(range(6), key=lambda pair: -gap[pair])
    for arm in ("staged", "shuffled"):
        run = read(toy, "transitions", f"seed-0-{arm}")
        trained = [step["pairs"] for step in run["steps"]]
        assert sorted(pair for pairs in trained for pair in pairs) == list(range(6))
        if arm == "staged":
            assert [set(pairs) for pairs in trained] == [
                set(clearest[first : first + 2]) for first in (0, 2, 4)
            ]
        # Nothing has been learnt before the first step.
        assert run["steps"][0]["margins"] == pytest.approx([0.0, 0.0], abs=1e-3)
        assert list(run["margins"]) == ["1", "2", "3"]
        assert {len(each) for each in run["margins"].values()} == {4}


def _check_exact(toy: Toy) -> None:
    """Four questions with one result each, of which two are answered freely."""
    for name in ("base", "seed-0-sft", "seed-0-shuffled"):
        found = read(toy, "exact", name)
        assert found["results"] == [1.0] * 4
        assert [len(found[key]) for key in ("generated", "given", "computed")] == [2, 4, 4]


def _check_ablated(toy: Toy) -> None:
    """Eight rows, of two sources and in two halves, measured once for each arm."""
    results = read(toy, "ablated", "evaluation")["results"]
    measures = {"nll", "ece_mass_15", "exact_match", "silhouette"}
    assert {one["measure"] for one in results} == measures
    nll = {one["group"].split(" [")[0]: one for one in results if one["measure"] == "nll"}
    assert {name: one["prompts"] for name, one in nll.items()} == {
        **{"all": 8, "source = gsm8k": 4, "source = roleplay": 4},
        **{"entropy of base 1/2": 4, "entropy of base 2/2": 4},
    }
    for one in nll.values():
        assert set(one["values"]) == {"base", "sft", "ual"}
        assert one["differences"]["sft"]["value"] == pytest.approx(
            one["values"]["sft"] - one["values"]["ual"], abs=1e-4
        )
        assert one["differences"]["sft"]["error"] > 0


def load(name: str) -> ModuleType:
    """A module of the folder that imports none of its neighbours."""
    spec = importlib.util.spec_from_file_location(f"evidence_{name}", EVIDENCE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # A dataclass looks its module up by name.
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    return module


def test_verdicts_follow_the_rules() -> None:
    verdicts = load("verdicts")

    def said(rule: str, low: float, high: float, seeds: int = 3) -> str:
        middle = verdicts.Difference((low + high) / 2, low, high, seeds)
        return str(getattr(verdicts, rule)(middle, 0.02))

    assert said("lower", -0.2, -0.1) == "supported"
    assert said("lower", -0.2, -0.1, seeds=2) == "cannot tell"
    assert said("lower", 0.1, 0.2) == "not supported"
    assert said("lower", -0.01, 0.01) == "not supported"
    assert said("lower", -0.03, 0.01) == "cannot tell"
    assert said("higher", 0.1, 0.2) == "supported"
    assert said("higher", -0.2, -0.1) == "not supported"
    assert said("not_higher", -0.1, 0.01) == "supported"
    assert said("not_higher", 0.03, 0.1) == "not supported"
    assert said("not_higher", -0.1, 0.1) == "cannot tell"
    assert said("not_lower", -0.01, 0.1) == "supported"
    assert said("not_lower", -0.1, -0.03) == "not supported"
    assert said("not_lower", -0.1, 0.1) == "cannot tell"


def test_a_paired_difference_has_the_error_of_rows_and_of_seeds() -> None:
    # Two seeds of three rows, a weight of 1 each; the reference is 0 everywhere.
    # By seed (1 + 2 + 3) / 3 = 2 and (3 + 4 + 5) / 3 = 4: the difference is 3.
    # Rows: means over seeds 2, 3, 4 differ from 3 by -1, 0, 1:
    #     variance 3 / 2 * (1 + 0 + 1) / 3^2 = 1 / 3, 2 degrees of freedom.
    # Seeds: standard deviation of 2 and 4 is sqrt(2), / sqrt(2) = 1: variance 1, 1 degree.
    # Together 4 / 3; degrees (4/3)^2 / ((1/3)^2 / 2 + 1 / 1) = (16/9) / (19/18) = 32 / 19.
    found = load("verdicts").paired([[1, 2, 3], [3, 4, 5]], [[0] * 3] * 2, [1, 1, 1])
    half = stats.t.ppf(0.975, 32 / 19) * (4 / 3) ** 0.5
    assert found.value == pytest.approx(3.0)
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half))


def test_repeats_and_steadiness_of_stages_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EVIDENCE)
    page = importlib.import_module("staged_page")

    def arm(*seeds: tuple[str, str, str]) -> dict[int, Any]:
        """Whether each of four pairs is right, after each third of the steps."""
        return {
            seed: {"margins": [[1.0 if one == "+" else -1.0 for one in third] for third in thirds]}
            for seed, thirds in enumerate(seeds)
        }

    runs = {
        # Accuracies 0, 1/2, 3/4 and 1/4, 1/4, 1: mean changes 3/8 and 3/8.
        "staged": arm(("----", "++--", "+++-"), ("+---", "+---", "++++")),
        # 1/2, 1/2, 1/2 and 1, 1/2, 1/2: 0 and 1/4.
        "shuffled": arm(("++--", "++--", "++--"), ("++++", "++--", "--++")),
    }
    steady = page.steadiness(runs)
    assert (steady.value, steady.seeds) == (pytest.approx(3 / 8 - 1 / 8), 2)
    # At the end staged's seeds disagree about the last pair, shuffled's about all four: 1/4 - 1.
    # Rows differ from it by -1/4, -1/4, -1/4 and 3/4: variance 4 / 3 * 3/4 / 4^2 = 1/16, t(3).
    repeats = page.repeats(runs)
    half = stats.t.ppf(0.975, 3) / 4
    assert (repeats.value, repeats.seeds) == (pytest.approx(-3 / 4), 2)
    assert (repeats.low, repeats.high) == pytest.approx((-3 / 4 - half, -3 / 4 + half))
    assert page.repeats({}) is page.steadiness({}) is None


@pytest.mark.slow
def test_a_file_with_another_hash_is_refused(tmp_path: Path) -> None:
    lock = write_data(tmp_path, {"gsm8k": b"one"})
    good = command("sources", "--data", str(tmp_path), "--lock", str(lock))
    assert good.returncode == 0, good.stderr
    (tmp_path / "some+one" / "data" / "gsm8k.json").write_bytes(b"other")
    bad = command("sources", "--data", str(tmp_path), "--lock", str(lock))
    assert bad.returncode == 1
    assert "its SHA-256 is" in bad.stderr


def test_files_are_fetched_and_only_those_of_the_lock_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sources, there, here = load("sources"), tmp_path / "there", tmp_path / "here"
    lock = write_data(tmp_path, {"right": b"one", "wrong": b"two"})
    served = there / "some" / "one" / ("0" * 40) / "data"
    served.mkdir(parents=True)
    (served / "right.json").write_bytes(b"one")
    (served / "wrong.json").write_bytes(b"other")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    handler = partial(Quiet, directory=str(there))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/{{repository}}/{{commit}}/{{file}}"
        monkeypatch.setattr(sources, "RAW", address)
        monkeypatch.setenv("no_proxy", "*")
        words = ["--data", str(here), "--lock", str(lock)]
        with pytest.raises(SystemExit):
            sources.main(words)
        said = capsys.readouterr()
        assert "right: 3 bytes" in said.out
        assert "/data/wrong.json: its SHA-256 is" in said.err
        # What is wrong is not kept, nor half of it; what is right is read without the server.
        assert [path.name for path in here.rglob("*") if path.is_file()] == ["right.json"]
        (served / "wrong.json").write_bytes(b"two")
        (served / "right.json").unlink()
        sources.main(words)
        assert "wrong: 3 bytes" in capsys.readouterr().out
        (here / "some+one" / "data" / "right.json").unlink()
        with pytest.raises(SystemExit):
            sources.main(words)
        assert "cannot be fetched: HTTP Error 404" in capsys.readouterr().err
        server.shutdown()


@pytest.mark.slow
def test_the_page_is_what_the_results_draw(tmp_path: Path) -> None:
    drawn = command("page", "--page", str(tmp_path / "evidence.md"))
    assert drawn.returncode == 0, drawn.stderr
    page = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
    assert page == (tmp_path / "evidence.md").read_text(encoding="utf-8"), (
        "run `python benchmarks/evidence/page.py`"
    )
