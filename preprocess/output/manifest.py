"""What every manifest of ours begins with: versions, time, settings."""

from __future__ import annotations

import importlib.metadata
import platform
from datetime import datetime, timezone
from typing import Any, Final

from axolotl_ual import __version__
from axolotl_ual.columns import Manifest

_VERSIONED: Final = ("datasets", "numpy", "openai", "pyarrow", "torch", "transformers")


def make_manifest(**known: Any) -> Manifest:
    """A manifest of this moment and these versions.

    Args:
        known: all else that `Manifest` holds.
    """
    return Manifest(
        package_version=__version__,
        versions=library_versions(),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **known,
    )


def library_versions() -> dict[str, str]:
    """Python and the libraries that shape a result."""
    versions = {"python": platform.python_version()}
    for name in _VERSIONED:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
