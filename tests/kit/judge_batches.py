"""The Batch API of `judge_server`: files, batches, and their results."""

from __future__ import annotations

import time
from typing import Any

import orjson
from judge_answers import Judge, error


class Batches:
    """Answers /v1/files and /v1/batches."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}

    def respond(self, method: str, path: str, body: bytes, authorization: str) -> Any:
        """Status and body for /files and /batches."""
        if self._judge.options.key and authorization != f"Bearer {self._judge.options.key}":
            return 401, error("Incorrect API key provided", "invalid")
        parts = path.partition("?")[0].removeprefix("/v1/").split("/")
        if parts == ["files"] and method == "POST":
            return 200, self._add_file(_file_of_form(body))
        if parts[0] == "files" and parts[2:] == ["content"] and parts[1] in self.files:
            return 200, self.files[parts[1]]
        if parts == ["batches"] and method == "POST":
            return 200, self._start_batch(orjson.loads(body))
        if parts == ["batches"]:
            found = [self._look_at(name) for name in reversed(self.batches)]
            return 200, {"object": "list", "data": found, "has_more": False}
        if parts[0] == "batches" and parts[-1] in self.batches:
            return 200, self._look_at(parts[-1])
        return 404, error(f"{path} is not here", "not_found")

    def _add_file(self, content: bytes) -> dict[str, Any]:
        name = f"file-{len(self.files)}"
        self.files[name] = content
        return {
            "id": name,
            "object": "file",
            "bytes": len(content),
            "created_at": 0,
            "filename": "requests.jsonl",
            "purpose": "batch",
            "status": "processed",
        }

    def _start_batch(self, request: Any) -> dict[str, Any]:
        name = f"batch-{len(self.batches)}"
        lines = self.files[request["input_file_id"]].splitlines()
        self._judge.stats.batches += 1
        self.batches[name] = {
            "id": name,
            "object": "batch",
            "endpoint": request["endpoint"],
            "completion_window": request["completion_window"],
            "created_at": time.monotonic(),
            "input_file_id": request["input_file_id"],
            "metadata": request.get("metadata"),
            "status": "in_progress",
            "request_counts": {"total": len(lines), "completed": 0, "failed": 0},
        }
        return self._look_at(name)

    def _look_at(self, name: str) -> dict[str, Any]:
        batch = self.batches[name]
        lines = self.files[batch["input_file_id"]].splitlines()
        over = time.monotonic() - batch["created_at"] >= self._judge.options.batch_seconds
        if batch["status"] == "in_progress" and over:
            if 0 < self._judge.options.batch_most < len(lines):
                error = {"code": "too_many_tasks", "message": "too many requests in the file"}
                batch |= {"status": "failed", "errors": {"object": "list", "data": [error]}}
            else:
                self._work_on(batch, lines)
        return {**batch, "created_at": 0}

    def _work_on(self, batch: dict[str, Any], lines: list[bytes]) -> None:
        answers, errors = [], []
        for line in lines[: round(self._judge.options.batch_share * len(lines))]:
            request = orjson.loads(line)
            self._judge.stats.batched += 1
            answer = self._judge.respond(
                orjson.dumps(request["body"]), f"Bearer {self._judge.options.key}"
            )
            status, body, _ = answer or (0, None, {})
            if not status or isinstance(body, bytes):
                status, body = 500, error("it broke", "server_error")
            response = {"status_code": status, "body": body}
            result = {"custom_id": request["custom_id"], "response": response, "error": None}
            (answers if status == 200 else errors).append(orjson.dumps(result))
        batch["status"] = "completed" if self._judge.options.batch_share == 1 else "expired"
        batch["request_counts"] |= {"completed": len(answers), "failed": len(errors)}
        for key, found in (("output_file_id", answers), ("error_file_id", errors)):
            batch[key] = self._add_file(b"\n".join(found))["id"] if found else None


def _file_of_form(body: bytes) -> bytes:
    """The file of a multipart form."""
    boundary = body[: body.index(b"\r\n")]
    for part in body.split(boundary):
        head, _, content = part.partition(b"\r\n\r\n")
        if b"filename=" in head:
            return content.removesuffix(b"\r\n")
    return b""
