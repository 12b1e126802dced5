"""The report of an inspection of adapters, and how it is shown."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from adaptermix.adapters.card import data_of, made_of, model_name, sources_of
from adaptermix.adapters.family import COLUMNS, Routes
from adaptermix.adapters.stacking import stack_terms
from adaptermix.files.outputs import Report
from adaptermix.tables import (
    Cell,
    Line,
    Row,
    Table,
    View,
    noted,
    number_of,
    pairs,
    printable,
    ranges,
)


def _adapter_table(adapter: "AdapterReport") -> Table:
    scaling = ", ".join(f"{value:.4g}" for value in adapter.scalings)
    inactive = len(adapter.inactive_modules)
    rows = {
        "base": adapter.base or "not recorded",
        "fingerprint": adapter.base_fingerprint,
        "made by": adapter.origin,
        "trained on": " + ".join(stack_terms(adapter.record, hashes=True)),
        "rank": ", ".join(map(str, adapter.ranks)),
        "alpha": f"{adapter.alpha:g}",
        "scaling": scaling + (" (rsLoRA)" if adapter.rslora else ""),
        "modules": f"{adapter.modules}: {' '.join(adapter.kinds)}",
        "layers": ranges(adapter.layers),
        "active in": f"{ranges(adapter.active_layers)}; no effect in "
        f"{number_of(inactive, 'module')}"
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
    for name, row in zip(_row_names(report), (*report.rows, report.total), strict=True):
        met = row.comparison(pair)
        cosine, *overlaps = _meeting(met)
        modules = str(met.modules) if met else "-"
        norms = (_norm(row.norms[at]) for at in pair)
        rows.append([name, *norms, cosine, modules, *overlaps])
    return Table("meeting", "", columns, rows)


def _row_names(report: "InspectReport") -> list[str]:
    """Return the names of the rows, blocks as ``layers.3``: longer ones wrap at 80 columns."""
    names = [row.name for row in (*report.rows, report.total)]
    ends = [".".join(name.split(".")[-2:]) for name in names]
    return ends if report.by == "layer" and len(set(ends)) == len(ends) else names


def _meeting(met: "Comparison | None") -> list[str]:
    """Format the cosine, and for both sides the overlap and the random overlap."""
    if met is None:
        return ["-"] * 5
    overlaps = (met.overlap_out, met.random_out, met.overlap_in, met.random_in)
    return [f"{met.cosine:+z.3f}", *(f"{number:.4f}" for number in overlaps)]


def _norm(value: float | None) -> str:
    return "-" if value is None else f"{value:#.4g}"


def interference_table(met: Iterable[tuple[str, int, "Comparison"]]) -> Table:
    """Return comparisons of adapters as a table, one row per label and layer."""
    rows = [[f"{label}, layer {layer}", *_meeting(found)] for label, layer, found in met]
    columns = ["adapters", "cosine", "overlap out", "random", "overlap in", "random"]
    return Table("interference", "Interference by layer", columns, rows)


def provenance_table(report: "InspectReport") -> Table:
    """Return the table of the adapters' provenance."""
    rows: list[Row] = []
    for adapter in report.adapters:
        record = adapter.record
        made = " + ".join(f"{weight:g} × {name}" for name, weight in made_of(record))
        under = ", ".join(f"on {term}" for term in stack_terms(record))
        data = ", ".join(filter(None, [data_of(record), under]))
        rows.append(
            [
                adapter.name,
                printable(str(record.get("command", "not recorded"))),
                printable(made or data) or "not recorded",
                model_name(adapter.base),
                ", ".join(map(str, adapter.ranks)),
                ranges(adapter.active_layers),
                f"{adapter.norm:.4g}",
                adapter.blake3[:12],
            ]
        )
    columns = ["adapter", "made by", "from", "base", "rank", "layers", "norm", "BLAKE3"]
    return Table("adapters-made", "How the adapters were made", columns, rows)


@dataclass(frozen=True)
class AdapterReport:
    """The properties of one adapter, from its files.

    Attributes:
        path: Path of the adapter, or its name on the Hub.
        base: Base model it was trained on, if recorded.
        base_fingerprint: Fingerprint of that base model, if adaptermix made the adapter.
        ranks: Distinct ranks of its modules.
        alpha: LoRA alpha in its config.
        rslora: Whether the scaling is alpha / sqrt(rank).
        scalings: Distinct scalings of its modules.
        kinds: Kinds of its modules, such as ``q_proj``.
        modules: Number of modules it updates.
        inactive_modules: Modules with a zero update.
        layers: Indices of the decoder blocks with an update.
        active_layers: Indices of the decoder blocks with a nonzero update.
        whole_weights: Names of weights that it replaces; apart from ``parameters`` and ``bytes``,
            they are not part of the other numbers.
        parameters: Number of parameters in all its tensors.
        dtypes: Distinct dtypes of its factors.
        bytes: Size of the weights file, in bytes.
        blake3: BLAKE3 hash of the weights file.
        norm: Frobenius norm of its delta weights over all modules.
        config: PEFT's LoRA config.
        record: Run record written by adaptermix; empty for adapters from other software.
        alias: Its name among the systems of a run, if it differs from that of its file or folder.
    """

    path: str
    base: str | None
    base_fingerprint: str | None
    ranks: list[int]
    alpha: float
    rslora: bool
    scalings: list[float]
    kinds: list[str]
    modules: int
    inactive_modules: list[str]
    layers: list[int]
    active_layers: list[int]
    whole_weights: list[str]
    parameters: int
    dtypes: list[str]
    bytes: int
    blake3: str
    norm: float
    config: dict[str, Any]
    record: dict[str, Any]
    alias: str = ""

    @property
    def name(self) -> str:
        """The adapter's name as in ``eval``."""
        return self.alias or printable(Path(self.path).resolve().name.removesuffix(".safetensors"))

    @property
    def origin(self) -> str:
        """The adapter's provenance, in one line."""
        if "adaptermix" not in self.record:
            version = self.config.get("peft_version")
            return f"PEFT {version}" if version else "not recorded"
        made = f"adaptermix {self.record['adaptermix']}, {self.record.get('command', 'unknown')}"
        details = [_sources(self.record), _scores(self.record)]
        return ": ".join([made, *filter(None, details)])


@dataclass(frozen=True)
class Comparison:
    """The comparison of two adapters, over the modules in which both are active.

    Attributes:
        adapters: Indices of the two adapters, from 0.
        modules: Number of these modules.
        inner_product: Inner product of the delta weights.
        cosine: Cosine of the delta weights.
        overlap_out: Mean squared cosine of the principal angles of the column spaces.
        overlap_in: The same for the row spaces.
        random_out: Mean ``overlap_out`` of random subspaces.
        random_in: Mean ``overlap_in`` of random subspaces.
    """

    adapters: tuple[int, int]
    modules: int
    inner_product: float
    cosine: float
    overlap_out: float
    overlap_in: float
    random_out: float
    random_in: float


@dataclass(frozen=True)
class ModuleRow:
    """A group of modules: a decoder block, a kind, a single module, or all of them.

    Attributes:
        name: Name of the group.
        norms: Norm of each adapter's delta weights; None if it has none of the modules.
        comparisons: Comparisons of all pairs that are both active in one of the modules.
    """

    name: str
    norms: list[float | None]
    comparisons: list[Comparison]

    def comparison(self, pair: tuple[int, int]) -> Comparison | None:
        """Return the comparison of two adapters, if there is one."""
        return next((c for c in self.comparisons if c.adapters == pair), None)


@dataclass(frozen=True)
class InspectReport(Report):
    """The properties of adapters and their interference.

    Attributes:
        adapters: The adapters, in order.
        total: The row of all modules.
        layers: Rows by decoder block; modules outside blocks have separate rows.
        kinds: Rows by kind of module.
        modules: Rows by module.
        by: Which of the three to show.
        notes: Notes for the user.
        routes: Routes of families by their paths.
    """

    adapters: list[AdapterReport]
    total: ModuleRow
    layers: list[ModuleRow]
    kinds: list[ModuleRow]
    modules: list[ModuleRow]
    by: str
    notes: list[str]
    routes: dict[str, Routes] = field(default_factory=dict)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """All pairs of adapters."""
        return list(combinations(range(len(self.adapters)), 2))

    @property
    def rows(self) -> list[ModuleRow]:
        """The rows to show."""
        return {"layer": self.layers, "kind": self.kinds, "module": self.modules}[self.by]

    def view(self) -> View:
        """Show routes, each adapter's properties and norms, and the comparison of each pair."""
        parts: list[Table | Line] = []
        for path, routes in self.routes.items():
            title = f"{path}: {number_of(len(routes.names), 'adapter')}"
            parts += [routes.table("routes", title), ""]
        for number, adapter in enumerate(self.adapters, start=1):
            label = f"{number}  " if len(self.adapters) > 1 else ""
            parts += [Cell(f"{label}{adapter.path}", look="strong"), _adapter_table(adapter), ""]
        remarks = [COLUMNS] if self.routes else []
        for pair in self.pairs:
            parts += [_pair_table(self, pair), ""]
        if self.pairs:
            remarks.append(
                "Cosine: above 0 the updates add up, below 0 they cancel, near 0 they are "
                "independent. Overlap, 0 to 1: how far the updates write to the same directions "
                "(out) and read from the same directions (in), next to the overlap of random "
                "subspaces."
            )
        else:
            named = zip(_row_names(self), (*self.rows, self.total), strict=True)
            rows = [[name, _norm(row.norms[0])] for name, row in named]
            parts.append(Table("norms", "", ["", "norm"], rows))
        return View(parts, [*remarks, *noted(self.notes)])

    def as_record(self) -> dict[str, Any]:
        """Return the report as a dictionary for JSON."""
        record = super().as_record()
        del record["by"]
        for adapter in record["adapters"]:
            del adapter["alias"]
        if not self.routes:
            del record["routes"]
        return record


def _sources(record: dict[str, Any]) -> str:
    """Return a merge's method and sources; empty if it is none."""
    terms = [f"{source['weight']:g} x {source['path']}" for source in sources_of(record)]
    return f"{record.get('method')}, {' + '.join(terms)}" if terms else ""


def _scores(record: dict[str, Any]) -> str:
    scores = record.get("dev")
    if not isinstance(scores, dict):
        return ""
    numbers = {name: value for name, value in scores.items() if isinstance(value, float)}
    return ", ".join(f"dev {name.replace('_', ' ')} {value:.4g}" for name, value in numbers.items())
