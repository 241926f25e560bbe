"""Agreement between repeated scorings: the figures by hand, and the command end to end."""

import json
import math

import numpy as np
import pytest
import sampling_server
import tiny_nli
import yaml
from click.testing import CliRunner
from rich.console import Console

from axolotl_ual.preprocess.cli import main
from axolotl_ual.preprocess.commands.consistency import ConsistencyOptions, measure_consistency
from axolotl_ual.preprocess.labels.agreement import agreement, rank_correlation


def test_agreement_by_hand():
    # Prompt 0 has three responses, prompt 1 two; the last has a missing score and drops out.
    values = np.array([[0.1, 0.3, 0.5, 0.2, 0.9], [0.3, 0.1, 0.5, 0.2, math.nan]])
    found = agreement(values, np.array([0, 0, 0, 1, 1]))
    # Standard deviations (k - 1) of (0.1, 0.3): 0.2 / sqrt 2, twice; 0 and 0.
    assert found.repeat_sd == pytest.approx(2 * 0.2 / math.sqrt(2) / 4)
    # Ranks 1, 3, 4, 2 and 3, 1, 4, 2: sum of squared differences 8, rho = 1 - 6 * 8 / (4 * 15).
    assert found.rank_correlation == pytest.approx(0.2)
    # Pairs within prompt 0: (0, 1) flips, (0, 2) and (1, 2) do not.
    assert (found.flips, found.compared, found.responses) == (pytest.approx(1 / 3), 3, 4)


def test_ties_are_no_flips():
    values = np.array([[0.1, 0.1, 0.5], [0.2, 0.1, 0.5], [0.1, 0.2, 0.5]])
    found = agreement(values, np.zeros(3, dtype=np.int64))
    # Strict in both: two pairs of repeats 1 and 2, two of 1 and 3, three of 2 and 3: one flips.
    assert (found.compared, found.flips) == (7, pytest.approx(1 / 7))


def test_equal_scorings_agree_fully():
    values = np.tile([0.1, 0.4, 0.2], (3, 1))
    found = agreement(values, np.zeros(3, dtype=np.int64))
    assert (found.repeat_sd, found.flips) == (pytest.approx(0.0), 0.0)
    assert found.rank_correlation == pytest.approx(1.0)
    assert math.isnan(rank_correlation(np.ones(3), np.arange(3.0)))
    assert agreement(np.full((2, 2), math.nan), np.zeros(2, dtype=np.int64)).responses == 0


@pytest.mark.slow
def test_the_command(tmp_path):
    rule = tiny_nli.make_rule_model(tmp_path / "rule")
    rows = [
        {"prompt": f"question {number}", "response": text}
        for number in range(6)
        for text in ("m1", "m2 it", "is m3")
    ]
    responses = tmp_path / "responses.jsonl"
    responses.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with sampling_server.running() as url:
        server = {"model": "m", "base_url": url}
        pairs = {
            "output": str(tmp_path / "out"),
            "cache": str(tmp_path / "cache"),
            "sampling": {"backend": "api", "n": 4, "api": server},
            "nli": {"model": str(rule), "device": "cpu", "max_length": 128},
            "value": {"method": "judge", "principles": {"kind": "Be kind."}},
            "judge": server,
        }
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({"ual": {"pairs": pairs}}))
        options = ConsistencyOptions(responses, repeats=2, against="other")
        found = measure_consistency(path, options, Console(quiet=True))
        repeats = dict(found["repeats"])
        assert list(repeats) == ["semantic", "factual", "value"]
        # Evidence differs from repeat to repeat; the server's judge rates by the text alone.
        assert repeats["semantic"].repeat_sd > 0 and repeats["factual"].repeat_sd > 0
        assert (repeats["value"].repeat_sd, repeats["value"].flips) == (0.0, 0.0)
        assert all(found.responses == 18 for found in repeats.values())
        # The server's words are a function of the seed, so the other checkpoint says the same.
        checkpoints = dict(found["checkpoints"])
        assert list(checkpoints) == ["semantic", "factual"]
        assert checkpoints["semantic"].repeat_sd == 0.0
        # 6 prompts of evidence a repeat, and of the other checkpoint; 18 ratings a repeat.
        assert sampling_server.stats(url)["requests"] == 6 * 3 + 18 * 2
        arguments = ["consistency", str(path), "--from-responses", str(responses), "--repeats=2"]
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output
        assert "between 2 repeats" in result.output and "semantic" in result.output
        assert sampling_server.stats(url)["requests"] == 6 * 3 + 18 * 2
    missing = CliRunner().invoke(main, ["consistency", str(path)])
    assert missing.exit_code == 1 and "run `axolotl-ual pairs` first" in missing.output
