"""Samples of one sentence each."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from axolotl_ual.preprocess.data.by_sentence import BySentence, characters, cut, sample_of
from axolotl_ual.preprocess.data.sample import Sample, Turn

ASKED = Turn("user", "Where is Paris? And Lyon?", trained=False)
ANSWER = Turn("assistant", " Paris is in France.  So is Lyon!\nBoth.", trained=True)
AGAIN = Turn("user", "And Rome?", trained=False)
LAST = Turn("assistant", "In Italy.", trained=True)

texts = st.text(st.sampled_from("ab. !?\n\t`1)。é\u2003")) | st.text()
turns = st.builds(Turn, st.just("assistant"), texts, st.booleans())
samples = (
    st.lists(turns, min_size=1, max_size=5)
    .filter(lambda found: any(turn.trained and turn.text.strip() for turn in found))
    .map(lambda found: Sample(tuple(found)))
)


def test_a_sentence_is_asked_about_behind_all_that_comes_before_it() -> None:
    row = Sample((ASKED, ANSWER, AGAIN, LAST), has_images=True)
    pieces = cut(row)
    assert [row.turns[p.turn].text[p.start : p.end] for p in pieces] == [
        " Paris is in France.  ",
        "So is Lyon!\n",
        "Both.",
        "In Italy.",
    ]
    assert sample_of(row, pieces[0]) == Sample(
        (ASKED, Turn("assistant", " Paris is in France.  ", trained=True)), has_images=True
    )
    assert sample_of(row, pieces[2]) == Sample(
        (
            ASKED,
            Turn("assistant", " Paris is in France.  So is Lyon!\n", trained=False),
            Turn("assistant", "Both.", trained=True, continues=True),
        ),
        has_images=True,
    )
    before = Turn("assistant", ANSWER.text, trained=False)
    assert sample_of(row, pieces[3]) == Sample((ASKED, before, AGAIN, LAST), has_images=True)
    assert sample_of(row, pieces[2], with_before=False).turns == (
        ASKED,
        Turn("assistant", "Both.", trained=True),
    )


def test_rows_and_ends_of_sentences_are_counted_in_characters() -> None:
    whole = BySentence([Sample((ASKED, ANSWER, AGAIN, LAST)), Sample((ASKED, LAST))])
    assert whole.row_S.tolist() == [0, 0, 0, 0, 1]
    # "ParisisinFrance." is 16, "SoisLyon!" 9, "Both." 5, "InItaly." 8.
    assert whole.end_S.tolist() == [16, 25, 30, 38, 8]
    assert whole.share_S.tolist() == [16 / 38, 9 / 38, 5 / 38, 8 / 38, 1.0]
    assert [whole.place(index) for index in (0, 3, 4)] == [(0, 0), (0, 3), (1, 0)]
    assert whole[4] == Sample((ASKED, LAST)) and whole[-1] == whole[4]


@given(st.lists(samples, min_size=1, max_size=4))
def test_sentences_tile_what_is_trained(rows: list[Sample]) -> None:
    whole = BySentence(rows)
    for number, row in enumerate(rows):
        own = [index for index in range(len(whole)) if whole.row_S[index] == number]
        responses = ["".join(t.text for t in whole[index].turns if t.trained) for index in own]
        trained = [turn.text for turn in row.turns if turn.trained and turn.text.strip()]
        assert own and "".join(responses) == "".join(trained)
        assert all(text.strip() for text in responses)
        plain = [sum(not character.isspace() for character in text) for text in responses]
        assert whole.end_S[own].tolist() == [sum(plain[: n + 1]) for n in range(len(plain))]
        for index in own:
            asked = [t for t in whole[index].turns if t.trained]
            assert len(asked) == 1 and whole[index].turns[-1] == asked[0]


@given(texts)
def test_characters_are_those_that_are_no_white_space(text: str) -> None:
    assert characters(text) == sum(not character.isspace() for character in text)


@given(st.lists(samples, min_size=1, max_size=4))
def test_the_order_in_which_sentences_are_asked_for_is_no_matter(rows: list[Sample]) -> None:
    whole = BySentence(rows)
    forwards = list(whole)
    assert [whole[index] for index in reversed(range(len(whole)))] == forwards[::-1]
    assert whole[1:3] == forwards[1:3]
