"""`report`: an output folder as one HTML file, or its numbers as JSON."""

from __future__ import annotations

import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson
from rich.console import Console

from axolotl_ual.errors import DataError, UALError

from ..progress import SilentProgress, show_progress
from ..report.build import Report, build_report
from ..report.folder import open_folder
from ..report.overview import render_report

REPORT_FILE: Final = "report.html"


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """What the command line says.

    Attributes:
        output: the HTML file; None: `report.html` in the folder.
        rows: rows in the table at most; None: as many as fit.
        open_after: show the file in a browser.
        as_json: print the numbers and write nothing.
    """

    output: Path | None = None
    rows: int | None = None
    open_after: bool = False
    as_json: bool = False


def report(folder: Path, options: ReportOptions, console: Console) -> Path | None:
    """Make the report of an output folder.

    Returns:
        The file that was written, or None where the numbers were printed.

    Raises:
        DataError: the folder cannot be read, or the file not be written.
    """
    if options.as_json:
        found = build_report(folder, SilentProgress(), options.rows)
        text = orjson.dumps(found.facts, option=orjson.OPT_INDENT_2).decode()
        console.file.write(text + "\n")
        return None
    with show_progress(console, "report", open_folder(folder).rows) as progress:
        found = build_report(folder, progress, options.rows)
    path = _write(found, options.output or folder / REPORT_FILE)
    shown, rows = len(found.table.rows_T), found.values.rows
    table = f"all {rows:,} rows" if shown == rows else f"{shown:,} of {rows:,} rows"
    console.print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB, {table} in its table)")
    if options.open_after and not webbrowser.open(path.resolve().as_uri()):
        console.print("no browser could be started: open the file yourself")
    return path


def report_beside(folder: Path, console: Console) -> None:
    """Write the report of a folder that was just made.

    Whatever goes wrong is told and no more: the data are complete, and may have been paid for.
    """
    try:
        report(folder, ReportOptions(), console)
        return
    except UALError as error:
        why = str(error)
    except KeyboardInterrupt:
        why = "interrupted"
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
    console.print(f"the data are complete, but not their report: {why}")
    console.print(f"to make it: axolotl-ual report {folder}")


def _write(found: Report, path: Path) -> Path:
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(render_report(found), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise DataError(
            f"{path}: cannot be written: {error.strerror}", "name another file with --output"
        ) from None
    return path
