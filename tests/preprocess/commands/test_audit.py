"""`annotate --audit`: agreement of repeats."""

from __future__ import annotations

from pathlib import Path

from judging_kit import command, write_recipe

import judge_server


def test_a_judge_that_repeats_itself(server: judge_server.Running, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, server, temperature=0.5)
    result = command("annotate", recipe, "--audit", "20")
    assert result.exit_code == 0, result.output
    assert "20 rows, 5 times each" in result.output
    assert "ICC): 1.000; one score for each row is enough" in result.output
    assert server.stats()["requests"] == 100
    assert not (tmp_path / "out").exists()
    # The first repeats are what a run asks for.
    assert command("annotate", recipe).exit_code == 0
    assert server.stats()["requests"] == 110


def test_a_judge_that_guesses(server: judge_server.Running, tmp_path: Path) -> None:
    server.set(by_seed={str(seed): 20 * seed for seed in range(5)})
    result = command("annotate", write_recipe(tmp_path, server, temperature=0.5), "--audit", "9")
    assert "most of what it says is chance" in result.output


def test_a_judge_that_always_says_the_same(server: judge_server.Running, tmp_path: Path) -> None:
    server.set(by_model={"m": 40})
    result = command("annotate", write_recipe(tmp_path, server), "--audit", "9")
    assert "does not tell the rows apart" in result.output
