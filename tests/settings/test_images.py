"""`ual.annotate.images`: which estimators can be shown images, and what annotations remember."""

from __future__ import annotations

from typing import Any

import pytest

from axolotl_ual.errors import ConfigError
from axolotl_ual.settings.ual import parse_ual

JUDGE = {"model": "m"}
PANEL = {"judges": [JUDGE, JUDGE]}


def settings(**annotate: Any) -> dict[str, Any]:
    return {
        "annotate": {"output": "o", "judge": JUDGE, "panel": PANEL, "images": "send", **annotate}
    }


@pytest.mark.parametrize(
    "annotate",
    [
        {},
        {"estimator": "panel"},
        {"estimator": "ensemble", "ensemble": {"members": {"judge": 1, "panel": 2}}},
        {"image_detail": "low"},
    ],
)
def test_judges_see_images(annotate: dict[str, Any]) -> None:
    assert parse_ual(settings(**annotate)).annotate is not None


@pytest.mark.parametrize(
    ("annotate", "name"),
    [
        ({"estimator": "perplexity"}, "perplexity"),
        ({"estimator": "entropy"}, "entropy"),
        ({"estimator": "mc_dropout"}, "mc_dropout"),
        ({"estimator": "p_true"}, "p_true"),
        ({"estimator": "distilled"}, "distilled"),
        ({"estimator": "custom", "custom": {"build": "a.b:c"}}, "custom"),
        ({"estimator": "self_consistency", "self_consistency": JUDGE}, "self_consistency"),
        (
            {"estimator": "ensemble", "ensemble": {"members": {"judge": 1, "entropy": 2}}},
            "entropy",
        ),
    ],
)
def test_others_read_text_alone(annotate: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_ual(settings(**annotate))
    said = f"`images: send` shows images to a judge, and `estimator: {name}` reads text alone"
    assert said in str(caught.value) and "set `images: omit`" in str(caught.value)
    assert parse_ual(settings(**{**annotate, "images": "omit"})).annotate is not None


def test_a_detail_is_of_images_that_are_sent() -> None:
    with pytest.raises(ConfigError, match="`image_detail: low` is of no use to `images: omit`"):
        parse_ual(settings(images="omit", image_detail="low"))
    with pytest.raises(ConfigError, match="image_detail: Input should be 'auto', 'low' or 'high'"):
        parse_ual(settings(image_detail="lowest"))


def test_annotations_remember_what_was_shown() -> None:
    def kept(**annotate: Any) -> dict[str, Any]:
        found = parse_ual(settings(**annotate)).result_settings(None)
        return {key: value for key, value in found.items() if key.startswith("image")}

    assert kept() == {"images": "send"}
    assert kept(image_detail="high") == {"images": "send", "image_detail": "high"}
    assert kept(images="error") == {}
