"""A server's address and key, as people write them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from judging_kit import command, write_recipe

import judge_server

pytestmark = pytest.mark.slow

KEY = "OPENAI_API_KEY"


@pytest.fixture(scope="module")
def server() -> Iterator[judge_server.Running]:
    with judge_server.running() as running:
        yield running


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (KEY, "OPENAI_BASE_URL", "HTTP_PROXY", "http_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "url",
    [
        "{root}/v1/",
        "{root}/v1/chat/completions",
        "{root}/v1/chat/completions/",
        "  {root}/v1 ",
        "{root}/v1#x",
        "http://user:pa%40ss@{host}/v1",
    ],
)
def test_an_address_is_taken_as_people_have_it(
    server: judge_server.Running, tmp_path: Path, url: str
) -> None:
    recipe = write_recipe(tmp_path, server, 2, base_url=address(server, url))
    result = command("annotate", recipe)
    assert result.exit_code == 0, result.output


def address(server: judge_server.Running, url: str) -> str:
    return url.format(root=server.root, host=server.root.removeprefix("http://"))


@pytest.mark.parametrize(
    ("url", "key", "told"),
    [
        ("{host}/v1", "", "is not an http or https URL"),
        ("http://127.0.0.1:99999/v1", "", "is not an http or https URL"),
        ("http://user:planted@{host}/v1", "k", "a request can carry only one of them"),
        ("{root}", "", "which ends in /v1 on most servers"),
        ("{root}/v1", '"planted"', "holds characters that no key has"),
        ("{root}/v1", "Bearer planted", "holds characters that no key has"),
        ("http://127.0.0.1:1/v1", "", "cannot reach the judge at http://127.0.0.1:1/v1"),
    ],
)
def test_what_is_wrong_with_an_address_or_a_key_is_told(
    server: judge_server.Running,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    url: str,
    key: str,
    told: str,
) -> None:
    if key:
        monkeypatch.setenv(KEY, key)
    result = command("annotate", write_recipe(tmp_path, server, 2, base_url=address(server, url)))
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert told in " ".join(result.output.split())
    assert "planted" not in result.output


def test_a_proxy_that_is_not_there_is_named(
    server: judge_server.Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, "k")
    monkeypatch.setenv("http_proxy", "http://user:planted@127.0.0.1:1")
    recipe = write_recipe(tmp_path, server, 2, base_url="http://judge.example/v1")
    result = command("annotate", recipe)
    assert "by the proxy http://127.0.0.1:1" in " ".join(result.output.split())
    assert "planted" not in result.output
