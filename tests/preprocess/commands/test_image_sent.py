"""`images: send`: a judge behind real HTTP gets the images of rows, and rates by them."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import Result
from judging_kit import command
from PIL import Image as Pillow

import judge_server
from axolotl_ual.columns import Manifest

pytestmark = pytest.mark.slow

ADDRESS = "https://example.com/red.png"


@pytest.fixture
def judge(server: judge_server.Running) -> judge_server.Running:
    """The server of this folder, which keeps what it was sent."""
    server.set(keep=True)
    return server


def drawn(number: int, kind: str = "PNG", edge: int = 8) -> bytes:
    """An image of noise, another one for each number."""
    pixels = np.random.default_rng(number).integers(0, 256, (edge, edge, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Pillow.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def row(number: int, *parts: dict[str, Any]) -> dict[str, Any]:
    question = [*parts, {"type": "text", "text": f"Which colour, {number}?"}]
    answer = [{"type": "text", "text": "red" * (1 + number % 3)}]
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    }


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def in_files(folder: Path, number: int, edge: int = 8) -> list[dict[str, Any]]:
    """Rows with an image in a file each."""
    folder.mkdir(exist_ok=True)
    rows = []
    for i in range(number):
        (folder / f"{i}.png").write_bytes(drawn(i, edge=edge))
        rows.append(row(i, {"type": "image", "path": str(folder / f"{i}.png")}))
    return rows


def annotate(
    folder: Path, data: Path, server: judge_server.Running, *options: str, **settings: Any
) -> Result:
    asked = settings.pop("judge", {"model": "judge", "base_url": server.base_url, "max_retries": 0})
    recipe = {
        "base_model": "none",
        "processor_type": "AutoProcessor",
        "skip_prepare_dataset": True,
        "datasets": [{"path": str(data), "type": "chat_template"}],
        "plugins": ["axolotl_ual.UALPlugin"],
        "ual": {
            "annotate": {
                "output": str(folder / "made"),
                "cache": str(folder / "cache"),
                "images": "send",
                **({} if asked is None else {"judge": asked}),
                **settings,
            }
        },
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return command("annotate", path, *options)


def uncertainty(folder: Path) -> list[float]:
    manifest = Manifest.read(folder / "made")
    values = [
        value
        for source in manifest.sources
        for value in pq.read_table(folder / "made" / source.file.path)[
            "ual_uncertainty"
        ].to_pylist()
    ]
    return [round(100 * value) for value in values]


def scores(requests: list[Any], rows: int) -> list[int]:
    """What the server says of the kept requests, by the number in the question of each row."""
    found = {}
    for request in requests:
        content = request["messages"][-1]["content"]
        text = content if isinstance(content, str) else json.dumps(content)
        (number,) = (n for n in range(rows) if f"Which colour, {n}?" in text)
        found[number] = judge_server.score_of(request["messages"])
    return [found[number] for number in range(rows)]


def test_each_image_is_sent_as_it_lies_in_the_row(
    tmp_path: Path, judge: judge_server.Running
) -> None:
    png, jpeg, gif = drawn(0), drawn(1, "JPEG"), drawn(2, "GIF")
    (tmp_path / "a.png").write_bytes(png)
    data = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
    rows = [
        row(0, {"type": "image", "path": str(tmp_path / "a.png")}),
        row(1, {"type": "image_url", "image_url": {"url": data}}),
        row(2, {"type": "image", "base64": base64.b64encode(gif).decode()}),
        row(3, {"type": "image", "url": ADDRESS}),
        row(4),
        row(
            5, {"type": "image", "url": ADDRESS}, {"type": "image", "path": str(tmp_path / "a.png")}
        ),
    ]
    path = write(tmp_path / "data", rows)
    found = annotate(tmp_path, path, judge)
    assert found.exit_code == 0, found.output
    images, requests = Counter(judge.stats()["images"]), judge.requests()
    assert images[digest(png)] == 2 and images[digest(jpeg)] == 1 and images[ADDRESS] == 2
    (other,) = images.keys() - {digest(png), digest(jpeg), ADDRESS}
    assert other != digest(gif)
    assert uncertainty(tmp_path) == scores(requests, 6)
    # The judge's number depends on the image: rows 3 and 5 differ by more than the text does.
    told = next(r for r in requests if "Which colour, 4?" in str(r["messages"][-1]["content"]))
    assert isinstance(told["messages"][-1]["content"], str)
    assert "# Images" not in told["messages"][0]["content"]
    said = "5 rows have images: 6 images were judged with their text, 2 of them by their address"
    assert said in found.output.replace("\n", " ")
    manifest = Manifest.read(tmp_path / "made")
    counts = {"rows": 5, "sent": 6, "by_address": 2, "beyond_the_first": 0, "seen": True}
    assert manifest.estimator["images"] == counts
    assert manifest.settings["images"] == "send" and "image_detail" not in manifest.settings
    assert "6 images were judged with their text" in (tmp_path / "made" / "README.md").read_text()


def test_an_image_is_asked_about_once_and_again_when_it_changes(
    tmp_path: Path, judge: judge_server.Running
) -> None:
    path = write(tmp_path / "data", in_files(tmp_path / "images", 5))
    assert annotate(tmp_path, path, judge).exit_code == 0
    first = uncertainty(tmp_path)
    again = annotate(tmp_path, path, judge)
    assert again.exit_code == 0, again.output
    assert judge.stats()["requests"] == 5 and "5 answers from the cache" in again.output
    (tmp_path / "images" / "3.png").write_bytes(drawn(33))
    assert annotate(tmp_path, path, judge).exit_code == 0
    assert judge.stats()["requests"] == 6
    assert digest(drawn(33)) in judge.stats()["images"]
    second = uncertainty(tmp_path)
    assert second == scores(judge.requests(), 5)
    assert [i for i in range(5) if first[i] != second[i]] == [3]
    # The text alone, and another detail, are other questions.
    assert annotate(tmp_path, path, judge, images="omit").exit_code == 0
    assert judge.stats()["requests"] == 11
    assert annotate(tmp_path, path, judge, image_detail="low").exit_code == 0
    assert judge.stats()["requests"] == 16
    parts = judge.requests()[-1]["messages"][-1]["content"]
    assert [part["image_url"]["detail"] for part in parts if part["type"] == "image_url"] == ["low"]


def test_an_image_of_a_column_is_sent(tmp_path: Path, judge: judge_server.Running) -> None:
    import datasets
    from datasets import Dataset, Features, List, Value

    turn = {"role": Value("string"), "content": Value("string")}
    rows = []
    for number in range(3):
        said = row(number)["messages"]
        messages = [{**turn, "content": turn["content"][-1]["text"]} for turn in said]
        cells = [{"bytes": drawn(n), "path": None} for n in (number, 9)]
        rows.append({"messages": messages, "images": cells if number else cells[:1]})
    features = Features({"messages": List(turn), "images": List(datasets.Image())})
    path = tmp_path / "rows.parquet"
    Dataset.from_list(rows, features=features).to_parquet(path)
    found = annotate(tmp_path, path, judge)
    assert found.exit_code == 0, found.output
    assert Counter(judge.stats()["images"]) == {digest(drawn(n)): 1 for n in range(3)}
    assert "2 behind the first of a column were not" in found.output.replace("\n", " ")
    assert uncertainty(tmp_path) == scores(judge.requests(), 3)


def test_a_panel_is_shown_images(tmp_path: Path, judge: judge_server.Running) -> None:
    path = write(tmp_path / "data", in_files(tmp_path / "images", 3))
    judges = [{"model": name, "base_url": judge.base_url} for name in ("one", "two")]
    found = annotate(tmp_path, path, judge, judge=None, estimator="panel", panel={"judges": judges})
    assert found.exit_code == 0, found.output
    assert Counter(judge.stats()["images"]) == {digest(drawn(n)): 2 for n in range(3)}


def test_a_batch_holds_images(tmp_path: Path, judge: judge_server.Running) -> None:
    path = write(tmp_path / "data", in_files(tmp_path / "images", 30))
    asked = {"model": "judge", "base_url": judge.base_url, "mode": "batch", "batch_poll": 0.05}
    found = annotate(tmp_path, path, judge, judge=asked)
    assert found.exit_code == 0, found.output
    stats = judge.stats()
    assert stats["batched"] == 29 and stats["requests"] == 1
    assert Counter(stats["images"]) == {digest(drawn(n)): 1 for n in range(30)}
    assert uncertainty(tmp_path) == scores(judge.requests(), 30)


def prices(folder: Path, per_million: float) -> str:
    path = folder / "prices.yaml"
    path.write_text(f"judge: {{input: {per_million}, output: {per_million}}}")
    return str(path)


@pytest.mark.parametrize("tokens", [85, 4_800])
def test_no_more_is_spent_than_allowed(
    tokens: int, tmp_path: Path, judge: judge_server.Running
) -> None:
    """A server that counts images as the bound says, or as few tokens as OpenAI at low detail."""
    judge.set(image_tokens=tokens, latency=0.01)
    path = write(tmp_path / "data", in_files(tmp_path / "images", 40))
    asked = {
        "model": "judge",
        "base_url": judge.base_url,
        "prices": prices(tmp_path, 1e6),  # 1 USD a token
        "max_concurrency": 4,
    }
    # By bytes the text is some 4,000 tokens, so a handful of requests fits, whichever they are.
    found = annotate(tmp_path, path, judge, "--max-cost", "40000", judge=asked)
    assert found.exit_code == 1 and "stopped before --max-cost" in found.output
    spent = sum(judge.stats()["tokens"])
    assert 10_000 < spent <= 40_000
    assert not (tmp_path / "made").exists()


def test_a_plan_counts_images_as_tokens_and_not_their_base64(
    tmp_path: Path, judge: judge_server.Running
) -> None:
    path = write(tmp_path / "data", in_files(tmp_path / "images", 2, edge=512))
    assert (tmp_path / "images" / "0.png").stat().st_size > 500_000
    asked = {"model": "judge", "base_url": judge.base_url, "prices": prices(tmp_path, 1.0)}
    found = annotate(tmp_path, path, judge, "--dry-run", judge=asked)
    assert found.exit_code == 0, found.output
    said = " ".join(found.output.split())
    # 512 x 512 is one tile: 85 + 170 tokens each.
    assert "2 images are taken for 510 of these tokens" in said and "9,600 at most" in said
    tokens = int(said.split("about ")[1].split(" prompt")[0].replace(",", ""))
    assert 510 < tokens < 5_000
    assert judge.stats()["requests"] == 0


@pytest.mark.parametrize(
    ("status", "message", "sent"),
    [
        (400, "Invalid content type. image_url is only supported by certain models.", 1),
        (404, "No endpoints found that support image input", 1),
        (400, "Bad request", 4),
    ],
)
def test_a_server_that_takes_no_images_is_told(
    status: int, message: str, sent: int, tmp_path: Path, judge: judge_server.Running
) -> None:
    judge.set(blind=(status, message))
    path = write(tmp_path / "data", in_files(tmp_path / "images", 12))
    found = annotate(tmp_path, path, judge)
    said = " ".join(found.output.split())
    assert found.exit_code == 1
    assert f"takes no images for judge: HTTP {status}: {message}" in said
    assert "set ual.annotate.images to `omit`" in said and "ual.annotate.judge.model" in said
    # Another may be on its way when the answer comes.
    assert sent <= judge.stats()["requests"] <= sent + 1


def test_a_server_that_answers_texts_is_told_too(
    tmp_path: Path, judge: judge_server.Running
) -> None:
    """Rows without images come first, and are answered."""
    judge.set(blind=(400, "Bad request"))
    rows = [row(n) for n in range(3)]
    (tmp_path / "a.png").write_bytes(drawn(0))
    rows += [row(n, {"type": "image", "path": str(tmp_path / "a.png")}) for n in range(3, 12)]
    asked = {"model": "judge", "base_url": judge.base_url, "max_concurrency": 1}
    found = annotate(tmp_path, write(tmp_path / "data", rows), judge, judge=asked)
    assert found.exit_code == 1 and "takes no images for judge" in found.output
    assert judge.stats()["requests"] <= 3 + 6


def test_rows_with_missing_and_broken_images_are_named(
    tmp_path: Path, judge: judge_server.Running
) -> None:
    rows = in_files(tmp_path / "images", 4)
    (tmp_path / "images" / "1.png").unlink()
    (tmp_path / "images" / "2.png").write_bytes(b"none")
    path = write(tmp_path / "data", rows)
    found = annotate(tmp_path, path, judge)
    said = " ".join(found.output.split())
    assert found.exit_code == 1 and "2 of 4 rows cannot be read" in said
    assert "rows.jsonl: row 1 (line 2): `messages[0].content[0].path` is neither a file" in said
    assert "rows.jsonl: row 2 (line 3): `messages[0].content[0].path` is no image" in said
    assert "ual.annotate.images to `omit`" in said
    assert judge.stats()["requests"] == 0
    found = annotate(tmp_path, path, judge, on_unreadable="mean")
    assert found.exit_code == 0, found.output
    assert Manifest.read(tmp_path / "made").estimator["images"]["rows"] == 2
    assert judge.stats()["requests"] == 2


def test_workers_on_ray_send_images(
    tmp_path: Path, judge: judge_server.Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.chdir(tmp_path)
    in_files(tmp_path / "images", 6)
    rows = [row(n, {"type": "image", "path": f"images/{n}.png"}) for n in range(6)]
    engine = {"kind": "ray", "workers": 2, "rows_per_block": 2}
    found = annotate(tmp_path, write(tmp_path / "data", rows), judge, engine=engine)
    import ray

    ray.shutdown()
    assert found.exit_code == 0, found.output
    assert Counter(judge.stats()["images"]) == {digest(drawn(n)): 1 for n in range(6)}
    assert uncertainty(tmp_path) == scores(judge.requests(), 6)
