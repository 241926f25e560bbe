"""Keeps the import-time remarks of libraries about optional GPU kernels off the user's screen."""

from __future__ import annotations

import logging
import warnings
from typing import Final

_TALKATIVE: Final = ("bitsandbytes", "DeepSpeed", "torch.utils._pytree", "torchao")


def hush() -> None:
    """Show only errors of libraries that warn about kernels which are not used here.

    To be called before torch and transformers are imported. A level that somebody has set already
    is left as it is.
    """
    for name in _TALKATIVE:
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.ERROR)
            # DeepSpeed sets the level anew when it is imported.
            logger.addFilter(_is_error)
    warnings.filterwarnings("ignore", module="bitsandbytes")


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
