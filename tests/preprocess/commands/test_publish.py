"""`axolotl-ual publish`, through the real client, to a stand-in of the Hub; and back by content."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.constants
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner, Result

import hub_server
import output_folders
import tiny
from axolotl_ual.columns import SMOOTHING, STAGE, UNCERTAINTY, Manifest, ManifestUsage
from axolotl_ual.data.shared import SharedAnnotations, content_hash
from axolotl_ual.errors import AnnotationError
from axolotl_ual.preprocess.cli import main
from axolotl_ual.settings.annotations import AnnotationsConfig
from axolotl_ual.settings.ual import parse_ual

REPO = "someone/sums"
OURS = [UNCERTAINTY, SMOOTHING, STAGE]


def row(number: int) -> dict[str, Any]:
    """Some rows have no `input`, and each a nested field: readers fill in what is missing."""
    made = {
        "instruction": f"Add {number} and 1, please.",
        "output": " ".join(["sum", str(number + 1)] * (1 + number % 4)),
        "meta": {"number": float(number)} if number % 3 else {"number": number, "why": "third"},
    }
    return made if number % 2 else {**made, "input": "quickly"}


ROWS = [row(number) for number in range(40)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def annotated(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("annotated")
    data = tiny.write_rows(folder / "sums.jsonl", ROWS)
    ual = {"annotate": {"output": str(folder / "sums-ual"), "estimator": "perplexity"}}
    entries = [{"path": str(data), "type": "alpaca"}]
    recipe = tiny.recipe(model, folder, entries, wandb_project="mine", ual=ual)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    result = CliRunner().invoke(main, ["annotate", str(folder / "recipe.yaml")])
    assert result.exit_code == 0, result.output
    return folder / "sums-ual"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[hub_server.Hub]:
    with hub_server.running() as running:
        constants = huggingface_hub.constants
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE
        _, _, rest = template.partition("/{repo_id}")
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{running.url}/{{repo_id}}{rest}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("HF_TOKEN", hub_server.TOKEN)
        yield running


def publish(folder: Path, *arguments: str, typed: str = "") -> Result:
    command = ["publish", str(folder), "--repo", REPO, *arguments]
    return CliRunner().invoke(main, command, input=typed)


def shuffled(rows: list[dict[str, Any]], drop: int = 0) -> list[dict[str, Any]]:
    """Rows in another order, some of them gone, and their fields in another order too."""
    order = random.Random(3).sample(rows, len(rows) - drop)
    return [dict(reversed(list(one.items()))) for one in order]


def by_instruction(table: datasets.Dataset) -> dict[str, tuple[Any, ...]]:
    return {one["instruction"]: tuple(one[name] for name in OURS) for one in table}


def test_annotations_alone_hold_no_text(hub: hub_server.Hub, annotated: Path) -> None:
    result = publish(
        annotated, "--annotations-only", "--license", "mit",
        "--recipe", str(annotated.parent / "recipe.yaml"),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    repository = hub.repositories[REPO]
    assert repository.private
    assert set(repository.files) == {"README.md", "manifest.json", "recipe.yaml", "train.parquet"}
    for name, content in repository.files.items():
        assert b"please" not in content, name
    table = pq.read_table(pa.BufferReader(repository.files["train.parquet"]))
    assert table.column_names == ["ual_content", *OURS]
    assert table["ual_content"].to_pylist() == [content_hash(one) for one in ROWS]
    manifest = Manifest.model_validate_json(repository.files["manifest.json"])
    assert manifest.kind == "hashes"
    recipe = yaml.safe_load(repository.files["recipe.yaml"])
    assert recipe["datasets"] == [{"path": str(annotated.parent / "sums.jsonl"), "type": "alpaca"}]
    assert recipe["lora_r"] == 4 and "wandb_project" not in recipe
    ual = parse_ual(recipe["ual"])
    assert ual.annotations == AnnotationsConfig(name=REPO, revision=None, on_missing="mean")
    assert ual.annotate is None
    assert repository.files["README.md"].startswith(b"---\nlicense: mit\n")


def test_joined_elsewhere_the_columns_are_the_same(
    hub: hub_server.Hub, annotated: Path, tmp_path: Path
) -> None:
    """Of 40 rows 33 in another order, and two that were never annotated."""
    assert publish(annotated, "--annotations-only", "--license", "mit").exit_code == 0
    strangers = [row(100), row(101)]
    path = tiny.write_rows(tmp_path / "mine.jsonl", [*shuffled(ROWS, drop=7), *strangers])
    mine = datasets.Dataset.from_json(str(path), cache_dir=str(tmp_path / "cache"))
    # Indices, as a shard of Axolotl's has them.
    mine = mine.shuffle(seed=1)
    before = by_instruction(datasets.Dataset.from_parquet(str(annotated / "train.parquet")))
    joined = SharedAnnotations(AnnotationsConfig(name=REPO), mean=0.1).join(mine, "mine")
    assert (joined.rows, joined.matched) == (35, 33)
    assert [one["instruction"] for one in joined.dataset] == mine["instruction"][:]
    unknown = (None, float(np.float32(0.1)), None)
    for one in joined.dataset:
        found = tuple(one[name] for name in OURS)
        assert found == before.get(one["instruction"], unknown)
    dropped = SharedAnnotations(AnnotationsConfig(name=REPO, on_missing="drop"), mean=0.1)
    kept = dropped.join(mine, "mine")
    assert (len(kept.dataset), kept.rows, kept.matched) == (33, 35, 33)
    assert by_instruction(kept.dataset).items() <= before.items()
    strict = SharedAnnotations(AnnotationsConfig(name=REPO, on_missing="error"), mean=0.1)
    with pytest.raises(AnnotationError, match="nor are 1 others"):
        strict.join(mine, "mine")
    with pytest.raises(AnnotationError, match="no row in"):
        dropped.join(datasets.Dataset.from_list(strangers), "strangers")
    with pytest.raises(AnnotationError, match="has the column `ual_uncertainty` already"):
        dropped.join(kept.dataset, "mine")


def test_rows_that_are_alike_take_their_annotations_in_turn(tmp_path: Path) -> None:
    same = {"instruction": "Say yes.", "output": "yes"}
    other = {"instruction": "Say no.", "output": "no"}
    table = pa.Table.from_pylist([same, other, same])
    folder = output_folders.write_annotated(
        tmp_path / "a", {"train": table}, {"train": [0, 1, 0.5]}
    )
    shared = SharedAnnotations(AnnotationsConfig(name=str(folder)), mean=0.1)
    rows = datasets.Dataset.from_list([other, same, same, same])
    assert shared.join(rows, "rows").dataset[UNCERTAINTY][:] == [1, 0, 0.5, 0.5]


def test_rows_go_whole_and_can_be_taken_back(hub: hub_server.Hub, annotated: Path) -> None:
    recipe = str(annotated.parent / "recipe.yaml")
    result = publish(annotated, "--public", "--license", "cc-by-4.0", "--recipe", recipe)
    assert result.exit_code == 0, result.output
    repository = hub.repositories[REPO]
    assert not repository.private
    assert repository.files["train.parquet"] == (annotated / "train.parquet").read_bytes()
    assert repository.files["report.html"] == (annotated / "report.html").read_bytes()
    made = yaml.safe_load(repository.files["recipe.yaml"])
    assert made["datasets"] == [{"path": REPO, "split": "train", "type": "alpaca"}]
    assert made["ual"] == {}
    refused = publish(annotated, "--annotations-only", "--license", "mit")
    assert refused.exit_code == 1 and "is public" in refused.output
    again = publish(annotated, "--annotations-only", "--public", "--license", "mit")
    assert again.exit_code == 0, again.output
    assert "taken out: report.html; earlier commits" in again.output
    assert "report.html" not in repository.files


def pairs_recipe(model: Path, folder: Path, *, pairs: Path) -> dict[str, Any]:
    """What made the pairs, as far as training reads it."""
    prompts = {"path": str(folder / "prompts.jsonl"), "type": "chat_template.default"}
    ual = {"pairs": {"output": str(pairs)}, "curriculum": {"mode": "phased"}}
    return tiny.recipe(
        model, folder, [prompts], rl="dpo", rl_beta=0.1, chat_template="tokenizer_default",
        max_steps=None, sequence_len=2048, save_strategy="no", hub_model_id="mine", ual=ual,
    )  # fmt: skip


def publish_pairs(folder: Path, model: Path) -> Result:
    """Publish pairs of 12 prompts, one of which gave no pair."""
    pairs = output_folders.paired(folder / "pairs", prompts=12)
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(pairs_recipe(model, folder, pairs=pairs)))
    terms = ("--license", "mit", "--judge-terms", "research only")
    return publish(pairs, *terms, "--recipe", str(recipe))


def test_pairs_go_whole_and_never_without_their_texts(
    hub: hub_server.Hub, model: Path, tmp_path: Path
) -> None:
    result = publish_pairs(tmp_path, model)
    assert result.exit_code == 0, result.output
    files = hub.repositories[REPO].files
    assert set(files) == {
        "README.md", "manifest.json", "recipe.yaml", "report.html", "responses.parquet",
        "train.parquet",
    }  # fmt: skip
    for name in ("responses.parquet", "train.parquet"):
        assert files[name] == (tmp_path / "pairs" / name).read_bytes()
    assert Manifest.model_validate_json(files["manifest.json"]).kind == "pairs"
    made = yaml.safe_load(files["recipe.yaml"])
    assert made["datasets"] == [{"path": REPO, "split": "train", "type": "axolotl_ual.pairs"}]
    assert (made["rl"], made["ual"]) == ("dpo", {"curriculum": {"mode": "phased"}})
    assert "hub_model_id" not in made and "output_dir" not in made
    card = files["README.md"].decode()
    head = yaml.safe_load(card.split("---")[1])
    assert head["configs"][0]["data_files"] == [{"split": "train", "path": "train.parquet"}]
    assert "gpt-4o, whose terms were stated as: research only" in card
    terms = ("--license", "mit", "--judge-terms", "research only")
    refused = publish(tmp_path / "pairs", "--annotations-only", *terms)
    assert refused.exit_code == 1 and "holds pairs, which are their texts" in refused.output


def test_a_repository_with_other_files_is_left_alone(hub: hub_server.Hub, annotated: Path) -> None:
    hub.repositories[REPO] = hub_server.Repository(True, {"weights.bin": b"1"})
    result = publish(annotated, "--license", "mit")
    assert result.exit_code == 1 and "holds other files (weights.bin" in result.output
    assert hub.repositories[REPO].files == {"weights.bin": b"1"}


def test_licence_and_terms_are_asked_for(hub: hub_server.Hub, tmp_path: Path) -> None:
    table = pa.Table.from_pylist([{"instruction": "Say yes.", "output": "yes"}] * 3)
    folder = output_folders.write_annotated(
        tmp_path / "judged",
        {"train": table},
        {"train": [0.0, 0.5, 1.0]},
        estimator={"name": "judge", "model": "wise-1"},
        usage=ManifestUsage(requests=3),
    )
    result = publish(folder, typed="cc-by-4.0\nresearch only\n")
    assert result.exit_code == 0, result.output
    assert "What the terms of wise-1 say" in result.output
    card = hub.repositories[REPO].files["README.md"].decode()
    assert yaml.safe_load(card.split("---")[1])["license"] == "cc-by-4.0"
    assert "wise-1, whose terms were stated as: research only" in card


def test_without_a_token_the_hub_is_named(
    hub: hub_server.Hub, annotated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    result = publish(annotated, "--license", "mit")
    assert result.exit_code == 1
    assert (
        f"--repo {REPO}: the Hub does not take it" in result.output and "HF_TOKEN" in result.output
    )


@pytest.mark.host
@pytest.mark.slow
def test_published_recipes_train_without_a_judge(
    hub: hub_server.Hub, annotated: Path, model: Path, tmp_path: Path
) -> None:
    """Annotations, on shuffled rows of which one was never annotated; then pairs."""
    recipe = str(annotated.parent / "recipe.yaml")
    made = publish(annotated, "--annotations-only", "--license", "mit", "--recipe", recipe)
    assert made.exit_code == 0, made.output
    mine = tiny.write_rows(tmp_path / "mine.jsonl", [*shuffled(ROWS), row(100)])
    published = yaml.safe_load(hub.repositories[REPO].files["recipe.yaml"])
    entries = [{**published["datasets"][0], "path": str(mine)}]
    settings = tiny.recipe(
        model, tmp_path, entries, plugins=published["plugins"], ual=published["ual"], max_steps=2
    )
    caches = {f"HF_{name}_CACHE": str(tmp_path / name) for name in ("HUB", "DATASETS")}
    environment = {**hub.environment, **caches}
    run = tiny.axolotl(settings, tmp_path / "run", imports=environment)
    assert f"40 of 41 rows have annotations in {REPO}; 1 without a match, smoothed by" in run.text
    assert len(run.values("loss")) == 2
    (prepared,) = (tmp_path / "prepared").glob("ual-*/*/dataset_info.json")
    rows = datasets.load_from_disk(str(prepared.parent))
    kept = datasets.Dataset.from_parquet(str(annotated / "train.parquet"))
    expected = [*kept[SMOOTHING][:], float(np.float32(0.1))]
    assert sorted(rows[SMOOTHING][:]) == sorted(expected)
    assert json.dumps(settings["ual"]).count("judge") == 0
    made = publish_pairs(tmp_path / "other", model)
    assert made.exit_code == 0, made.output
    pairs = yaml.safe_load(hub.repositories[REPO].files["recipe.yaml"])
    pairs["output_dir"] = str(tmp_path / "dpo" / "out")
    run = tiny.axolotl(pairs, tmp_path / "dpo", imports=environment)
    # 11 pairs, two in a step.
    stages = run.values("ual/stage")
    assert len(stages) == 6 and stages == sorted(stages) and set(stages) == {1.0, 2.0, 3.0}
