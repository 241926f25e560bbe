"""`axolotl-ual agent-docs`: pages that settings and commands tell, and sections of the README."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from axolotl_ual.preprocess.cli import main
from axolotl_ual.preprocess.commands.documents import (
    commands_page,
    documents,
    readme_sections,
    settings_page,
)

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


@pytest.mark.parametrize("name", ["settings", "commands"])
def test_generated_pages_are_up_to_date(name: str) -> None:
    """`make docs` writes them."""
    pages = {"settings": settings_page(), "commands": commands_page(main)}
    assert (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") == pages[name]


def test_sections_are_cut_at_headings_outside_of_code() -> None:
    text = "# Title\nabove\n## First part\n```bash\n# no heading\n```\n### Below it\nend\n"
    assert readme_sections(text) == {
        "overview": "# Title\nabove\n",
        "first-part": "## First part\n```bash\n# no heading\n```\n",
        "below-it": "### Below it\nend\n",
    }


def test_topics_are_printed_whole() -> None:
    pages = documents(main)
    assert {"overview", "quick-start", "limits", "settings", "commands"} <= pages.keys()
    run = CliRunner().invoke(main, ["agent-docs", "quick-start"])
    assert run.output == pages["quick-start"] and "pip install" in run.output
    listed = CliRunner().invoke(main, ["agent-docs"])
    assert [line.split()[0] for line in listed.output.splitlines()[:-1]] == list(pages)
    wrong = CliRunner().invoke(main, ["agent-docs", "setings"])
    assert wrong.exit_code == 1 and "did you mean `settings`?" in wrong.output


@pytest.mark.parametrize("page", ["README.md", "llms.txt", "docs/README.md"])
def test_no_link_to_a_file_is_broken(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", text)
    assert links
    for link in links:
        assert ((ROOT / page).parent / link).exists(), link
