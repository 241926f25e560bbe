"""Which character a token begins with, against the bytes of tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

import tiny
from axolotl_ual.data.token_text import TokenText, num_letters
from axolotl_ual.errors import UnsupportedError

# Of one, two, three and four bytes; marks that combine; and white space of several kinds.
CHARACTERS = "ab.!é\u0301ß你。👍\u200d🏽\u00a0\u3000 \n\t\x1f\u2028"


def sentencepiece() -> Tokenizer:
    """Llama's kind: words begin with ▁, and a character that has no token is its bytes."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁ab.", "ab", "▁a", "b."]
    merges = [("a", "b"), ("▁", "a"), ("b", ".")]
    made = Tokenizer(
        models.BPE(
            {piece: number for number, piece in enumerate(pieces)},
            merges,
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return made


def bytes_of_level(token: str) -> bytes:
    """The bytes that a token of GPT-2's alphabet stands for: the printable ones for themselves."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in own]
    table = {chr(byte): byte for byte in own}
    table.update({chr(256 + place): byte for place, byte in enumerate(others)})
    return bytes(table[character] for character in token)


def bytes_of_piece(token: str) -> bytes:
    if token.startswith("<0x"):
        return bytes([int(token[3:5], 16)])
    return token.replace("▁", " ").encode()


def expected(pieces: list[bytes]) -> tuple[list[int], int]:
    """The first character, white space aside, that each token has a byte of."""
    owners: list[int | None] = []
    letters = 0
    for character in b"".join(pieces).decode():
        size = len(character.encode())
        owners += [None if character.isspace() else letters] * size
        letters += not character.isspace()
    first, place, last = [], 0, -1
    for piece in pieces:
        own = [owner for owner in owners[place : place + len(piece)] if owner is not None]
        place += len(piece)
        first.append(own[0] if own else last)
        last = own[-1] if own else last
    return first, letters


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Any:
    texts = ["Ab. ab! 。\n你。 a\u0301b"] * 20
    return tiny.make_tokenizer(Path(tmp_path_factory.mktemp("tokenizer")), texts)


@given(text=st.text(st.sampled_from(CHARACTERS), max_size=30))
def test_bytes_of_characters_that_tokens_share(byte_level: Any, text: str) -> None:
    ids = byte_level.encode(text, add_special_tokens=False)
    pieces = [bytes_of_level(byte_level.convert_ids_to_tokens(token)) for token in ids]
    first_T, count = TokenText(byte_level.decode).first_characters(ids)
    assert (first_T.tolist(), count) == expected(pieces)
    assert count == sum(not character.isspace() for character in text) == num_letters(text)


@given(text=st.text(st.sampled_from(CHARACTERS), min_size=1, max_size=30))
def test_pieces_and_bytes_of_what_has_none(text: str) -> None:
    made = sentencepiece()
    ids = made.encode(text).ids
    pieces = [bytes_of_piece(made.id_to_token(token)) for token in ids]
    first_T, count = TokenText(made.decode).first_characters(ids)
    assert (first_T.tolist(), count) == expected(pieces)


@given(text=st.text(), cut=st.integers(0, 8))
def test_any_text_and_one_that_ends_within_a_character(
    byte_level: Any, text: str, cut: int
) -> None:
    ids = byte_level.encode(text, add_special_tokens=False)
    part = ids[: max(0, len(ids) - cut)]
    whole_T, count = TokenText(byte_level.decode).first_characters(ids)
    part_T, _ = TokenText(byte_level.decode).first_characters(part)
    # Up to three bytes of white space may be left, which pass for a character.
    sure = max(0, len(part) - 3 * (cut > 0))
    assert part_T[:sure].tolist() == whole_T[:sure].tolist()
    assert count == sum(not character.isspace() for character in text)


def test_by_eye(byte_level: Any) -> None:
    # The three bytes of 你 are a token each, of which the first one begins the character.
    ids = byte_level.encode("x 你 y", add_special_tokens=False)
    tokens = [bytes_of_level(token) for token in byte_level.convert_ids_to_tokens(ids)]
    assert tokens == [b"x", b" ", b"\xe4\xbd\xa0", b" ", b"y"]
    ids = byte_level.encode("x👍 y", add_special_tokens=False)
    tokens = [bytes_of_level(token) for token in byte_level.convert_ids_to_tokens(ids)]
    assert tokens == [b"x", b"\xf0", b"\x9f", b"\x91", b"\x8d", b" ", b"y"]
    first_T, count = TokenText(byte_level.decode).first_characters(ids)
    assert first_T.tolist() == [0, 1, 1, 1, 1, 1, 2]
    assert count == 3


def test_white_space_before_all_has_no_character_before_it(byte_level: Any) -> None:
    ids = byte_level.encode("\n x", add_special_tokens=False)
    first_T, count = TokenText(byte_level.decode).first_characters(ids)
    assert first_T.tolist()[0] == -1
    assert first_T.tolist()[-1] == 0
    assert count == 1


def test_a_token_is_asked_for_its_text_once(byte_level: Any) -> None:
    asked: list[list[int]] = []

    def decode(ids: Any) -> str:
        asked.append(list(ids))
        return str(byte_level.decode(ids))

    text = TokenText(decode)
    ids = byte_level.encode("ab " * 50, add_special_tokens=False)
    for _ in range(3):
        text.first_characters(ids)
    alone = [one for one in asked if len(one) == 1]
    assert len(alone) == len(set(ids))
    assert len(asked) == len(set(ids)) + 3


def test_a_decoder_that_writes_tokens_together_in_another_way() -> None:
    made = Tokenizer(models.WordPiece({"<unk>": 0, "ab": 1, "##b": 2}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.decoder = decoders.WordPiece()
    # ab and ##b are abb together, of 3 characters, and of 2 and 3 one by one.
    with pytest.raises(UnsupportedError, match="3 characters for 2 tokens together and 5 one by"):
        TokenText(made.decode).first_characters([1, 2])
