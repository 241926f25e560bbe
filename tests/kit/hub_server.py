"""A stand-in of the Hugging Face Hub's file API: repositories in memory, real HTTP.

It speaks what `huggingface_hub` sends for datasets: whoami, create, info, preupload, commit,
revision, tree and resolve. Files go the regular way, inside the commit. Whoever reads or writes a
private repository needs the token.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_stand_in"


@dataclass
class Repository:
    """Files of the one branch, by path, and the settings it was made with."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: int = 0

    @property
    def sha(self) -> str:
        digest = hashlib.sha1(str(self.commits).encode())
        for path, content in sorted(self.files.items()):
            digest.update(path.encode() + content)
        return digest.hexdigest()


@dataclass
class Hub:
    """The stand-in: its address and repositories by full name."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """Variables that point `huggingface_hub` to it."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": TOKEN,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
        }


@contextmanager
def running() -> Iterator[Hub]:
    """A stand-in on a free port, while the block runs."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            """Tests read no access log."""

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            path = self.path.partition("?")[0]
            if path == "/api/validate-yaml":
                self._json({"warnings": [], "errors": []})
            elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self._json({"error": "Invalid username or password."}, 401)
            elif path == "/api/repos/create":
                self._create(json.loads(body))
            elif found := re.fullmatch(r"/api/datasets/(.+?)/preupload/main", path):
                files = [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for file in json.loads(body)["files"]
                ]
                self._json({"files": files})
            elif found := re.fullmatch(r"/api/datasets/(.+?)/commit/main", path):
                self._commit(found[1], [json.loads(line) for line in body.splitlines()])
            else:
                self._json({"error": path}, 404)

        def _create(self, wanted: dict[str, Any]) -> None:
            name = f"{wanted.get('organization') or 'someone'}/{wanted['name']}"
            known = name in hub.repositories
            # Older clients say `private: true`, newer ones `visibility: private`.
            private = wanted.get("private") is True or wanted.get("visibility") == "private"
            hub.repositories.setdefault(name, Repository(private))
            self._json({"url": f"{hub.url}/datasets/{name}"}, 409 if known else 200)

        def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
            repository = hub.repositories[name]
            for line in lines:
                value = line["value"]
                if line["key"] == "file":
                    repository.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "deletedFile":
                    del repository.files[value["path"]]
            repository.commits += 1
            url = f"{hub.url}/datasets/{name}/commit/{repository.sha}"
            self._json({"commitUrl": url, "commitOid": repository.sha})

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/api/whoami-v2":
                known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
                self._json({"name": "someone", "type": "user"}, 200 if known else 401)
                return
            found = re.fullmatch(
                r"(?:/api)?/datasets/([^/]+/[^/]+)(?:/(revision|tree|resolve)/([^/]+)/?(.*))?", path
            )
            repository = hub.repositories.get(found[1]) if found else None
            allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            if found is None or repository is None or (repository.private and not allowed):
                self._send(401, b"{}", {"X-Error-Code": "RepoNotFound"})
            elif found[2] == "resolve":
                self._file(repository, found[4])
            elif found[2] == "tree":
                self._json(
                    [
                        {"type": "file", "path": name, "size": len(content), "oid": _tag(content)}
                        for name, content in repository.files.items()
                    ]
                )
            else:
                self._json(
                    {
                        "id": found[1],
                        "sha": repository.sha,
                        "private": repository.private,
                        "siblings": [{"rfilename": name} for name in repository.files],
                    }
                )

        def _file(self, repository: Repository, name: str) -> None:
            content = repository.files.get(name)
            if content is None:
                self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
                return
            head = {"ETag": f'"{_tag(content)}"', "X-Repo-Commit": repository.sha}
            self._send(200, content, head)

        def _json(self, value: Any, status: int = 200) -> None:
            self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    return Handler


def _tag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
