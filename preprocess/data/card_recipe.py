"""The recipe in a model card that Axolotl wrote.

Axolotl puts the YAML that it was started with, as it stood in the file, between
`<details><summary>See axolotl config</summary>` and `</details>` of the card (`README.md`), in a
fenced block behind the line `axolotl version: ...`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import yaml

from axolotl_ual.errors import ConfigError, words_of

_CARD: Final = "README.md"
_DETAILS: Final = re.compile(
    r"<details><summary>See axolotl config</summary>(?P<inside>.*?)</details><br>", re.S
)
_FENCED: Final = re.compile(r"^```ya?ml\n(?P<text>.*)\n```\s*\Z", re.S | re.M)
_FIX: Final = "name a model that `axolotl train` wrote: a README.md, its folder, or owner/name"


def recipe_of_card(model: str) -> str:
    """The YAML that a model was trained with, as its author wrote it.

    Args:
        model: a card's file, a folder with `README.md`, or a model's name on the Hub.

    Raises:
        ConfigError: there is no such card, or it has no recipe of Axolotl's.
    """
    card = _card(model)
    details = _DETAILS.search(card)
    fenced = _FENCED.search(details["inside"].strip()) if details else None
    if fenced is None:
        raise ConfigError(f"{model}: its card has no recipe that Axolotl wrote", _FIX)
    text = fenced["text"].rstrip("\n") + "\n"
    try:
        loaded = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{model}: the recipe in its card is no YAML: {words_of(error)}"
        ) from None
    if not isinstance(loaded, dict):
        raise ConfigError(f"{model}: the recipe in its card is no mapping of keys to values")
    return text


def _card(model: str) -> str:
    path = Path(model)
    if path.is_dir():
        path = path / _CARD
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read: {error}", _FIX) from None
    if path.parent.is_dir() and (path.name == _CARD or model.startswith((".", "/"))):
        raise ConfigError(f"{path}: no such file", _FIX)
    return _card_of_the_hub(model)


def _card_of_the_hub(name: str) -> str:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    try:
        return Path(hf_hub_download(name, _CARD)).read_text(encoding="utf-8")
    except HFValidationError:
        raise ConfigError(f"{name}: no file, no folder and no name of the Hub", _FIX) from None
    except EntryNotFoundError as error:
        raise ConfigError(f"{name}: {words_of(error)}", _FIX) from None
    except HfHubHTTPError as error:
        raise ConfigError(
            f"{name}: the Hub gave no card: {words_of(error)}",
            "check the name, and `hf auth login` for private and gated models",
        ) from None
    except (OSError, RuntimeError) as error:
        # httpx says that its client is closed where huggingface_hub gave up on a connection.
        raise ConfigError(f"{name}: the Hub cannot be reached: {words_of(error)}", _FIX) from None
