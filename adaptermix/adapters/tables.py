"""What adapters are and how they meet, as tables."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from adaptermix.adapters.card import data_of, made_of, model_name
from adaptermix.tables import Cell, Line, Row, Table, View, noted, pairs, printable, ranges

if TYPE_CHECKING:
    from adaptermix.adapters.inspection import AdapterReport, Comparison, InspectReport


def inspection_view(report: "InspectReport") -> View:
    """Show what every adapter is, its norms, and how every two of them meet."""
    parts: list[Table | Line] = []
    for number, adapter in enumerate(report.adapters, start=1):
        label = f"{number}  " if len(report.adapters) > 1 else ""
        parts += [Cell(f"{label}{adapter.path}", look="strong"), _adapter_table(adapter), ""]
    remarks = []
    for pair in report.pairs:
        parts += [_pair_table(report, pair), ""]
    if report.pairs:
        remarks.append(
            "cosine: above 0 they add up, below 0 they cancel, near 0 they are independent. "
            "Overlap: how far they write to the same directions (out) and read from the same "
            "(in), 0 to 1; beside it, that of random subspaces."
        )
    else:
        rows = [[row.name, _norm(row.norms[0])] for row in (*report.rows, report.total)]
        parts.append(Table("norms", "", ["", "norm"], rows))
    return View(parts, [*remarks, *noted(report.notes)])


def _adapter_table(adapter: "AdapterReport") -> Table:
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
    return pairs([name, str(value)] for name, value in rows.items() if value)


def _pair_table(report: "InspectReport", pair: tuple[int, int]) -> Table:
    columns = ["", *(f"norm {at + 1}" for at in pair), "cosine", "modules"]
    columns += ["overlap\nout", "random", "overlap\nin", "random"]
    rows = []
    for row in (*report.rows, report.total):
        met = row.comparison(pair)
        cosine, *overlaps = _meeting(met)
        modules = str(met.modules) if met else "-"
        norms = (_norm(row.norms[at]) for at in pair)
        rows.append([row.name, *norms, cosine, modules, *overlaps])
    return Table("meeting", "", columns, rows)


def _meeting(met: "Comparison | None") -> list[str]:
    """Write the cosine, and on both sides the overlap and that of random subspaces."""
    if met is None:
        return ["-"] * 5
    overlaps = (met.overlap_out, met.random_out, met.overlap_in, met.random_in)
    return [f"{met.cosine:+z.3f}", *(f"{number:.4f}" for number in overlaps)]


def _norm(value: float | None) -> str:
    return "-" if value is None else f"{value:#.4g}"


def interference_table(met: Iterable[tuple[str, int, "Comparison"]]) -> Table:
    """Return how adapters meet, a row each label and layer."""
    rows = [[f"{label}, layer {layer}", *_meeting(found)] for label, layer, found in met]
    columns = ["adapters", "cosine", "overlap out", "random", "overlap in", "random"]
    return Table("interference", "Interference by layer", columns, rows)


def provenance_table(report: "InspectReport") -> Table:
    """Return the table of where adapters come from."""
    rows: list[Row] = []
    for adapter in report.adapters:
        record = adapter.record
        made = " + ".join(f"{weight:g} × {name}" for name, weight in made_of(record))
        rows.append(
            [
                adapter_name(adapter.path),
                printable(str(record.get("command", "not recorded"))),
                printable(made or data_of(record)) or "not recorded",
                model_name(adapter.base),
                ", ".join(map(str, adapter.ranks)),
                ranges(adapter.active_layers),
                f"{adapter.norm:.4g}",
                adapter.blake3[:12],
            ]
        )
    columns = ["adapter", "made by", "from", "base", "rank", "layers", "norm", "BLAKE3"]
    return Table("adapters-made", "What was made from what", columns, rows)


def adapter_name(path: str) -> str:
    """Return the name of an adapter as ``eval`` has it."""
    return printable(Path(path).resolve().name.removesuffix(".safetensors"))
