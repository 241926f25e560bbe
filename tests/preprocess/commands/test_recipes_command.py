"""`axolotl-ual recipes`: list, show, copy, check and from-card."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from axolotl_ual.preprocess.cli import main
from axolotl_ual.preprocess.commands import recipes as module

NAME = "ual-llama-2-7b"
YAML = "base_model: m\nextra: |\n  ```yaml\n  inside\n  ```\n"
CARD = """---
library_name: peft
---

<!-- This model card has been generated automatically -->
[<img src="badge.png" alt="Built with Axolotl"/>](https://github.com/axolotl-ai-cloud/axolotl)
<details><summary>See axolotl config</summary>

axolotl version: `0.19.0`
```yaml
{text}
```

</details><br>

# out

```yaml
not: this
```
"""


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "axolotl_is_installed", lambda: False)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["recipes", *arguments])


def spaced(result: Result) -> str:
    return " ".join(result.output.split())


def test_list_and_show() -> None:
    assert f"{NAME} UAL as in the paper: LIMA" in spaced(run("list"))
    shown = run("show", NAME).output
    assert yaml.safe_load(shown)["base_model"] == "meta-llama/Llama-2-7b-hf"
    assert run("show", f"{NAME}.yaml").output == shown


def test_an_unknown_name_suggests_the_nearest() -> None:
    result = run("show", "ual-lama-2-7b")
    assert result.exit_code == 1 and f"did you mean `{NAME}`?" in result.output


def test_copy_writes_what_the_recipe_names_and_overwrites_nothing() -> None:
    assert run("copy", NAME, "--to", "here").exit_code == 0
    files = {str(path) for path in Path("here").rglob("*") if path.is_file()}
    assert files == {f"here/{NAME}.yaml", "here/deepspeed/zero2.json"}
    assert run("copy", NAME, "--to", "here").exit_code == 0
    Path(f"here/{NAME}.yaml").write_text("mine: true\n")
    Path("here/deepspeed/zero2.json").unlink()
    result = run("copy", NAME, "--to", "here")
    assert result.exit_code == 1 and "is there already" in result.output
    assert Path(f"here/{NAME}.yaml").read_text() == "mine: true\n"
    assert not Path("here/deepspeed/zero2.json").exists()


def test_check_asks_for_no_annotations_and_names_the_next_command() -> None:
    run("copy", NAME)
    result = run("check", f"{NAME}.yaml")
    assert result.exit_code == 0, result.output
    said = spaced(result)
    assert f"nothing is wrong; next: axolotl-ual annotate {NAME}.yaml" in said
    assert "deepspeed: deepspeed/zero2.json: ZeRO-2" in said
    assert "Axolotl is not installed here" in said
    run("copy", "udasa-llama-3.1-8b")
    assert "next: axolotl-ual pairs udasa" in spaced(run("check", "udasa-llama-3.1-8b.yaml"))


def test_check_says_where_a_recipe_must_run() -> None:
    run("copy", NAME, "--to", "there")
    result = run("check", f"there/{NAME}.yaml")
    assert result.exit_code == 0 and "lies beside the recipe, so train in there" in spaced(result)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"deepspeed": "deepspeed/zero9.json"}, "deepspeed/zero9.json: no such file"),
        ({"deepspeed": f"{NAME}.yaml"}, "no DeepSpeed configuration"),
        ({"use_dft": True}, "use_dft: true: brings a loss of its own"),
        ({"plugins": []}, "plugins: does not list axolotl_ual.UALPlugin"),
        ({"ual": {"smoothng": {}}}, "did you mean `smoothing`?"),
    ],
)
def test_check_tells_what_is_wrong(
    change: dict[str, object], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("axolotl_ual.preprocess.commands.check.runs_without_a_line", lambda: False)
    run("copy", NAME)
    path = Path(f"{NAME}.yaml")
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **change}))
    result = run("check", str(path))
    assert result.exit_code == 1 and said in spaced(result) and "1 problem" in result.output


def test_check_of_a_file_that_is_no_recipe() -> None:
    Path("list.yaml").write_text("- 1\n")
    result = run("check", "list.yaml")
    assert result.exit_code == 1 and "holds a list" in spaced(result)


@pytest.mark.parametrize("form", ["README.md", "."])
def test_the_recipe_of_a_card(form: str) -> None:
    Path("README.md").write_text(CARD.replace("{text}", YAML))
    assert run("from-card", form).output == YAML
    result = run("from-card", form, "--output", "new/recipe.yaml")
    assert result.exit_code == 0 and Path("new/recipe.yaml").read_text() == YAML
    again = run("from-card", form, "--output", "new/recipe.yaml")
    assert again.exit_code == 1 and "is there already" in again.output


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ("# A model\n\n```yaml\nnot: this\n```\n", "has no recipe that Axolotl wrote"),
        (CARD.replace("{text}", "a: [1"), "is no YAML"),
        (CARD.replace("{text}", "- 1"), "is no mapping"),
    ],
)
def test_a_card_without_a_recipe(card: str, said: str) -> None:
    Path("README.md").write_text(card)
    result = run("from-card", ".")
    assert result.exit_code == 1 and said in spaced(result)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("./nothing", "no such file"),
        ("a b c", "no name of the Hub"),
        ("owner/model", "owner/model: "),
    ],
)
def test_a_card_that_is_not_there(model: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    result = run("from-card", model)
    assert result.exit_code == 1 and said in spaced(result), result.output
    assert "fix: " in result.output


def test_the_card_of_a_model_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(name: str, file: str) -> str:
        asked.append((name, file))
        Path("card.md").write_text(CARD.replace("{text}", YAML))
        return "card.md"

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert run("from-card", "owner/model").output == YAML
    assert asked == [("owner/model", "README.md")]
