"""One image of a row, as it is sent: by its address on the web, or with its bytes.

The bytes of a file are read when they are needed and kept nowhere, so that millions of rows cost no
memory. PNG and JPEG are sent as they are in the file. Other formats become PNG.
"""

from __future__ import annotations

import base64
import hashlib
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from axolotl_ual.errors import DataError
from axolotl_ual.settings.images import Detail

MEDIA_TYPES: Final = {"PNG": "image/png", "JPEG": "image/jpeg", "MPO": "image/jpeg"}
"""Formats that are sent as they are, as Pillow names them; MPO is a JPEG with others behind it."""
READ: Final = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")
"""Formats that are read; an MPO as JPEG."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image that was looked at and can be read; or one that a server fetches.

    Attributes:
        key: where it lies in the row.
        address: http or https URL; empty where the bytes are at hand.
        path: absolute, of the file; empty where the row holds the bytes.
        held: the bytes in the row.
        format: as Pillow names it; empty for an address.
        size: width and height in pixels; None for an address.
        detail: at which a server is to look at it.
    """

    key: str
    address: str = ""
    path: str = ""
    held: bytes = field(default=b"", repr=False)
    format: str = ""
    size: tuple[int, int] | None = None
    detail: Detail = "auto"

    @property
    def digest(self) -> bytes:
        """32 bytes that tell what is sent from anything else: of the bytes, or of the address."""
        what = b"url " + self.address.encode("utf-8", "surrogatepass") if self.address else None
        shown = hashlib.sha256(self._bytes() if what is None else what).digest()
        return hashlib.sha256(shown + self.detail.encode()).digest()

    def part(self) -> dict[str, Any]:
        """The part of a message in the shape of a chat API.

        Raises:
            DataError: the file cannot be read, or not any more.
        """
        detail = {} if self.detail == "auto" else {"detail": self.detail}
        return {"type": "image_url", "image_url": {"url": self._url(), **detail}}

    def _url(self) -> str:
        if self.address:
            return self.address
        sent, media = self._bytes(), MEDIA_TYPES.get(self.format)
        if media is None:
            sent, media = self._as_png(sent), MEDIA_TYPES["PNG"]
        return f"data:{media};base64,{base64.b64encode(sent).decode('ascii')}"

    def _bytes(self) -> bytes:
        if not self.path:
            return self.held
        try:
            return Path(self.path).read_bytes()
        except OSError as error:
            raise self._unreadable(error) from None

    def _as_png(self, content: bytes) -> bytes:
        from PIL import Image as Pillow
        from PIL import ImageOps

        stream = io.BytesIO()
        try:
            with Pillow.open(io.BytesIO(content), formats=READ) as opened:
                upright = ImageOps.exif_transpose(opened)
                shown = upright if upright.mode in ("L", "RGB", "RGBA") else upright.convert("RGBA")
                shown.save(stream, "PNG")
        except (OSError, SyntaxError, ValueError, Pillow.DecompressionBombError) as error:
            raise self._unreadable(error) from None
        return stream.getvalue()

    def _unreadable(self, error: Exception) -> DataError:
        what = self.path or f"{len(self.held):,} bytes in the row"
        return DataError(
            f"the image at `{self.key}` of a row ({what}) cannot be read: {error}",
            "put the file back, or mend it, and run the same command again: answers that were had "
            "are in the cache. On a cluster the path must lead to it on every node",
        )
