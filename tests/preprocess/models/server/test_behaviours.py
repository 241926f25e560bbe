"""The real `annotate` against everything in the table of what servers do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from behaviour_runs import USD_A_TOKEN, run
from behaviour_server import serving
from behaviours import BEHAVIOURS

pytestmark = pytest.mark.slow

PLANTED = {value for tried in BEHAVIOURS.values() for value in tried.environment.values()}


@pytest.fixture(scope="module")
def root() -> Iterator[str]:
    with serving() as address:
        yield address


def test_the_table_is_large() -> None:
    assert len(BEHAVIOURS) >= 100
    assert all(tried.source for tried in BEHAVIOURS.values())


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_a_behaviour_ends_in_scores_or_in_a_clear_error(
    root: str, name: str, tmp_path: Path
) -> None:
    tried = BEHAVIOURS[name]
    outcome = run(tmp_path, root, name)
    told = outcome.error + outcome.output
    assert bool(outcome.error) == tried.fails, told
    assert outcome.scored == (tried.rows if tried.scored is None else tried.scored), told
    digits = tried.judge.get("score") == "expected" and "verbalized" not in tried.says
    assert outcome.misread(digits) == []
    assert re.search(tried.says, told), told
    assert outcome.requests <= (tried.requests or 2 * tried.rows)
    assert not [secret for secret in PLANTED if secret in told + str(outcome.manifest)]
    if not tried.fails:
        again = run(tmp_path, root, name)
        # Rows without an answer are asked again, and those that were answered are not.
        unanswered = outcome.manifest["failures"].get("failed", 0)
        assert again.requests <= unanswered * (1 + tried.judge.get("max_retries", 6))
        assert again.uncertainty == outcome.uncertainty


@pytest.mark.parametrize(
    "name",
    [
        "quota_ends_in_between",
        "credit_ends_in_between",
        "dies_in_between",
        "hangs_in_between",
        "key_expires",
        "credit_ends_with_others_in_flight",
        "nothing_but_prose",
        "nothing_but_cut_answers",
    ],
)
def test_a_run_that_ends_half_way_goes_on_where_it_was(
    root: str, name: str, tmp_path: Path
) -> None:
    first, again = run(tmp_path, root, name), run(tmp_path, root, name)
    # The server begins anew with each run, and ends it again, some rows later.
    assert len(first.completed) >= 2 and again.completed
    assert not first.completed & again.completed


@pytest.mark.parametrize(
    ("name", "completion"),
    [("plain", 8), ("reasoning_beside_the_completion", 30), ("thinking_in_the_total", 28)],
)
def test_the_bill_holds_what_servers_leave_out(
    root: str, name: str, completion: int, tmp_path: Path
) -> None:
    """Of 4 rows: 8 tokens; 30 that the total tells; 8 of the answer and 20 of reasoning."""
    usage = run(tmp_path, root, name).manifest["usage"]
    assert usage["completion_tokens"] == 4 * completion
    assert usage["cost_usd"] == pytest.approx(
        (usage["prompt_tokens"] + 4 * completion) * USD_A_TOKEN
    )


@pytest.mark.parametrize(
    "name",
    [
        "plain",
        "finish_reason_error",
        "half_a_body",
        "no_usage",
        "reasoning_beside_the_completion",
        "thinking_in_the_total",
        "connection_lost",
        "one_row_in_prose",
    ],
)
def test_max_cost_is_passed_by_none(root: str, name: str, tmp_path: Path) -> None:
    """Half of what the whole run was charged, at 0.001 USD a token."""
    charged = run(tmp_path / "all", root, name).charged * 0.001
    half = run(tmp_path / "half", root, name, charged / 2)
    assert half.charged * 0.001 <= charged / 2
