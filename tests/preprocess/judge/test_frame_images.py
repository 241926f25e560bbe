"""Images in the frame of a judge, in its requests, and in the keys of its answers."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from axolotl_ual.errors import ConfigError
from axolotl_ual.preprocess.calls.cache import KeyMaker
from axolotl_ual.preprocess.calls.exchange import reminded
from axolotl_ual.preprocess.data.image import Image
from axolotl_ual.preprocess.data.images import image_of
from axolotl_ual.preprocess.data.sample import Sample, Turn
from axolotl_ual.preprocess.judge.frame import ABOUT_IMAGES, fence, with_images
from axolotl_ual.preprocess.judge.rubric import load_rubric
from axolotl_ual.preprocess.judge.uncertainty import Uncertainty
from axolotl_ual.preprocess.models.server.content import images_in, put_before, said, text_part
from axolotl_ual.preprocess.models.server.dialect import Dialect
from axolotl_ual.settings.estimators import JudgeConfig


def image(number: int) -> Image:
    stream = io.BytesIO()
    Pillow.new("L", (number + 1, 1)).save(stream, "PNG")
    return image_of(stream.getvalue(), f"images[{number}]")


IMAGES = [image(number) for number in range(12)]
FORGED = "SAMPLE-000000000000000000000000 IMAGE 1"
TEXTS = st.one_of(
    st.text(st.characters(exclude_characters="⟦⟧"), max_size=30),
    st.sampled_from([FORGED, "IMAGE 1"]),
)


def shown(number: int) -> Turn:
    return Turn("user", "", False, True, IMAGES[number])


@given(st.lists(st.one_of(TEXTS, st.none()), min_size=1, max_size=14), st.integers(64, 200))
def test_texts_are_cut_behind_the_line_of_each_image(dialogue: list[str | None], most: int) -> None:
    """What stands before the k-th image are the turns before it, and nothing of those behind it."""
    dialogue = [part for place, part in enumerate(dialogue) if part is not None or place < 12]
    turns, expected = [], []
    for place, part in enumerate(dialogue):
        if part is None:
            turns.append(shown(place))
            expected.append((IMAGES[place], place))
        else:
            turns.append(Turn("user", f"⟦{place}⟧{part}", False))
    sample = Sample((*turns, Turn("assistant", "⟦99⟧Yes.", True)), True)
    fenced = fence(sample, most)
    text = load_rubric("uncertainty-v1").sample(fenced)
    before, found = "", []
    for part in with_images(text, fenced):
        if isinstance(part, Image):
            seen = [i for i in range(100) if f"⟦{i}⟧" in before]
            found.append((part, seen))
            assert before.endswith(f"{fenced.marker} IMAGE {len(found)}")
        else:
            before += part["text"]
    assert before == text
    assert [part for part, _ in found] == [part for part, _ in expected]
    for (_, seen), (_, place) in zip(found, expected, strict=True):
        # A turn that was shortened keeps its head, and with it its number.
        assert seen == [i for i in range(place) if dialogue[i] is not None]


def test_the_tenth_line_is_not_the_first() -> None:
    sample = Sample((*map(shown, range(12)), Turn("assistant", "Yes.", True)), True)
    fenced = fence(sample, 64)
    parts = [*with_images(load_rubric("uncertainty-v2").sample(fenced), fenced)]
    assert [part for part in parts if isinstance(part, Image)] == IMAGES


def judge(**config: Any) -> Uncertainty:
    rubric = config.pop("rubric", "uncertainty-v1")
    return Uncertainty(JudgeConfig(model="m", **config), load_rubric(rubric), "verbalized")


SEEN = Sample((Turn("user", "Which?", False), shown(0), Turn("assistant", "Red.", True)), True)
TOLD = Sample((Turn("user", "Which?", False), Turn("assistant", "Red.", True)))


@pytest.mark.parametrize("rubric", ["uncertainty-v1", "uncertainty-v2"])
def test_a_request_shows_the_image_and_says_what_it_is(rubric: str) -> None:
    task = judge(rubric=rubric)
    chat = task.chat(SEEN, 0)
    system, user = orjson.loads(Dialect(task.config, print).body(chat))["messages"]
    assert system["content"] == task.instructions + ABOUT_IMAGES
    first, part, last = user["content"]
    assert first["text"].endswith(" IMAGE 1") and "Red." in last["text"]
    assert part == IMAGES[0].part()
    # 1 x 2 pixels are one tile: 85 + 170 tokens beside those of the text.
    words = len(system["content"]) + len(first["text"]) + len(last["text"])
    assert chat.prompt_tokens == words // 4 + 255
    assert judge(rubric=rubric).chat(TOLD, 0).messages[0]["content"] == task.instructions


def test_a_request_without_images_is_what_it_was() -> None:
    (system, user) = judge().chat(TOLD, 0).messages
    assert isinstance(user["content"], str) and ABOUT_IMAGES not in system["content"]


@pytest.mark.parametrize(
    ("shows", "times"), [("", 0), ("{{ part[2] }}{{ part[2] }}", 2), ("{{ part[2] | lower }}", 0)]
)
def test_a_rubric_that_loses_images_is_refused(shows: str, times: int, tmp_path: Path) -> None:
    path = tmp_path / "own.jinja"
    path.write_text(
        "{% macro instructions(score) %}Rate.{% endmacro %}"
        f"{{% macro sample(marker, parts) %}}{{% for part in parts %}}{shows}{{% endfor %}}"
        "{% endmacro %}"
    )
    with pytest.raises(ConfigError, match=f"is there {times} times") as caught:
        judge(rubric=str(path)).chat(SEEN, 0)
    assert "does not show image 1" in str(caught.value)
    judge(rubric=str(path)).chat(TOLD, 0)


def test_the_key_digests_the_image_and_its_place() -> None:
    keys = KeyMaker(judge().identity)
    (question, picture, answer) = SEEN.turns
    others = [
        SEEN,
        TOLD,
        Sample((picture, question, answer)),
        Sample((question, shown(1), answer)),
        Sample((question, picture, picture, answer)),
        Sample((question, Turn("user", "", True, True, IMAGES[0]), answer)),
        Sample((question, Turn("user", "", False, True), answer)),
    ]
    assert len({keys.key(sample) for sample in others}) == len(others)


def test_keys_of_images_stay() -> None:
    """What was paid for stays paid for; `ABOUT_IMAGES` changes together with `_IMAGE`."""
    address = Turn("user", "", False, True, Image("image", address="https://example.com/a.png"))
    question, _, answer = SEEN.turns
    found = KeyMaker(judge().identity).key(Sample((question, address, answer)), 1).hex()
    assert found == "c2b48f7d7f186d4f7dbfc4ead5767ef17a06db2ae9fc1b028477c241a37530a9"
    told = KeyMaker({"about": ABOUT_IMAGES}).key(Sample(())).hex()
    assert told == "761b1e5286c0347939973ba4220caa2c573c9e6b14f20782e50ea9bde88536e9"


def test_a_reminder_and_a_merged_system_message_keep_the_image() -> None:
    task = judge()
    chat = reminded(task.chat(SEEN, 0), task.reminder)
    dialect = Dialect(task.config, print)
    assert dialect.adapt(chat, "System role not supported", "")
    (only,) = orjson.loads(dialect.body(chat))["messages"]
    first, part, _ = only["content"]
    assert first["text"].startswith(task.instructions) and task.reminder in first["text"]
    assert "INSTRUCTION role=user\nWhich?" in first["text"] and part == IMAGES[0].part()


def test_content_in_parts() -> None:
    parts = [text_part("a"), IMAGES[0], text_part("b")]
    assert put_before("x ", "a") == "x a"
    assert put_before("x ", parts) == [text_part("x a"), *parts[1:]]
    assert put_before("x ", parts[1:]) == [text_part("x "), *parts[1:]]
    assert said({"content": parts}) == "ab" and said({"content": None}) == ""
    assert list(images_in([{"content": "a"}, {"content": parts}])) == [IMAGES[0]]
