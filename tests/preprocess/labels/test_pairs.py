"""Selection, stage and smoothing of pairs, beside a slow reference written from the definition."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axolotl_ual.columns import STAGES
from axolotl_ual.errors import ConfigError
from axolotl_ual.preprocess.labels.pairs import (
    OUTCOMES,
    Scored,
    digests,
    select_pairs,
    smooth_pairs,
    stage_pairs,
)

NAN = math.nan


def scored(prompts):
    """Build `Scored` from one list of (text, u) or (text, u, usable) per prompt."""
    rows = [(p, *response) for p, responses in enumerate(prompts) for response in responses]
    return Scored(
        prompt=np.array([row[0] for row in rows], dtype=np.int64),
        uncertainty=np.array([row[2] for row in rows], dtype=np.float64),
        usable=np.array([row[3] if len(row) > 3 else True for row in rows], dtype=np.bool_),
        text=digests([row[1] for row in rows]),
        prompt_key=digests([f"prompt {p}" for p in range(len(prompts))]),
    )


def pick(prompts, **options):
    """(chosen text, rejected text, gap) of each pair, and the outcome of each prompt."""
    texts = [response[0] for responses in prompts for response in responses]
    policy = options.pop("policy", "worst")
    options["policies"] = policy if isinstance(policy, list) else [policy]
    found = select_pairs(scored(prompts), **options)
    pairs = [
        (texts[c], texts[r], pytest.approx(float(g)))
        for c, r, g in zip(found.chosen, found.rejected, found.gap, strict=True)
    ]
    return pairs, [OUTCOMES[code] for code in found.outcome]


FIVE = [("a", 0.5), ("b", 0.1), ("c", 0.9), ("d", 0.3), ("e", 0.7)]


def test_policies():
    # Chosen is b (0.1). Rivals ascending: d 0.3, a 0.5, e 0.7, c 0.9; the lower median is a.
    assert pick([FIVE], policy="worst")[0] == [("b", "c", 0.8)]
    assert pick([FIVE], policy="second")[0] == [("b", "d", 0.2)]
    assert pick([FIVE], policy="median")[0] == [("b", "a", 0.4)]


def test_several_policies_give_the_union_of_their_pairs():
    # FIVE has three rivals to part; of TWO all policies find the one rival; of SAME the second and
    # the worst have one text, in two responses.
    two, same = [("x", 0.1), ("y", 0.3)], [("p", 0.1), ("q", 0.3), ("q", 0.6)]
    policies = ["worst", "median", "second"]
    pairs, outcomes = pick([FIVE, two, same], policy=policies)
    assert pairs == [
        ("b", "c", 0.8),
        ("b", "a", 0.4),
        ("b", "d", 0.2),
        ("x", "y", 0.2),
        ("p", "q", 0.5),
    ]
    assert outcomes == ["paired"] * 3
    found = select_pairs(scored([FIVE, two, same]), policies, min_gap=0.3)
    # Gaps of 0.2 are below: second keeps none, median that of FIVE, worst those of FIVE and SAME.
    assert found.found == {"worst": 2, "median": 1, "second": 0}
    assert [OUTCOMES[code] for code in found.outcome] == ["paired", "gap_below_min", "paired"]
    assert found.gap.tolist() == pytest.approx([0.8, 0.4, 0.5])


@given(st.lists(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 4))), max_size=4))
def test_one_policy_after_the_other_finds_the_same(prompts):
    data = scored([[(text, u / 4) for text, u in responses] for responses in prompts])
    policies = ["second", "random", "worst"]

    def pairs_of(chosen):
        found = select_pairs(data, chosen, min_gap=0.5, seed=2)
        return [
            (int(data.prompt[c]), int(data.text[c]), int(data.text[r]))
            for c, r in zip(found.chosen, found.rejected, strict=True)
        ]

    together, apart = pairs_of(policies), [pair for name in policies for pair in pairs_of([name])]
    assert sorted(together) == sorted(set(apart))
    found = select_pairs(data, policies, min_gap=0.5, seed=2).found
    assert list(found.values()) == [len(pairs_of([name])) for name in policies]


def test_random_policy_is_seeded_uniform_and_about_the_prompt():
    prompts = [FIVE] * 4000
    first = pick(prompts, policy="random", seed=1)[0]
    assert first == pick(prompts, policy="random", seed=1)[0]
    assert first != pick(prompts, policy="random", seed=2)[0]
    rejected = [pair[1] for pair in first]
    # 4000 draws of 4: 1000 each, standard deviation sqrt(4000 * 1/4 * 3/4) = 27.
    assert all(abs(rejected.count(name) - 1000) < 5 * 27 for name in "acde")


def test_outcomes_of_prompts_without_a_pair():
    prompts = [
        [("a", 0.1), ("b", 0.2)],
        [("", NAN, False), ("x", 0.5, False)],
        [("a", NAN), ("b", NAN)],
        [("a", 0.5), ("b", NAN), ("c", 0.9, False)],
        [("a", 0.5), ("a", 0.5)],
        [("a", 0.5), ("b", 0.5)],
        [("a", 0.5), ("b", 0.54)],
        [],
    ]
    pairs, outcomes = pick(prompts, min_gap=0.05)
    assert outcomes == [
        "paired",
        "no_usable_response",
        "no_uncertainty",
        "single_response",
        "identical_texts",
        "tie",
        "gap_below_min",
        "no_usable_response",
    ]
    assert pairs == [("a", "b", 0.1)]
    counts = select_pairs(scored(prompts), ["worst"], min_gap=0.05).counts()
    assert counts["no_usable_response"] == 2 and sum(counts.values()) == len(prompts)


def test_a_gap_of_exactly_min_gap_is_a_pair():
    # 0.3 - 0.1 is 0.19999999999999998 in double precision.
    assert pick([[("a", 0.1), ("b", 0.3)]], min_gap=0.2)[1] == ["paired"]


def test_rounding_noise_is_no_preference():
    assert pick([[("a", 0.5), ("b", 0.5 + 2e-7)]])[1] == ["tie"]
    noisy = 0.1 + 0.2  # 0.30000000000000004
    gaps = select_pairs(
        scored([[("a", 0.0), ("b", noisy)], [("a", 0.2), ("b", 0.5)]]), ["worst"]
    ).gap
    assert gaps[0] == gaps[1]


def test_the_same_text_is_never_rejected():
    # A judge may rate a repeated text differently: "a" at 0.9 is still the chosen text.
    assert pick([[("a", 0.1), ("a", 0.9), ("b", 0.4)]])[0] == [("a", "b", 0.3)]


RESPONSES = st.lists(
    st.tuples(
        st.sampled_from("abcdef"),
        st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.5, 0.75, 1.0, NAN]),
        st.booleans(),
    ),
    max_size=8,
)


def reference(responses, policy, min_gap):
    """The definition, one prompt at a time; None where there is no pair, by (u, u)."""
    candidates = [(u, text) for text, u, usable in responses if usable and not math.isnan(u)]
    if not candidates:
        return None
    best = min(u for u, _ in candidates)
    chosen = {text for u, text in candidates if u == best}
    rivals = sorted(u for u, text in candidates if u > best and text not in chosen)
    if len(chosen) > 1:  # Which text is chosen is open, and with it which texts are rivals.
        return "open"
    if not rivals:
        return None
    rejected = {"worst": rivals[-1], "second": rivals[0], "median": rivals[(len(rivals) - 1) // 2]}
    gap = rejected[policy] - best
    return (best, rejected[policy]) if gap >= min_gap - 1e-9 else None


@given(
    st.lists(RESPONSES, min_size=1, max_size=6),
    st.sampled_from(["worst", "second", "median"]),
    st.sampled_from([0.0, 0.2]),
)
@settings(max_examples=300)
def test_selection_equals_the_reference(prompts, policy, min_gap):
    data = scored(prompts)
    found = select_pairs(data, [policy], min_gap)
    by_prompt = {
        int(data.prompt[c]): (data.uncertainty[c], data.uncertainty[r], g)
        for c, r, g in zip(found.chosen, found.rejected, found.gap, strict=True)
    }
    for place, responses in enumerate(prompts):
        expected = reference(responses, policy, min_gap)
        if expected == "open":
            continue
        if expected is None:
            assert place not in by_prompt
        else:
            assert by_prompt[place][:2] == expected
    for chosen, rejected, gap in by_prompt.values():
        assert chosen < rejected and gap == np.float32(round(rejected - chosen, 6))
    assert (data.text[found.chosen] != data.text[found.rejected]).all()
    assert data.usable[found.chosen].all() and data.usable[found.rejected].all()
    assert [place in by_prompt for place in range(len(prompts))] == (found.outcome == 0).tolist()


@given(
    st.lists(RESPONSES, min_size=1, max_size=5),
    st.sampled_from(["worst", "second", "median", "random"]),
    st.randoms(use_true_random=False),
)
def test_pairs_do_not_depend_on_the_order(prompts, policy, random):
    data = scored(prompts)
    order = list(range(len(data.prompt)))
    random.shuffle(order)
    places = list(range(len(prompts)))
    random.shuffle(places)
    moved = Scored(
        prompt=np.array(places, dtype=np.int64)[data.prompt[order]],
        uncertainty=data.uncertainty[order],
        usable=data.usable[order],
        text=data.text[order],
        prompt_key=data.prompt_key[np.argsort(places)],
    )

    def content(found, scored_data, keys):
        return {
            (keys[scored_data.prompt[c]], scored_data.text[c], scored_data.text[r], g)
            for c, r, g in zip(found.chosen, found.rejected, found.gap, strict=True)
        }

    before = content(select_pairs(data, [policy], seed=3), data, data.prompt_key)
    after = content(select_pairs(moved, [policy], seed=3), moved, moved.prompt_key)
    assert before == after


def test_stages_by_threshold_and_by_tertile():
    gap = np.array([0.1, 0.7, 0.3, 0.5, 0.69999], dtype=np.float32)
    names = [STAGES[code] for code in stage_pairs(gap, (0.3, 0.7))]
    assert names == ["exploratory", "conservative", "moderate", "moderate", "moderate"]
    gap = np.array([0.1, 0.6, 0.2, 0.5, 0.4, 0.3], dtype=np.float32)
    names = [STAGES[code][0] for code in stage_pairs(gap, None)]
    assert names == ["e", "c", "e", "c", "m", "m"]


@given(st.lists(st.integers(1, 8), min_size=1, max_size=40))
def test_equal_gaps_share_a_stage_and_larger_gaps_never_come_later(eighths):
    gap = np.array(eighths, dtype=np.float32) / 8
    stages = stage_pairs(gap, None)
    for one in range(len(gap)):
        for other in range(len(gap)):
            if gap[one] == gap[other]:
                assert stages[one] == stages[other]
            if gap[one] > gap[other]:
                assert stages[one] <= stages[other]


def test_smoothing_falls_with_the_gap():
    # 1 - gap = 0, 0.25, 0.5, 1 (sum 1.75), mean 0.1 of four: a = 0.4 / 1.75 = 8/35, and the
    # largest, 8/35 = 0.229, is below the cap.
    gap = np.array([1.0, 0.75, 0.5, 0.0], dtype=np.float32)
    smoothing, solved = smooth_pairs(gap, 0.1, 0.4)
    assert solved.scale == pytest.approx(8 / 35)
    assert smoothing == pytest.approx([0, 2 / 35, 4 / 35, 8 / 35])
    # With the cap 0.2 the last one is truncated: a = (0.4 - 0.2) / 0.75 = 4/15.
    smoothing, _ = smooth_pairs(gap, 0.1, 0.2)
    assert smoothing == pytest.approx([0, 1 / 15, 2 / 15, 0.2])


def test_an_unreachable_mean_names_the_key():
    with pytest.raises(ConfigError, match=r"ual\.pairs\.smoothing\.mean"):
        smooth_pairs(np.array([1.0, 1.0], dtype=np.float32), 0.1, 0.4)
