"""The section about adapters, and a sentence about each merge."""

from collections.abc import Mapping
from dataclasses import replace

from adaptermix.adapters.card import made_of, sources_of
from adaptermix.adapters.format import layer_of
from adaptermix.adapters.report import (
    AdapterReport,
    InspectReport,
    adapter_name,
    interference_table,
)
from adaptermix.plots import PALETTE, lines
from adaptermix.reports.sections.section import Section


def recipe_section(adapter: AdapterReport) -> str:
    """Say in a sentence what a merge was made of."""
    record = adapter.record
    terms = made_of(record)
    if not terms:
        return ""
    sum_ = " + ".join(f"{weight:g} × {name}" for name, weight in terms)
    text = f"{adapter_name(adapter.path)} is the {record.get('method', 'exact')} merge {sum_}"
    rules = (
        record.get("weighting", {}).get("rules")
        if isinstance(record.get("weighting"), dict)
        else None
    )
    return text + (", with other weights in some modules." if rules else ".")


def adapters_section(name: str, inspected: InspectReport, colors: Mapping[str, str]) -> Section:
    """Return the section about adapters and their interference."""
    names = [adapter_name(adapter.path) for adapter in inspected.adapters]
    blocks = [(layer, row) for row in inspected.layers if (layer := layer_of(row.name)) is not None]
    norms = [
        {"layer": layer, "value": value, "line": names[at]}
        for at in range(len(names))
        for layer, row in blocks
        if (value := row.norms[at]) is not None
    ]
    texts = (
        "Norm of delta weights by layer",
        "Frobenius norm of what an adapter adds to the base.",
    )
    own = {adapter: colors[adapter] for adapter in names}
    plots = [lines(norms, own, ("layer", "norm"), f"{name}-norms", texts)]
    tables = []
    pairs = [pair for pair in inspected.pairs if not _share_an_origin(inspected, pair)]
    met = [
        (f"{names[pair[0]]} and {names[pair[1]]}", layer, comparison)
        for pair in pairs
        for layer, row in blocks
        if (comparison := row.comparison(pair)) is not None
    ]
    if met:
        labels = list(dict.fromkeys(label for label, _, _ in met))
        hues = dict(zip(labels, PALETTE[1:], strict=False))  # more lines than colors tell nothing
        drawn = [row for row in met if row[0] in hues]
        first = f" The first {len(hues)} of {len(labels)} pairs." if len(hues) < len(labels) else ""
        cosines = [{"layer": at, "value": c.cosine, "line": label} for label, at, c in drawn]
        overlaps = [
            {"layer": at, "value": value, "line": label, "part": side, "kind": kind}
            for label, at, c in drawn
            for side, kind, value in (
                ("out", "measured", c.overlap_out),
                ("out", "random", c.random_out),
                ("in", "measured", c.overlap_in),
                ("in", "random", c.random_in),
            )
        ]
        text = f"Above 0 the delta weights add up in a merge, below 0 they cancel.{first}"
        plots.append(
            lines(cosines, hues, ("layer", "cosine"), f"{name}-cosine", ("Cosine by layer", text))
        )
        text = (
            "Of the directions they write to (out) and read from (in): 1 where one subspace lies "
            f"in the other. Dashed: random subspaces.{first}"
        )
        plots.append(
            lines(
                overlaps, hues, ("layer", "overlap"), f"{name}-overlap", ("Overlap by layer", text)
            )
        )
        tables.append(replace(interference_table(met), name=f"{name}-interference"))
    return Section(name, "Adapters", [], plots, tables, inspected.notes)


def _share_an_origin(inspected: InspectReport, pair: tuple[int, int]) -> bool:
    """Whether two adapters are merges of the same, or one of the other: they meet anyway."""
    one, other = (
        {adapter.blake3, *(source.get("blake3") for source in sources_of(adapter.record))}
        for adapter in (inspected.adapters[at] for at in pair)
    )
    return bool(one & other)
