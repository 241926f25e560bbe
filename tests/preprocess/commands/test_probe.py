"""`axolotl-ual probe` against servers of the table, and against one for pairs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import sampling_server
import yaml
from behaviour_runs import write_recipe
from behaviour_server import serving, stats
from behaviours import BEHAVIOURS
from click.testing import CliRunner, Result

from axolotl_ual.preprocess.cli import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root() -> Iterator[str]:
    with serving() as address:
        yield address


def probe(recipe: Path) -> tuple[Result, str]:
    """The command, and what its table says, without its lines."""
    result = CliRunner(env={"COLUMNS": "220"}).invoke(main, ["probe", str(recipe)])
    return result, re.sub(r"[\s│┃]+", " ", result.output)


PLAIN = [
    "reachable yes, http://",
    "model that answers m ",
    "answer by schema taken ",
    "log-probabilities yes, the 2 likeliest tokens",
    "thinking none was shown",
    "context length 8,192 tokens",
    "price 1000 and 1000 USD for 1M tokens",
    # A row without a number is -1 there: 2 + (-13 + 5) mod 97 = 91.
    "0.91 for a plain fact that is right: '{\"uncertainty\": 91}'",
]


@pytest.mark.parametrize(
    ("name", "status", "requests", "told"),
    [
        ("plain", 0, 2, PLAIN),
        ("not_given", 0, 2, ["log-probabilities none "]),
        ("think_tags", 0, 2, ["thinking yes, ", "characters before the answer"]),
        (
            "json_object_only",
            0,
            4,
            ["answer by schema the server takes no JSON schema: it is asked for any JSON object"],
        ),
        ("five_at_most", 0, 3, ["changed requests the server gives the 5 likeliest tokens"]),
        ("another_model", 0, 2, ["model that answers another-7b"]),
        ("nothing_but_prose", 1, 2, ["answer by schema taken, and not kept to", "no score (no"]),
        ("cut_while_thinking", 1, 2, ["no score (cut by max_tokens; raise max_tokens: 64)"]),
        ("wrong_key", 1, 1, ["reachable yes, and gives no answer", "does not accept"]),
        ("payment_required", 1, 1, ["reachable yes, and gives no answer", "no credit left"]),
        ("a_wait_of_hours", 1, 1, ["asks to wait 5.0 hours"]),
    ],
)
def test_what_a_table_tells(
    root: str, tmp_path: Path, name: str, status: int, requests: int, told: list[str]
) -> None:
    result, table = probe(write_recipe(tmp_path, root, name, BEHAVIOURS[name]))
    assert result.exit_code == status, result.output
    for line in told:
        assert line in table, result.output
    # The list of models is one more.
    assert stats(root, name)["requests"] <= requests


def test_nobody_is_there(root: str, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, root, "plain", BEHAVIOURS["plain"])
    recipe.write_text(recipe.read_text().replace(root, "http://127.0.0.1:1"))
    result, table = probe(recipe)
    assert result.exit_code == 1
    assert "reachable no " in table and "cannot reach the judge" in table


def test_a_model_that_the_server_does_not_list(root: str, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, root, "plain", BEHAVIOURS["plain"])
    recipe.write_text(recipe.read_text().replace("model: m", "model: another"))
    _, table = probe(recipe)
    assert "the server lists m and not another" in table


def test_servers_of_pairs(tmp_path: Path) -> None:
    """The sampler answers a question, the judge rates principles."""
    recipe = tmp_path / "r.yaml"
    with sampling_server.running() as url:
        pairs = {
            "output": str(tmp_path / "out"),
            "sampling": {"backend": "api", "api": {"model": "s", "base_url": url}},
            "judge": {"model": "j", "base_url": url},
        }
        data = [{"path": "nothing.jsonl", "type": "chat_template.default"}]
        recipe.write_text(yaml.safe_dump({"rl": "dpo", "datasets": data, "ual": {"pairs": pairs}}))
        result, table = probe(recipe)
        asked = sampling_server.stats(url)["bodies"]
    assert result.exit_code == 0, result.output
    assert "ual.pairs.sampling.api" in table and "ual.pairs.judge" in table
    assert 'for a plain fact that is right: \'{"helpful":' in table
    assert [body["model"] for body in asked] == ["s", "s", "j", "j"]


def test_a_recipe_without_a_server(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "base_model: m\ndatasets: [{path: d.jsonl, type: alpaca}]\n"
        "ual: {annotate: {output: out, estimator: perplexity}}\n"
    )
    result, _ = probe(recipe)
    assert result.exit_code == 1 and "asks no server" in result.output
