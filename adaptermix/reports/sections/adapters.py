"""The section about adapters: provenance, norms, and interference between adapters."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from adaptermix.adapters.card import made_of, sources_of
from adaptermix.adapters.format import decoder_layer_of
from adaptermix.adapters.report import (
    AdapterReport,
    Comparison,
    InspectReport,
    ModuleRow,
    interference_table,
    provenance_table,
)
from adaptermix.plots.charts import Curve, Space, curves_chart
from adaptermix.plots.plot import Plot, titled_panel
from adaptermix.reports.sections.section import Section
from adaptermix.tables import Row, Table

_PAIRS = 8  # pairs that are plotted; the table has all
Met = tuple[str, int, Comparison]


def recipe_sentence(adapter: AdapterReport) -> str:
    """Return a sentence on a merge's sources, or nothing for other adapters."""
    record = adapter.record
    terms = made_of(record)
    if not terms:
        return ""
    sum_ = " + ".join(f"{weight:g} × {name}" for name, weight in terms)
    text = f"{adapter.name} is the {record.get('method', 'exact')} merge {sum_}"
    rules = (
        record.get("weighting", {}).get("rules")
        if isinstance(record.get("weighting"), dict)
        else None
    )
    return text + (", with other weights in some modules." if rules else ".")


def adapters_section(name: str, inspected: InspectReport) -> Section:
    """Return the section about adapters and their interference."""
    texts = [text for adapter in inspected.adapters if (text := recipe_sentence(adapter))]
    plots, tables = [_norms(name, inspected)], [provenance_table(inspected)]
    met = _met(inspected)
    if met:
        plots += _meetings(name, met)
    return Section(name, "Adapters", texts, [], tables, inspected.notes, folded=plots)


def _norms(name: str, inspected: InspectReport) -> Plot:
    names = [adapter.name for adapter in inspected.adapters]
    blocks = _blocks(inspected)
    panels = {
        adapter: [
            Curve(
                adapter,
                [
                    (float(layer), norm)
                    for layer, row in blocks
                    if (norm := row.norms[at]) is not None
                ],
            )
        ]
        for at, adapter in enumerate(names)
    }
    rows: list[Row] = [
        [str(layer), *("-" if norm is None else f"{norm:#.4g}" for norm in row.norms)]
        for layer, row in blocks
    ]
    title = "Norm of delta weights by layer"
    subtitle = "Frobenius norm of what an adapter adds to the base."
    values = Table(f"{name}-norms-values", title, ["layer", *names], rows)
    return _plot((f"{name}-norms", title, subtitle, ""), panels, "norm", values)


def _blocks(inspected: InspectReport) -> list[tuple[int, ModuleRow]]:
    """Return the rows of decoder blocks with the blocks' indices."""
    modules = {row.name for row in inspected.modules}  # the others are blocks, such as layers.3
    rows = [
        (decoder_layer_of(f"{row.name}."), row)
        for row in inspected.layers
        if row.name not in modules
    ]
    return [(layer, row) for layer, row in rows if layer is not None]


def _met(inspected: InspectReport) -> list[Met]:
    """Return the comparisons of all pairs by layer, except pairs with a common origin."""
    names = [adapter.name for adapter in inspected.adapters]
    merges = [bool(sources_of(adapter.record)) for adapter in inspected.adapters]
    pairs = [pair for pair in inspected.pairs if not _share_an_origin(inspected, pair)]
    pairs.sort(key=lambda pair: merges[pair[0]] or merges[pair[1]])  # trained adapters first
    blocks = _blocks(inspected)
    return [
        (f"{names[pair[0]]} and {names[pair[1]]}", layer, comparison)
        for pair in pairs
        for layer, row in blocks
        if (comparison := row.comparison(pair)) is not None
    ]


def _meetings(name: str, met: Sequence[Met]) -> list[Plot]:
    labels = list(dict.fromkeys(label for label, _, _ in met))
    more = f" The first {_PAIRS} of {len(labels)} pairs." if len(labels) > _PAIRS else ""
    of_pair = {
        label: [(float(layer), c) for other, layer, c in met if other == label]
        for label in labels[:_PAIRS]
    }
    cosines = {
        label: [Curve(label, [(layer, c.cosine) for layer, c in found])]
        for label, found in of_pair.items()
    }
    overlaps = {
        f"{label}, {side}": [
            Curve("measured", [(layer, getattr(c, f"overlap_{side}")) for layer, c in found]),
            Curve("random", [(at, getattr(c, f"random_{side}")) for at, c in found], "reference"),
        ]
        for label, found in of_pair.items()
        for side in ("out", "in")
    }
    cosine = (
        "Cosine of two adapters' delta weights.",
        f"Above 0 the delta weights add up in a merge, below 0 they cancel.{more}",
    )
    overlap = (
        "Overlap of the directions that two adapters write to (out) and read from (in).",
        f"1: one subspace contains the other. Dashed grey: random subspaces.{more}",
    )
    values = Table(
        f"{name}-cosine-values",
        "Cosine by layer",
        ["adapters", "cosine"],
        [[f"{label}, layer {layer}", f"{c.cosine:+z.3f}"] for label, layer, c in met],
    )
    every = replace(interference_table(met), name=f"{name}-interference")
    return [
        _plot((f"{name}-cosine", "Cosine by layer", *cosine), cosines, "cosine", values),
        _plot((f"{name}-overlap", "Overlap by layer", *overlap), overlaps, "overlap", every),
    ]


def _plot(
    texts: tuple[str, str, str, str],
    panels: Mapping[str, Sequence[Curve]],
    y_title: str,
    values: Table,
) -> Plot:
    """Draw curves over layers in panels with shared axes.

    ``texts`` are the name, title, subtitle and caption.
    """
    name, heading, subtitle, caption = texts
    every = [curve for curves in panels.values() for curve in curves]
    space = Space.of(("layer", y_title), every, 0.0)
    drawn = [titled_panel(title, curves_chart(curves, space)) for title, curves in panels.items()]
    return Plot(name, heading, caption, drawn, values, subtitle=subtitle)


def _share_an_origin(inspected: InspectReport, pair: tuple[int, int]) -> bool:
    """Whether two adapters share a source, or one is the other's; such pairs always overlap."""
    one, other = (
        {adapter.blake3, *(source.get("blake3") for source in sources_of(adapter.record))}
        for adapter in (inspected.adapters[at] for at in pair)
    )
    return bool(one & other)
