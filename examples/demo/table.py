"""The closing table of the demo."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from axolotl_ual.preprocess.commands.evaluate import print_document


def print_report(report: dict[str, Any], console: Console) -> None:
    """Print what `demo.json` holds: the evaluation as `axolotl-ual ablate` prints it, and notes.

    Args:
        report: see `run.main`.
        console: where to.
    """
    console.print()
    print_document(report["evaluation"], console)
    for line in _notes(report):
        console.print(line, highlight=False, markup=False)


def print_pairs(report: dict[str, Any], console: Console) -> None:
    """Print what came of the preference pairs.

    Args:
        report: see `preference.report_pairs`.
        console: where to.
    """
    table = Table(title="Preference run (NLL of held-out answers)", title_justify="left")
    table.add_column("questions")
    for name in ("base", "DPO"):
        table.add_column(name, justify="right")
    for group, values in report["heldout"].items():
        table.add_row(group, f"{values['base']:.3f}", f"{values['dpo']:.3f}")
    console.print()
    console.print(table)
    stages = ", ".join(f"{name} {number:,}" for name, number in report["stages"].items())
    lines = [
        f"{report['pairs']:,} pairs from {report['responses']:,} responses to "
        f"{report['prompts']:,} questions, without a label: {stages}.",
        "Semantic entropy of the responses against true entropy: rank correlation "
        f"{report['rank_correlation']:.3f}.",
    ]
    if report["certain_pairs"]:
        lines.append(
            f"{report['certain_pairs']:,} pairs are about questions with one answer: chosen is "
            f"right in {report['chosen_right']:.0%}, rejected in {report['rejected_right']:.0%}."
        )
    for line in lines:
        console.print(line, highlight=False, markup=False)


def _notes(report: dict[str, Any]) -> list[str]:
    annotation, seconds = report["annotation"], report["seconds"]
    return [
        "true_entropy 1/2 are questions with one answer, 2/2 those with several, in a wording that "
        "no training row uses; only the answers are measured.",
        f"Estimated uncertainty against true entropy: rank correlation "
        f"{annotation['rank_correlation']:.3f} over {annotation['rows']:,} rows.",
        f"Label smoothing: mean {annotation['mean_smoothing']:.6f}, largest "
        f"{annotation['largest_smoothing']:.4f}; {annotation['mean_smoothing_certain']:.4f} on "
        f"certain rows, {annotation['mean_smoothing_uncertain']:.4f} on uncertain ones.",
        "Seconds: "
        + ", ".join(f"{name} {spent:.0f}" for name, spent in seconds.items())
        + f"; {sum(seconds.values()):.0f} in all.",
    ]
