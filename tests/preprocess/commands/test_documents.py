"""`axolotl-ual agent-docs`: pages that the package tells by itself, and those of `docs/`."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from axolotl_ual.host import describe
from axolotl_ual.preprocess.cli import main
from axolotl_ual.preprocess.commands.documents import (
    commands_page,
    documents,
    generated_pages,
    settings_page,
)
from axolotl_ual.preprocess.commands.messages import errors_page
from axolotl_ual.preprocess.commands.support import KINDS, SETTINGS, problems, support_page, verdict
from axolotl_ual.settings import refusals

ROOT = Path(__file__).resolve().parents[3]


def lines_of(page: str, section: str) -> dict[str, str]:
    """Rows of a section's table by key."""
    table = page.partition(f"## `{section}`\n")[2].partition("\n## ")[0]
    return {row.split("`")[1]: row for row in table.splitlines() if row.startswith("| `")}


def test_settings_tell_every_key_with_values_default_and_meaning() -> None:
    page = settings_page()
    smoothing = lines_of(page, "ual.smoothing")
    assert {"mean", "max", "direction", "prior"} <= smoothing.keys()
    assert "| `increasing`, `decreasing` | `increasing` |" in smoothing["direction"]
    annotate = lines_of(page, "ual.annotate")
    assert "| text | needed | Folder of the annotated copy. |" in annotate["output"]
    # A panel's judges are a list of sections, and each has the keys of a judge and a weight.
    assert "rubric" in lines_of(page, "ual.annotate.panel.judges")
    assert lines_of(page, "ual.annotations").keys() == {"name", "revision", "on_missing"}


def test_commands_tell_every_command_and_its_options() -> None:
    page = commands_page(main)
    for usage in ("annotate RECIPE.yaml", "publish FOLDER", "cache export FILE.jsonl[.gz]"):
        assert f"## `axolotl-ual {usage}`\n" in page
    assert "| `--limit` | integer range | Annotate only the first rows" in page
    assert (
        "| `--output` | directory | Folder of runs and evaluation. Default: `ablation`. |" in page
    )
    assert "| `--repo` | NAME | Dataset on the Hub: owner/name. Needed. |" in page


@pytest.mark.parametrize("name", ["settings", "commands", "support"])
def test_generated_pages_are_up_to_date(name: str) -> None:
    """`make docs` writes them."""
    page = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    assert page == generated_pages(main)[name]


def test_topics_are_printed_whole() -> None:
    pages = documents(main)
    files = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert pages.keys() == files | {"errors"} and next(iter(pages)) == "index"
    run = CliRunner().invoke(main, ["agent-docs", "quick-start"])
    assert run.output == (ROOT / "docs/quick-start.md").read_text(encoding="utf-8")
    listed = CliRunner().invoke(main, ["agent-docs"])
    assert [line.split()[0] for line in listed.output.splitlines()[:-1]] == list(pages)
    wrong = CliRunner().invoke(main, ["agent-docs", "setings"])
    assert wrong.exit_code == 1 and "did you mean `settings`?" in wrong.output


def test_errors_tell_message_and_cure() -> None:
    page = errors_page()
    unsupported = page.partition("## UnsupportedError\n")[2]
    # Of a text in parts, of one with values in it, and of one without a cure of its own.
    assert (
        "- deepspeed: ZeRO-3 with an adapter on the head: its shards cannot be gathered for chunks "
        "of tokens. Fix: leave `lm_head` out of `lora_target_modules`, or use ZeRO-2.\n"
    ) in unsupported
    assert "- peft_use_dora: true: the margin of a head with an adapter is known for" in unsupported
    assert "## LimitError\n\nA limit that the user set, such as --max-cost, was reached.\n" in page
    assert page.count("\n- ") > 250


def test_support_says_what_the_rules_say() -> None:
    # The first generation of FSDP is what 0.19 means where none is named, and it trains SFT alone.
    found = verdict({"fsdp_config": {"offload_params": False}})
    expected = {**dict.fromkeys(KINDS, 2), "sft": 3}
    assert {kind: len(hosts) for kind, hosts in found.accepted.items()} == expected
    reason, of_rewards = found.reasons
    assert reason.problem.startswith("fsdp_version: 1: `rl: dpo`")
    assert of_rewards.problem.startswith("fsdp_version: 1: `reward_model: true`")
    page = support_page()
    row = "| `fsdp_config.offload_params: false` | yes |" + " 0.20, 0.21 |" * (len(KINDS) - 1)
    assert row in page and "| FSDP where the recipe names no version | 1 | 2 | 2 |" in page
    assert '| `dpo_loss_type: ["robust"]` | - | no | no | - | - | - |' in page
    assert "| `ual.annotations: you/annotations` | yes | - | - | - | - | - |" in page


def test_support_asks_about_every_rule() -> None:
    """A rule without a line on the page could not be found by who looks it up."""
    # Every `rl:` that Axolotl knows is trained: that rule is for one that comes later.
    assert refusals.unsupported({"rl": "later"})[0].problem.startswith("rl: later: ")
    named = [rule.key for rule in refusals._RULES if rule.key != "rl"]
    named += [*refusals._OWN_ORDER, *refusals._OTHER_LOSSES, *refusals._HOSTS_DO]
    settings = [setting for group in SETTINGS.values() for setting in group]
    for key in named:
        asked = [verdict(setting) for setting in settings if key in setting]
        said = [error.problem for found in asked for error in found.reasons]
        assert any(problem.startswith(f"{key}: ") for problem in said), key


def test_a_plain_recipe_is_accepted() -> None:
    for host in map(describe, ("0.19.0", "0.21.0")):
        assert problems({"base_model": "model", "adapter": "lora"}, host) == []
