"""`publish`: what `annotate` or `pairs` wrote, on the Hugging Face Hub."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console

from axolotl_ual.columns import MANIFEST_FILE, Manifest
from axolotl_ual.errors import AnnotationError, BackendError, ConfigError, DataError, words_of

from ..data.recipe import read_yaml
from ..output.published import (
    RECIPE_FILE,
    Terms,
    recipe_in_card,
    shared_recipe,
    stage_hashes,
    stage_rows,
    write_card,
)
from .report import REPORT_FILE, report_beside

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_ALWAYS_THERE: Final = {".gitattributes", "README.md"}


@dataclass(frozen=True, slots=True)
class PublishOptions:
    """What the command line says.

    Attributes:
        repo: name on the Hub.
        licence: of what is published.
        judge_terms: what the judge's terms allow; None where no server was asked.
        annotations_only: digests and columns, no text.
        public: for all to see.
        recipe: that made the folder; None: as much of it as the folder's card shows.
    """

    repo: str
    licence: str
    judge_terms: str | None = None
    annotations_only: bool = False
    public: bool = False
    recipe: Path | None = None


def published_manifest(folder: Path) -> Manifest:
    """The manifest of a folder that can be published.

    Raises:
        AnnotationError: the folder is none of ours, unfinished, or a trial.
    """
    try:
        manifest = Manifest.read(folder)
    except (OSError, ValueError) as error:
        raise AnnotationError(
            f"{folder}: has no manifest that can be read: {words_of(error)}",
            "name a folder that `axolotl-ual annotate` or `axolotl-ual pairs` wrote",
        ) from None
    if manifest.limit is not None:
        raise AnnotationError(
            f"{folder}: holds the first {manifest.limit} rows only (--limit)",
            "run the command again without `--limit`",
        )
    return manifest


def asked_judges(manifest: Manifest) -> tuple[str, ...] | None:
    """Models behind servers that gave the uncertainties; None where no server was asked."""
    if not manifest.usage.requests + manifest.usage.cached:
        return None
    return tuple(dict.fromkeys(_models(manifest.estimator)))


def _models(facts: Any) -> Iterator[str]:
    if isinstance(facts, dict):
        if isinstance(facts.get("model"), str):
            yield facts["model"]
        for value in facts.values():
            yield from _models(value)
    elif isinstance(facts, list):
        for value in facts:
            yield from _models(value)


def publish(folder: Path, options: PublishOptions, console: Console) -> str:
    """Upload a folder.

    Args:
        folder: that `annotate` or `pairs` wrote.
        options: of the command line.
        console: for the closing lines.

    Returns:
        The full name on the Hub.

    Raises:
        AnnotationError: see `published_manifest`.
        ConfigError: pairs cannot go without their texts.
        DataError: the repository holds something else, or is public and should not be.
        BackendError: the Hub refuses.
    """
    from huggingface_hub import HfApi

    manifest = published_manifest(folder)
    if options.annotations_only and manifest.kind != "annotations":
        raise ConfigError(
            f"--annotations-only: {folder} holds {manifest.kind}, which are their texts",
            "publish them whole",
        )
    recipe = recipe_in_card(folder) if options.recipe is None else read_yaml(options.recipe)
    api = HfApi(library_name="axolotl-ual")
    with _said_by_hub(options.repo):
        there = _files_there(api, options)
        url = api.create_repo(
            options.repo, repo_type="dataset", private=not options.public, exist_ok=True
        )
    terms = Terms(url.repo_id, options.licence, asked_judges(manifest) or (), options.judge_terms)
    with tempfile.TemporaryDirectory() as scratch:
        staged = Path(scratch)
        if options.annotations_only:
            manifest = stage_hashes(folder, manifest, staged)
        else:
            manifest = stage_rows(folder, manifest, staged)
            if manifest.kind != "hashes":
                _stage_report(folder, staged, console)
        write_card(staged, manifest, shared_recipe(manifest, recipe, terms.repo), terms)
        files = sorted(path.name for path in staged.iterdir())
        with _said_by_hub(options.repo):
            api.upload_folder(
                folder_path=staged,
                repo_id=terms.repo,
                repo_type="dataset",
                commit_message=f"Publish {manifest.kind} with axolotl-ual",
                delete_patterns=sorted(there - set(files) - _ALWAYS_THERE) or None,
            )
    _close(str(url), files, there, options, console)
    return terms.repo


def _stage_report(folder: Path, staged: Path, console: Console) -> None:
    if (folder / REPORT_FILE).is_file():
        shutil.copyfile(folder / REPORT_FILE, staged / REPORT_FILE)
    else:
        report_beside(staged, console)


def _files_there(api: HfApi, options: PublishOptions) -> set[str]:
    """Files of an earlier publication; none where the repository is yet to be made."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = api.dataset_info(options.repo)
    except RepositoryNotFoundError:
        return set()
    files = {file.rfilename for file in info.siblings or []}
    if files - _ALWAYS_THERE and MANIFEST_FILE not in files:
        raise DataError(
            f"--repo {options.repo}: holds other files ({', '.join(sorted(files)[:3])}, ...)",
            "choose another name",
        )
    if not info.private and not options.public:
        raise DataError(
            f"--repo {options.repo}: is public, and `--public` was not said",
            "say `--public`, make it private on the Hub, or choose another name",
        )
    return files


@contextmanager
def _said_by_hub(repo: str) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    try:
        yield
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, ValueError, OSError) as e:
        raise BackendError(
            f"--repo {repo}: the Hub does not take it: {words_of(e)}",
            "log in with `hf auth login`, or set HF_TOKEN to a token that may write",
        ) from None


def _close(
    url: str, files: list[str], there: set[str], options: PublishOptions, console: Console
) -> None:
    seen = "public" if options.public else "private"
    console.print(f"published {url} ({seen}): {', '.join(files)}", highlight=False, markup=False)
    gone = sorted(there - set(files) - _ALWAYS_THERE)
    if gone:
        console.print(
            f"taken out: {', '.join(gone)}; earlier commits of the repository still hold them",
            highlight=False,
            markup=False,
        )
    console.print(
        f"others train with its {RECIPE_FILE}; licence {options.licence}", highlight=False
    )
