"""A recipe of two datasets with its annotated copy, as `annotate` leaves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tiny
from axolotl_ual.columns import MANIFEST_FILE, Manifest, ManifestFile, ManifestSource
from axolotl_ual.data.annotated import locate
from axolotl_ual.data.fingerprint import file_digest, fingerprint
from axolotl_ual.settings.ual import parse_ual

ROWS = [{"instruction": f"i{n}", "output": f"o{n}"} for n in range(4)]


class Project:
    """Files, recipe and folder below one temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.data = [
            tiny.write_rows(folder / "one.jsonl", ROWS[:3]),
            tiny.write_rows(folder / "two.jsonl", ROWS[3:]),
        ]
        self.folder = folder / "annotated"
        self.recipe: dict[str, Any] = {
            "base_model": "tiny",
            "datasets": [{"path": str(path), "type": "alpaca"} for path in self.data],
            "ual": {"annotate": {"output": str(self.folder), "judge": {"model": "gpt-4o"}}},
        }
        self.annotate()

    def annotate(self, smoothing: float = 0.1, **changes: Any) -> Manifest:
        sources = []
        for index, (entry, count) in enumerate(zip(self.recipe["datasets"], (3, 1), strict=True)):
            name = f"{index}.parquet"
            rows = [{**row, "ual_smoothing": smoothing} for row in ROWS[:count]]
            path = tiny.write_rows(self.folder / name, rows)
            file = ManifestFile(path=name, rows=count, sha256=file_digest(path))
            sources.append(
                ManifestSource(entry=entry, fingerprint=fingerprint(entry), rows=count, file=file)
            )
        settings = parse_ual(self.recipe["ual"]).result_settings(self.recipe["base_model"])
        known: dict[str, Any] = {
            "package_version": "0",
            "versions": {},
            "created": "2026-01-01T00:00:00Z",
            "estimator": {},
            "settings": settings,
            "sources": sources,
            "counts": {},
        }
        manifest = Manifest(**{**known, **changes})
        (self.folder / MANIFEST_FILE).write_text(manifest.model_dump_json())
        return manifest

    def locate(self) -> Any:
        return locate(self.recipe, parse_ual(self.recipe["ual"]), "recipe.yaml")
