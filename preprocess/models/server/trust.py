"""Whose certificates are trusted: a file of the user's, the environment's, or the system's.

    ca_file in the YAML, else REQUESTS_CA_BUNDLE, else SSL_CERT_FILE, else what the system has

A file adds to what the system trusts, so that one behind a company's proxy reaches both.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Final

from axolotl_ual.errors import BackendError

_VARIABLES: Final = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")


class Trust:
    """Certificates for one server.

    Args:
        ca_file: of the YAML, or None.
        section: the YAML section of the server, for error messages.

    Attributes:
        context: for TLS.

    Raises:
        BackendError: the certificates cannot be read.
    """

    def __init__(self, ca_file: str | None, section: str) -> None:
        self._section = section
        self._name, self._path = _source(ca_file, section)
        self.context = ssl.create_default_context()
        if self._path is None:
            return
        path = Path(self._path)
        try:
            if path.is_dir():
                self.context.load_verify_locations(capath=self._path)
            else:
                self.context.load_verify_locations(cafile=self._path)
        except (OSError, ssl.SSLError) as error:
            raise BackendError(
                f"{self._name}: the certificates in {self._path} cannot be read: {error}",
                "name a PEM file, or a folder of them",
            ) from None

    def refused(self, error: Exception, url: str) -> BackendError:
        """What to say when a server's certificate is not trusted."""
        said = getattr(error, "verify_message", "") or str(error)
        used = f"those of {self._name}, {self._path}," if self._path else "the system's"
        return BackendError(
            f"{url}: its certificate is not trusted ({said}); {used} were used",
            f"set {self._section}.ca_file, or REQUESTS_CA_BUNDLE, to a PEM file with the "
            "certificate of the authority that signed it",
        )


def _source(ca_file: str | None, section: str) -> tuple[str, str | None]:
    if ca_file is not None:
        return f"{section}.ca_file", ca_file
    for name in _VARIABLES:
        if value := os.environ.get(name):
            return name, value
    return "", None
