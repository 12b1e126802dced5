"""Trainings as tables."""

from typing import TYPE_CHECKING

from adaptermix.tables import Row, View, counted, pairs

if TYPE_CHECKING:
    from adaptermix.training.report import TrainReport

_ALIKE = 0.9  # mean cosine of sentences that have nothing to do with each other


def training_view(report: "TrainReport") -> View:
    """Show what was trained and how it ended, or what would be."""
    rows: list[Row] = [["examples", counted(report.examples)]]
    if report.truncated:
        rows.append(["left out", f"{report.truncated:,} prompts longer than --max-length"])
    rows += [
        [f"dropped {lang}", counted(reasons)] for lang, reasons in report.dropped.items() if reasons
    ]
    return View([pairs([*rows, *(_done(report) if report.written else _planned(report))])])


def _done(report: "TrainReport") -> list[Row]:
    rows: list[Row] = [
        ["steps", f"{report.steps:,} of at most {report.planned_steps:,}"],
        ["trained", f"{report.trainable_parameters:,} parameters"],
    ]
    for name, value in report.dev.items():
        rows.append([f"dev {name.replace('_', ' ')}", f"{value:.4f}"])
    for name, dev in report.candidates.items():
        scores = "  ".join(f"{score.replace('_', ' ')} {v:.4f}" for score, v in dev.items())
        rows.append([f"{'* ' if name == report.kept else ''}temperature {name}", scores])
    rows.append(["time", f"{report.seconds:.0f} s"])
    rows += [["log", str(report.log)], ["adapter", report.out]]
    if report.dev.get("random_cosine_of_base", 0.0) > _ALIKE:
        note = (
            "to the base, all dev sentences look alike: their mean is one constant state; "
            "try --pool-skip 1"
        )
        rows.append(["note", note])
    return rows


def _planned(report: "TrainReport") -> list[Row]:
    trained, held = report.trainable_parameters, report.held_parameters
    return [
        ["steps", f"at most {report.planned_steps:,}"],
        ["tokens", f"at most {report.tokens:,}"],
        ["parameters", f"{trained:,} trained, {held:,} held"],
        ["memory", f"about {(report.memory_bytes or 0) / 1e9:,.2f} GB"],
        ["would write", report.out],
    ]
