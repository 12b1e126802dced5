"""Properties of adapters and their interference, from the factors alone, without a base model.

Three numbers describe the interference of two delta weights d_1 and d_2. They cover the modules in
which both are active.

Cosine: <d_1, d_2> / (||d_1|| ||d_2||), with Frobenius inner products and norms, both summed over
the modules of a row. The energy of a merge follows from it:
||w_1 d_1 + w_2 d_2||^2 = w_1^2 ||d_1||^2 + w_2^2 ||d_2||^2 + 2 w_1 w_2 <d_1, d_2>.

Overlap (out and in): the mean squared cosine of the principal angles between the column spaces, and
between the row spaces (Hu et al. 2021, section 7.2). Updates with a small cosine may still write to
the same directions (out) or read from the same ones (in). In a row of several modules, each module
has the same weight as in the cosine: ||d_1|| ||d_2||.

Random overlap: the mean overlap of random subspaces of these ranks and widths, which is the larger
rank / width. An overlap is meaningful if it is well above this.
"""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from adaptermix.adapters.adapter import Adapter, read_adapter
from adaptermix.adapters.core_space import random_overlap, subspace_overlap, subspaces
from adaptermix.adapters.deltas import inner_product, norm
from adaptermix.adapters.family import is_family, read_family
from adaptermix.adapters.format import UpdateSpec, decoder_layer_of, layer_of, layer_then_name
from adaptermix.adapters.matching import (
    check_common_names,
    check_names,
    check_shapes,
    first_pairs,
    notes_on_copies,
    share_a_base,
    with_common_names,
)
from adaptermix.adapters.report import AdapterReport, Comparison, InspectReport, ModuleRow
from adaptermix.adapters.stacking import notes_on_company
from adaptermix.errors import ArtifactError
from adaptermix.settings.reports import InspectSettings
from adaptermix.tables import number_of


class Meeting(NamedTuple):
    """The comparison of two active updates of one module."""

    inner_product: float
    norms: tuple[float, float]
    overlaps: tuple[float, float, float, float]  # out, in, random out, random in


@dataclass(frozen=True)
class Measured:
    """The measurements of one module in all adapters."""

    name: str
    norms: list[float | None]
    is_active: list[bool]
    meetings: dict[tuple[int, int], Meeting]


def inspect(
    paths: Sequence[Path], settings: InspectSettings, *, may_differ: bool = False
) -> InspectReport:
    """Read adapters module by module, measure their delta weights and compare all pairs.

    A family is replaced by its adapters, and its routes are listed. With ``may_differ``, pairs of
    different base models or shapes are left out; otherwise only different shapes are refused.

    No out x in matrix is formed: the cost is that of reading the files and of products of factors.

    Raises:
        ArtifactError: An adapter is damaged or not a plain LoRA, or modules differ in shape.
        ResourceError: A Hub repository cannot be downloaded.
    """
    families = [read_family(path) for path in paths if is_family(path)]
    known = {family.path: list(family.adapters.values()) for family in families}
    read = [
        known.get(path)
        or [read_adapter(path, rank=settings.source_rank, alpha=settings.source_alpha)]
        for path in paths
    ]
    own = [adapter for group in read for adapter in group]
    adapters = with_common_names(own)
    names = {module for adapter in adapters for module in adapter.modules}
    pairs = set(combinations(range(len(adapters)), 2))
    if may_differ:
        pairs = {pair for pair in pairs if _are_comparable(*(adapters[at] for at in pair))}
    else:
        _check_shapes(names, adapters)
    modules = sorted(names, key=layer_then_name)
    measured = [_measure(module, adapters, pairs) for module in modules]
    return InspectReport(
        adapters=[_describe(adapter, at, measured) for at, adapter in enumerate(adapters)],
        total=_row("all", measured),
        layers=_grouped(measured, _block),
        kinds=_grouped(measured, _kind),
        modules=_grouped(measured, str),
        by=settings.by,
        notes=list(_notes(own, adapters, pairs)),
        routes={str(family.path): family.content for family in families},
    )


def _check_shapes(names: Iterable[str], adapters: Sequence[Adapter]) -> None:
    for module in sorted(names, key=layer_then_name):
        present = [adapter for adapter in adapters if module in adapter.factors]
        check_shapes(module, present, [adapter.spec(module) for adapter in present])


def _are_comparable(one: Adapter, other: Adapter) -> bool:
    """Whether two adapters may have the same base model, and modules of the same shapes."""
    try:
        _check_shapes(one.factors.keys() & other.factors.keys(), (one, other))
    except ArtifactError:
        return False
    return share_a_base(one, other) is not False


def _measure(
    module: str, adapters: Sequence[Adapter], pairs: Collection[tuple[int, int]]
) -> Measured:
    present = {at: a for at, a in enumerate(adapters) if module in a.factors}
    updates = {at: adapter.update(module) for at, adapter in present.items()}
    norms = {at: norm(update) for at, update in updates.items()}
    spaces = {at: subspaces(updates[at]) for at in updates if norms[at] and len(adapters) > 1}
    every = combinations((at for at, space in spaces.items() if space[0].shape[1]), 2)
    met = (pair for pair in every if pair in pairs)
    return Measured(
        module,
        [norms.get(at) for at in range(len(adapters))],
        [at in updates and updates[at].is_active for at in range(len(adapters))],
        {
            (one, other): Meeting(
                inner_product(updates[one], updates[other]),
                (norms[one], norms[other]),
                _overlaps(spaces[one], spaces[other]),
            )
            for one, other in met
        },
    )


def _overlaps(
    one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]
) -> tuple[float, float, float, float]:
    out_side, in_side = zip(one, other, strict=True)
    return (
        subspace_overlap(*out_side),
        subspace_overlap(*in_side),
        random_overlap(*out_side),
        random_overlap(*in_side),
    )


def _grouped(measured: Iterable[Measured], group: Callable[[str], str]) -> list[ModuleRow]:
    groups: dict[str, list[Measured]] = {}
    for module in measured:
        groups.setdefault(group(module.name), []).append(module)
    return [_row(name, members) for name, members in groups.items()]


def _row(name: str, measured: Sequence[Measured]) -> ModuleRow:
    """Combine modules by summing squared norms and inner products."""
    norms = []
    for of_adapter in zip(*(module.norms for module in measured), strict=True):
        known = [value for value in of_adapter if value is not None]
        norms.append(math.hypot(*known) if known else None)
    pairs = sorted({pair for module in measured for pair in module.meetings})
    return ModuleRow(
        name,
        norms,
        [_compare(p, [m.meetings[p] for m in measured if p in m.meetings]) for p in pairs],
    )


def _compare(pair: tuple[int, int], meetings: Sequence[Meeting]) -> Comparison:
    inner = math.fsum(meeting.inner_product for meeting in meetings)
    one, other = (math.hypot(*(meeting.norms[side] for meeting in meetings)) for side in (0, 1))
    weights = [math.prod(meeting.norms) for meeting in meetings]
    overlaps = [
        sum(w * meeting.overlaps[at] for w, meeting in zip(weights, meetings, strict=True))
        / sum(weights)
        for at in range(4)
    ]
    return Comparison(pair, len(meetings), inner, inner / (one * other), *overlaps)


def _describe(adapter: Adapter, at: int, measured: Sequence[Measured]) -> AdapterReport:
    specs = {module: adapter.spec(module) for module in adapter.modules}
    active = {module.name for module in measured if module.is_active[at]}
    saved = [adapter.saved_spec(name).shape for name in adapter.saved]
    return AdapterReport(
        path=str(adapter.path),
        base=adapter.base,
        base_fingerprint=adapter.record.get("base_fingerprint"),
        ranks=sorted({spec.rank for spec in specs.values()}),
        alpha=adapter.config["lora_alpha"],
        rslora=bool(adapter.config.get("use_rslora")),
        scalings=sorted({spec.scaling for spec in specs.values()}),
        kinds=sorted(set(map(_kind, specs))),
        modules=len(specs),
        inactive_modules=[module for module in specs if module not in active],
        layers=_layers(specs),
        active_layers=_layers(active),
        whole_weights=list(adapter.saved),
        parameters=sum(map(_parameters, specs.values())) + sum(map(math.prod, saved)),
        dtypes=_dtypes(adapter),
        bytes=adapter.file.size,
        blake3=adapter.weights_hash,
        norm=math.hypot(*(module.norms[at] or 0.0 for module in measured)),
        config=adapter.config,
        record=adapter.record,
    )


def _dtypes(adapter: Adapter) -> list[str]:
    factors = (name for names in adapter.factors.values() for name in (names.a, names.b))
    return sorted({adapter.file.specs[name].dtype.name for name in factors})


def _parameters(spec: UpdateSpec) -> int:
    bias = spec.out_features if spec.has_bias else 0
    return spec.rank * (spec.in_features + spec.out_features) + bias


def _layers(modules: Iterable[str]) -> list[int]:
    return sorted({layer for layer in map(decoder_layer_of, modules) if layer is not None})


def _block(module: str) -> str:
    """Return a module's block, such as ``model.layers.3``, or the module's name outside blocks."""
    layer = layer_of(module)
    return module if layer is None else f"{module}.".partition(f".{layer}.")[0] + f".{layer}"


def _kind(module: str) -> str:
    return module.rpartition(".")[2]


def _notes(
    own: Sequence[Adapter], adapters: Sequence[Adapter], pairs: Collection[tuple[int, int]]
) -> Iterable[str]:
    """Yield notes on adapters, given with their own names and with common ones."""
    compared = {(id(adapters[one]), id(adapters[other])) for one, other in pairs}
    try:
        check_common_names(own)
        check_names(adapters)
    except ArtifactError as error:
        yield str(error)
    for one, other in first_pairs(adapters, lambda *pair: not share_a_base(*pair)):
        is_met = (id(one), id(other)) in compared
        says = "comparing their delta weights says little" if is_met else "they are not compared"
        yield f"{other.path} was trained on {other.base}, {one.path} on {one.base}; {says}"
    yield from notes_on_copies(adapters)
    if len(adapters) > 1:  # for a single adapter, its table shows this
        yield from notes_on_company(adapters)
    for adapter in adapters:
        yield from adapter.notes
        replaced = [name for name in adapter.saved if not adapter.is_frozen(name)]
        if replaced:
            yield (
                f"{adapter.path} also replaces {number_of(len(replaced), 'whole weight')}, not "
                "measured here"
            )
