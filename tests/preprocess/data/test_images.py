"""Images of rows: where they are named, what they are, and their place in a dialogue."""

from __future__ import annotations

import base64
import hashlib
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from axolotl_ual.errors import DataError
from axolotl_ual.preprocess.data import images
from axolotl_ual.preprocess.data.chat import chat_reader
from axolotl_ual.preprocess.data.chat_fields import ChatFields
from axolotl_ual.preprocess.data.image import Image
from axolotl_ual.preprocess.data.images import COLUMNS, image_of
from axolotl_ual.preprocess.data.sample import BadRow, Sample

SEND = ChatFields(images="send", image_columns=COLUMNS)


def drawn(kind: str = "PNG", size: tuple[int, int] = (3, 2), mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    Pillow.new(mode, size, "red" if mode == "RGB" else 1).save(stream, kind)
    return stream.getvalue()


PNG, JPEG = drawn(), drawn("JPEG")


def sent(image: Image) -> bytes:
    """The bytes of a data URL, and a check of what it says of them."""
    head, _, data = image.part()["image_url"]["url"].partition(",")
    content = base64.b64decode(data, validate=True)
    with Pillow.open(io.BytesIO(content)) as opened:
        assert head == f"data:{opened.get_format_mimetype()};base64"
    return content


@pytest.mark.parametrize("content", [PNG, JPEG], ids=["png", "jpeg"])
def test_bytes_are_sent_as_they_are_wherever_they_lie(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    text = base64.b64encode(content).decode()
    found = [
        image_of(value, "images[0]")
        for value in (
            str(path),
            content,
            text,
            f"data:image/png;base64,{text}",
            {"bytes": content, "path": "elsewhere.png"},
            {"bytes": None, "path": str(path)},
        )
    ]
    assert [sent(image) for image in found] == [content] * len(found)
    assert {image.size for image in found} == {(3, 2)}
    # The same image has the same key in the cache, wherever it lies.
    assert len({image.digest for image in found}) == 1
    assert found[0].path == str(path) and not found[0].held


@pytest.mark.parametrize(
    ("kind", "mode"), [("GIF", "RGB"), ("WEBP", "RGB"), ("BMP", "RGB"), ("TIFF", "L"), ("GIF", "P")]
)
def test_other_formats_become_png(kind: str, mode: str) -> None:
    content = drawn(kind, mode=mode)
    image = image_of(content, "image")
    png = sent(image)
    assert png.startswith(b"\x89PNG")
    with Pillow.open(io.BytesIO(png)) as seen, Pillow.open(io.BytesIO(content)) as given_:
        difference = [
            abs(a - b)
            for a, b in zip(
                seen.convert("RGB").tobytes(), given_.convert("RGB").tobytes(), strict=True
            )
        ]
    assert max(difference) == 0


def test_a_jpeg_with_others_behind_it_is_a_jpeg() -> None:
    stream = io.BytesIO()
    frames = [Pillow.new("RGB", (3, 2), colour) for colour in ("red", "blue")]
    frames[0].save(stream, "MPO", save_all=True, append_images=frames[1:])
    part = image_of(stream.getvalue(), "image").part()
    head, _, data = part["image_url"]["url"].partition(",")
    assert head == "data:image/jpeg;base64" and base64.b64decode(data) == stream.getvalue()


def test_an_address_is_sent_as_it_is() -> None:
    image = image_of("https://example.com/a.png?size=9", "image", "low")
    assert image.part() == {
        "type": "image_url",
        "image_url": {"url": "https://example.com/a.png?size=9", "detail": "low"},
    }
    assert image.size is None


def test_digests_tell_bytes_addresses_and_details_apart() -> None:
    address = "https://example.com/a.png"
    found = [
        image_of(PNG, "image"),
        image_of(PNG, "image", "low"),
        image_of(JPEG, "image"),
        image_of(address, "image"),
        image_of(f"{address}?", "image"),
    ]
    assert len({image.digest for image in found}) == len(found)
    shown = hashlib.sha256(hashlib.sha256(PNG).digest() + b"auto").digest()
    assert found[0].digest == shown


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("nowhere.png", "is neither a file that is there, nor a URL, nor base64: 'nowhere.png'"),
        ("file:///nowhere.png", "is neither a file that is there"),
        ("", "is a string and not an image"),
        ({"bytes": None, "path": None}, "is null and not an image"),
        (5, "is a number and not an image: 5"),
        (b"none", "is no image that can be read as PNG, JPEG, GIF, WEBP, BMP, TIFF: 4 bytes"),
        ("aGk=", "is no image that can be read as PNG"),
        (PNG[:20], "is no image that can be read as PNG"),
    ],
)
def test_what_is_no_image_is_named(value: Any, problem: str) -> None:
    with pytest.raises(BadRow) as caught:
        image_of(value, "images[0]")
    assert caught.value.key == "images[0]" and problem in caught.value.problem
    assert "ual.annotate.images to `omit`" in caught.value.fix


def test_an_image_may_be_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "LARGEST", len(PNG) - 1)
    with pytest.raises(BadRow, match=f"is an image of {len(PNG)} bytes, and servers take up to"):
        image_of(PNG, "image")


def test_a_file_that_goes_away_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    image = image_of(str(path), "messages[0].content[0].path")
    path.unlink()
    for use in (image.part, lambda: image.digest):
        with pytest.raises(
            DataError, match=r"the image at `messages\[0\].content\[0\].path`"
        ) as error:
            use()
    assert str(path) in str(error.value) and "put the file back" in str(error.value)


def test_a_broken_file_of_another_format_is_an_error() -> None:
    image = image_of(drawn("BMP", (40, 40))[:200], "image")
    with pytest.raises(DataError, match="cannot be read"):
        image.part()


def said(sample: Sample) -> list[str | bytes]:
    """Texts and bytes of images, in their order, with a mark where a message begins."""
    found: list[str | bytes] = []
    for turn in sample.turns:
        if not turn.continues:
            found.append(f"<{turn.role}>")
        found.append(turn.text if turn.image is None else turn.image.held)
    return found


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


ANSWER = {"role": "assistant", "content": "Red."}
SHOWN = base64.b64encode(PNG).decode()


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "base64": SHOWN},
        {"type": "image", "url": f"data:image/png;base64,{SHOWN}"},
        {"type": "image", "image": {"bytes": PNG, "path": None}, "url": None},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{SHOWN}"}},
        {"type": "image_url", "image_url": SHOWN},
        {"type": "image", "text": None, "base64": SHOWN},
    ],
)
def test_an_image_stays_in_its_place(part: dict[str, Any]) -> None:
    messages = [user(text("Look: "), part, text(" and "), part, text("?")), ANSWER]
    sample = chat_reader(SEND).read({"messages": messages})
    expected = ["<user>", "Look: ", PNG, " and ", PNG, "?", "<assistant>", "Red."]
    assert said(sample) == expected
    assert [turn.trained for turn in sample.turns] == [False] * 5 + [True]
    assert sample.has_images and len(sample.images) == 2 and not sample.images_beyond


def test_an_image_of_an_answer_belongs_to_the_response() -> None:
    part = {"type": "image", "base64": SHOWN}
    messages = [user(text("Draw.")), {"role": "assistant", "content": [part, text("Done.")]}]
    sample = chat_reader(SEND).read({"messages": messages})
    assert said(sample) == ["<user>", "Draw.", "<assistant>", PNG, "Done."]
    assert [turn.trained for turn in sample.turns] == [False, True, True]
    with pytest.raises(BadRow, match="is an empty response"):
        chat_reader(SEND).read(
            {"messages": [messages[0], {"role": "assistant", "content": [part]}]}
        )


def test_an_image_cuts_trained_spans_at_its_place() -> None:
    """Flags of the parts: 'ab' is trained, 'cd' is not, and an image lies inside neither."""
    part = {"type": "image", "base64": SHOWN}
    content = [{**text("ab"), "train": True}, part, {**text("cd"), "train": False}, text("ef")]
    sample = chat_reader(SEND).read(
        {"messages": [user(text("x")), {"role": "assistant", "content": content}]}
    )
    found = [(turn.text, turn.trained, turn.image is not None) for turn in sample.turns[1:]]
    assert found == [
        ("ab", True, False),
        ("", False, True),
        ("cd", False, False),
        ("ef", True, False),
    ]


IMAGE = {"bytes": PNG, "path": None}
OTHER = {"bytes": JPEG, "path": None}
BARE = {"type": "image", "text": None}


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([user(text("Which?")), ANSWER], ["<user>", "Which?", PNG, "<assistant>", "Red."]),
        (
            [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Which?"},
                ANSWER,
            ],
            ["<system>", "Be brief.", "<user>", "Which?", PNG, "<assistant>", "Red."],
        ),
        ([user(BARE, text("Which?")), ANSWER], ["<user>", PNG, "Which?", "<assistant>", "Red."]),
        (
            [user(text("a")), ANSWER, user(text("b"), BARE), ANSWER],
            ["<user>", "a", "<assistant>", "Red.", "<user>", "b", PNG, "<assistant>", "Red."],
        ),
    ],
)
def test_an_image_of_a_column_goes_where_axolotl_puts_it(
    messages: list[Any], expected: list[Any]
) -> None:
    for row in ({"images": [IMAGE]}, {"image": [IMAGE]}, {"images": [IMAGE], "image": [OTHER]}):
        sample = chat_reader(SEND).read({"messages": messages, **row})
        assert said(sample) == expected and not sample.images_beyond
    beyond = chat_reader(SEND).read({"messages": messages, "images": [IMAGE, OTHER, OTHER]})
    assert said(beyond) == expected and beyond.images_beyond == 2


@pytest.mark.host
def test_axolotl_puts_it_there() -> None:
    """The rule above, asked of Axolotl's own collator."""
    from axolotl.processing_strategies import ProcessingStrategy

    class Speaks:
        tokenizer = None

    strategy = ProcessingStrategy(Speaks())
    rows = [
        [user(text("a")), {"role": "assistant", "content": "b"}],
        [user(text("a"), BARE), {"role": "assistant", "content": "b"}],
        [
            user(BARE, text("a")),
            user(text("c"), {"type": "image"}),
            {"role": "assistant", "content": "b"},
        ],
    ]
    for messages in [*rows[:2], rows[2][1:]]:
        (made,) = strategy([{"messages": messages, "images": [Pillow.open(io.BytesIO(PNG))]}])
        places = [[part["type"] for part in message["content"]] for message in made["messages"]]
        sample = chat_reader(SEND).read({"messages": messages, "images": [IMAGE]})
        ours: list[list[str]] = []
        for turn in sample.turns:
            ours += [[]] if not turn.continues else []
            ours[-1].append("text" if turn.image is None else "image")
        assert ours == places


def test_a_part_that_names_no_image_is_named() -> None:
    with pytest.raises(BadRow, match=r"`messages\[0\].content\[0\]` names no image") as caught:
        chat_reader(SEND).read({"messages": [user(BARE, text("a")), ANSWER]})
    assert "processor_type" in caught.value.fix
    with pytest.raises(BadRow, match="names no image"):
        chat_reader(SEND).read({"messages": [user(BARE, BARE), ANSWER], "images": [IMAGE]})


def test_a_column_is_read_with_a_processor_alone() -> None:
    row = {"messages": [user(text("a")), ANSWER], "images": [IMAGE]}
    assert not chat_reader(replace(SEND, image_columns=())).read(row).images


@given(
    st.lists(
        st.lists(st.one_of(st.text(max_size=4), st.integers(0, 3)), min_size=1, max_size=5),
        min_size=1,
        max_size=4,
    )
)
def test_any_dialogue_keeps_its_order(dialogue: list[list[str | int]]) -> None:
    """Every text and image of every message, in order: texts joined, an image its number."""
    shown = [drawn(size=(number + 1, 1)) for number in range(4)]
    messages = [
        user(
            *(
                text(part)
                if isinstance(part, str)
                else {"type": "image", "image": {"bytes": shown[part], "path": None}}
                for part in parts
            )
        )
        for parts in dialogue
    ]
    sample = chat_reader(SEND).read({"messages": [*messages, ANSWER]})
    found: list[str] = []
    for turn in sample.turns[:-1]:
        if not turn.continues:
            found.append("")
        found[-1] += turn.text if turn.image is None else f"\0{shown.index(turn.image.held)}"
    expected = [
        "".join(part if isinstance(part, str) else f"\0{part}" for part in parts)
        for parts in dialogue
    ]
    assert found == expected
