"""Show what a training did."""

from typing import TYPE_CHECKING

from rich.markup import escape

from adaptermix.cli.console import Table, results

if TYPE_CHECKING:
    from adaptermix.training.report import TrainReport

_ALIKE = 0.9  # mean cosine of sentences that have nothing to do with each other


def show_training(report: "TrainReport") -> None:
    """Print what was trained and how it ended."""
    counts = "  ".join(f"{lang} {count:,}" for lang, count in report.examples.items())
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("examples", counts)
    if report.truncated:
        table.add_row("left out", f"{report.truncated:,} prompts longer than --max-length")
    for lang, reasons in report.dropped.items():
        if reasons:
            told = "  ".join(f"{reason} {count:,}" for reason, count in reasons.items())
            table.add_row(f"dropped {escape(lang)}", told)
    if report.written:
        table.add_row("steps", f"{report.steps:,} of at most {report.planned_steps:,}")
        table.add_row("trained", f"{report.trainable_parameters:,} parameters")
        for name, value in report.dev.items():
            table.add_row(f"dev {name.replace('_', ' ')}", f"{value:.4f}")
        for name, dev in report.candidates.items():
            scores = "  ".join(f"{score.replace('_', ' ')} {v:.4f}" for score, v in dev.items())
            table.add_row(f"{'* ' if name == report.kept else ''}temperature {name}", scores)
        table.add_row("time", f"{report.seconds:.0f} s")
        table.add_row("log", escape(str(report.log)))
        table.add_row("adapter", escape(report.out))
        if report.dev.get("random_cosine_of_base", 0.0) > _ALIKE:
            table.add_row(
                "note",
                "to the base, all dev sentences look alike: their mean is one constant state; "
                "try --pool-skip 1",
            )
    else:
        table.add_row("steps", f"at most {report.planned_steps:,}")
        table.add_row("tokens", f"at most {report.tokens:,}")
        table.add_row(
            "parameters",
            f"{report.trainable_parameters:,} trained, {report.held_parameters:,} held",
        )
        table.add_row("memory", f"about {(report.memory_bytes or 0) / 1e9:,.2f} GB")
        table.add_row("would write", escape(report.out))
    results.print(table, highlight=False)
