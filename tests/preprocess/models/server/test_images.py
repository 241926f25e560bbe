"""What servers make of images: tokens, prices, prompts that are cut, and refusals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axolotl_ual.preprocess.data.image import Image
from axolotl_ual.preprocess.models.server.address import find_server
from axolotl_ual.preprocess.models.server.content import text_part
from axolotl_ual.preprocess.models.server.cut_prompts import CutPrompts
from axolotl_ual.preprocess.models.server.dialect import Chat
from axolotl_ual.preprocess.models.server.endpoint import Endpoint
from axolotl_ual.preprocess.models.server.error_replies import read_error
from axolotl_ual.preprocess.models.server.image_tokens import likely_tokens, most_tokens
from axolotl_ual.preprocess.models.server.prices import Price
from axolotl_ual.preprocess.models.server.replies import Completion
from axolotl_ual.preprocess.models.server.sight import Sight
from axolotl_ual.preprocess.models.server.verdicts import Kind, Verdict
from axolotl_ual.settings.estimators import JudgeConfig


def image(width: int, height: int) -> Image:
    return Image("image", held=b"x" * 100_000, format="PNG", size=(width, height))


@pytest.mark.parametrize(
    ("size", "tokens"),
    [
        # The two examples of OpenAI's guide: 1024 x 1024 becomes 768 x 768, 4 tiles; 2048 x 4096
        # becomes 1024 x 2048 and then 768 x 1536, 6 tiles.
        ((1024, 1024), 85 + 4 * 170),
        ((2048, 4096), 85 + 6 * 170),
        ((1, 1), 85 + 170),
        ((512, 512), 85 + 170),
        ((513, 512), 85 + 2 * 170),
        # 10,000 x 100 becomes 2048 x 20.48: 4 x 1 tiles.
        ((10_000, 100), 85 + 4 * 170),
    ],
)
def test_the_estimate_is_by_tiles(size: tuple[int, int], tokens: int) -> None:
    assert likely_tokens(image(*size)) == tokens


def test_the_estimate_at_low_detail_and_at_an_address() -> None:
    address = "https://example.com/a.png"
    assert likely_tokens(Image("image", address=address, detail="low")) == 85
    assert likely_tokens(Image("image", address=address)) == 765
    assert most_tokens(Image("image", address=address), "m") == 16_400
    # 8 tiles: 2833 + 8 * 5667.
    assert most_tokens(Image("image", address=address), "gpt-4o-mini") == 48_169
    # Taken as 768 x 768, 4 tiles: 2833 + 4 * 5667.
    assert most_tokens(image(100, 100), "gpt-4o-mini") == 25_501


@given(st.integers(1, 8000), st.integers(1, 8000))
def test_the_bound_is_above_the_usual_rules(width: int, height: int) -> None:
    shown = image(width, height)
    most = most_tokens(shown, "gpt-4o")
    assert most >= likely_tokens(shown)
    assert most >= min(-(-width // 28) * -(-height // 28), 16_384)
    assert most >= min(width * height / 750, 4_784)
    assert most >= min(-(-width // 32) * -(-height // 32), 1_536) * 2.46
    assert most <= 16_400
    mini = 2833 + (likely_tokens(shown) - 85) // 170 * 5667
    assert mini <= most_tokens(shown, "openai/GPT-4o-mini-2024-07-18") <= 48_169


def chat(*parts: object, **more: object) -> Chat:
    messages = [{"role": "user", "content": list(parts)}]
    return Chat(messages, max_tokens=10, temperature=0.0)


def test_the_highest_cost_counts_images_by_the_bound_and_not_by_their_bytes() -> None:
    config = JudgeConfig(model="m", base_url="http://127.0.0.1:1/v1")
    endpoint = Endpoint(config, find_server(config, "ual.annotate.judge"), Price(1.0, 0.0, 1.0))
    text = endpoint.highest_cost(chat(text_part("a")))
    assert 64 < text < 200
    one = endpoint.highest_cost(chat(text_part("a"), image(100, 100)))
    two = endpoint.highest_cost(chat(text_part("a"), image(100, 100), image(2800, 2800)))
    assert 4_800 < one - text < 4_900
    # 100 x 100 patches of 28 pixels.
    assert 10_000 < two - one < 10_100


def test_prompts_with_images_teach_no_rate() -> None:
    """Forty tokens of text and a thousand of an image are no measure for texts.

    By their rate a text of 1,022 words and signs would be 28,000 tokens, so 1,024 would be where it
    was cut.
    """
    prompts = CutPrompts()
    seen = [{"role": "user", "content": [text_part("Which is it? " * 12), image(9, 9)]}]
    for _ in range(20):
        assert not prompts.is_cut(seen, 1_000, 64)
    told = [{"role": "user", "content": "Which one of these is it? " * 146}]
    assert not prompts.is_cut(told, 1_024, 64)
    prompts.context = 2_048
    assert prompts.is_cut(seen, 2_048, 64)


def test_a_long_text_beside_an_image_is_seen_to_be_cut() -> None:
    prose = "The quick brown fox jumps over the lazy dog and runs. " * 400
    assert CutPrompts().is_cut(
        [{"role": "user", "content": [text_part(prose), image(9, 9)]}], 1_024, 64
    )


BLIND = [
    (400, "Invalid content type. image_url is only supported by certain models."),
    (422, "Failed to deserialize the JSON body into the target type: messages[1].content[1]: "
     "unknown variant `image_url`, expected `text` at line 1 column 9"),
    (400, "Qwen2.5-7B is not a multimodal model"),
    (400, "At most 0 image(s) may be provided in one request."),
    (500, "image input is not supported - hint: if this is unexpected, you may need to provide "
     "the mmproj"),
    (404, "No endpoints found that support image input"),
    (400, "This model does not support image input."),
    (400, "messages[1].content must be a string"),
    (400, "this model is missing data required for image input"),
]  # fmt: skip
OF_ONE_ROW = [
    (400, "You uploaded an unsupported image. Please make sure your image has of one the following "
     "formats: ['png', 'jpeg', 'gif', 'webp']."),
    (400, "Failed to download image from https://example.com/a.png"),
    (400, "The image is too large"),
    (400, "Unsupported parameter: 'temperature' is not supported with this model."),
    (400, "image dimensions are not valid"),
]  # fmt: skip


def verdict(status: int, message: str) -> Verdict:
    return read_error(status, {"error": {"message": message}}, {})


@pytest.mark.parametrize(("status", "message"), BLIND)
def test_a_model_that_sees_nothing_says_so(status: int, message: str) -> None:
    shown, told = chat(text_part("a"), image(1, 1)), chat(text_part("a"))
    sight = Sight()
    assert sight.is_refused(shown, verdict(status, message))
    assert not sight.is_refused(told, verdict(status, message))
    # What a server says that has answered an image is about one row.
    assert not sight.is_refused(shown, Verdict(Kind.COMPLETION, completion=Completion("1")))
    assert not sight.is_refused(shown, verdict(status, message))


@pytest.mark.parametrize(("status", "message"), OF_ONE_ROW)
def test_what_is_wrong_with_one_image_is_the_rows(status: int, message: str) -> None:
    sight, shown = Sight(), chat(text_part("a"), image(1, 1))
    said = verdict(status, message)
    assert not sight.is_refused(shown, said)
    assert [sight.gives_up(shown, said) for _ in range(4)] == [False, False, False, True]
    assert not Sight().gives_up(chat(text_part("a")), said)
