"""Show what is installed on this machine."""

from typing import TYPE_CHECKING

from rich.markup import escape

from adaptermix.cli.console import Table, on_one_line, results

if TYPE_CHECKING:
    from adaptermix.cli.doctor import DoctorReport
    from adaptermix.tasks.metrics.comet_environment import Environment


def show_comet(environment: "Environment") -> None:
    """Print where COMET is installed, and which versions."""
    table = Table(show_header=False, box=None, pad_edge=False)
    if environment.installed:
        table.add_row("COMET", f"installed, {environment.megabytes:,} MB")
        table.add_row("python", escape(environment.python))
        for name, version in environment.versions.items():
            table.add_row(name if name != "python" else "python version", escape(version))
    else:
        table.add_row("COMET", "not installed; `adaptermix comet install` does it")
        table.add_row("folder", escape(environment.path))
    results.print(table, highlight=False)


def show_checkup(report: "DoctorReport") -> None:
    """Print what was looked at, with the line that mends it below what is amiss."""
    colours = {"ok": "green", "warn": "yellow", "missing": "red"}
    width = max(len(check.name) for check in report.checks)
    for check in report.checks:  # no table: it would break lines that are there to be copied
        state = f"[{colours[check.state]}]{check.state:<7}[/]"
        found = escape(on_one_line(check.found))
        results.print(f"{check.name:<{width}}  {state}  {found}", highlight=False)
        if check.fix:
            results.print(f"{'':<{width}}  fix:     {escape(check.fix)}", highlight=False)
