"""Show what adapters are and how they relate."""

from typing import TYPE_CHECKING

from rich.markup import escape

from adaptermix.cli.console import Table, results, say
from adaptermix.tables import ranges

if TYPE_CHECKING:
    from adaptermix.adapters.inspection import AdapterReport, InspectReport, Row


def show_inspection(report: "InspectReport") -> None:
    """Print what every adapter is, its norms, and how every two of them meet."""
    for number, adapter in enumerate(report.adapters, start=1):
        label = f"{number}  " if len(report.adapters) > 1 else ""
        results.print(f"[bold]{label}{escape(adapter.path)}[/]", highlight=False)
        results.print(_adapter_table(adapter), highlight=False)
        results.print()
    if not report.pairs:
        results.print(_norm_table(report.rows, report.total), highlight=False)
    for pair in report.pairs:
        results.print(_pair_table(report.rows, report.total, pair), highlight=False)
        results.print()
    if report.pairs:
        say(
            "cosine: above 0 they add up, below 0 they cancel, near 0 they are independent. "
            "Overlap: how far they write to the same directions (out) and read from the same "
            "(in), 0 to 1; beside it, that of random subspaces."
        )
    for note in report.notes:
        say(f"note: {note}")


def _adapter_table(adapter: "AdapterReport") -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    scaling = ", ".join(f"{value:.4g}" for value in adapter.scalings)
    inactive = len(adapter.inactive_modules)
    rows = {
        "base": adapter.base or "not recorded",
        "fingerprint": adapter.base_fingerprint,
        "made by": adapter.origin,
        "rank": ", ".join(map(str, adapter.ranks)),
        "alpha": f"{adapter.alpha:g}",
        "scaling": scaling + (" (rsLoRA)" if adapter.rslora else ""),
        "modules": f"{adapter.modules}: {' '.join(adapter.kinds)}",
        "layers": ranges(adapter.layers),
        "active in": f"{ranges(adapter.active_layers)}; {inactive} modules do nothing"
        if inactive
        else None,
        "norm": _norm(adapter.norm),
        "parameters": f"{adapter.parameters:,} in {', '.join(adapter.dtypes)}",
        "file": f"{adapter.bytes:,} bytes",
        "BLAKE3": adapter.blake3,
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, escape(str(value)))
    return table


def _norm_table(rows: "list[Row]", total: "Row") -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    table.add_column("norm", justify="right")
    for row in [*rows, total]:
        table.add_row(escape(row.name), _norm(row.norms[0]))
    return table


def _pair_table(rows: "list[Row]", total: "Row", pair: tuple[int, int]) -> Table:
    one, other = pair
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    names = ("cosine", "modules", "overlap\nout", "random", "overlap\nin", "random")
    for name in (f"norm {one + 1}", f"norm {other + 1}", *names):
        table.add_column(name, justify="right", no_wrap=True)
    for row in [*rows, total]:
        met = row.comparison(pair)
        cells = ("-",) * len(names)
        if met:
            cells = (
                f"{met.cosine:+z.3f}",
                str(met.modules),
                *(f"{n:.4f}" for n in (met.overlap_out, met.random_out)),
                *(f"{n:.4f}" for n in (met.overlap_in, met.random_in)),
            )
        table.add_row(escape(row.name), _norm(row.norms[one]), _norm(row.norms[other]), *cells)
    return table


def _norm(value: float | None) -> str:
    return "-" if value is None else f"{value:#.4g}"
