"""Roles in a report: the merge, the trained and aligned languages, and the aligned layer."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from adaptermix.adapters.adapter import hash_of_parts
from adaptermix.adapters.card import made_of, sources_of
from adaptermix.adapters.report import AdapterReport, InspectReport
from adaptermix.adapters.systems import BASE, system_names
from adaptermix.data.languages import LANGUAGE_NAMES, flores_code, known_code, sides_of, target_of
from adaptermix.errors import ConfigError
from adaptermix.models.files import layer_index
from adaptermix.tables import printable

_TASK = ("train-task", "train-joint")
_ALIGNMENT = ("train-align", "train-joint")
_MERGED = "merged"  # the default name of merge's output
Groups = list[tuple[str, list[str]]]


def with_own_names(inspected: InspectReport) -> InspectReport:
    """Give each adapter a name of its own, as ``eval`` does: with the names of parent folders."""
    paths = [adapter.path for adapter in inspected.adapters]
    try:
        names = system_names(map(Path, paths))
    except ConfigError:  # a folder and a file with its name
        names = paths
    named = zip(inspected.adapters, names, strict=True)
    return replace(inspected, adapters=[replace(a, alias=printable(name)) for a, name in named])


def named_in(record: Mapping[str, Any], inspected: InspectReport | None) -> InspectReport | None:
    """Name the adapters of a run as its record does; no other one has a name from the record.

    Equal copies of an adapter may be several systems of a run, each with a name.
    """
    if inspected is None:
        return None
    found = _mapping(record.get("adapters"))
    entries = {printable(name): _mapping(entry) for name, entry in found.items()}
    adapters = []
    for adapter in inspected.adapters:
        own = {"hash": hash_of_parts(adapter.blake3, adapter.config), "path": adapter.path}
        names = [name for name, entry in entries.items() if _is_of(own, entry)]
        # A path without a folder may be a name of the record, too; none starts with ./
        path = adapter.path if len(Path(adapter.path).parts) > 1 else f"./{adapter.path}"
        other = path if adapter.name in entries else adapter.name
        adapters += [replace(adapter, alias=name) for name in names or [other]]
    return replace(inspected, adapters=adapters)


def _is_of(own: Mapping[str, str], entry: Mapping[str, Any]) -> bool:
    """Whether a record's entry is of an adapter, which may have changed in its place since."""
    key = "hash" if "hash" in entry else "path"
    return entry.get(key) == own[key]


def merge_among(systems: Sequence[str], before: str, inspected: InspectReport | None) -> str | None:
    """Return the system of interest: the first merge of several adapters.

    It is not the best merge, because the best of several looks better than it is. If no merge is
    known, it is the system with the default name of ``merge``'s output; else the last adapter that
    was trained for alignment; else the last system.
    """
    others = [system for system in systems if system not in (before, BASE)]
    known = _by_name(inspected)
    for system in others:
        if system in known and len(sources_of(known[system].record)) > 1:
            return system
    if _MERGED in others and _MERGED not in known:
        return _MERGED
    aligned = [s for s in others if s in known and known[s].record.get("command") in _ALIGNMENT]
    rest = [system for system in systems if system != before]
    return next(iter([*aligned[-1:], *others[-1:], *rest[-1:]]), None)


def is_known(system: str, inspected: InspectReport | None) -> bool:
    """Whether the adapter of a system is part of the report."""
    return system in _by_name(inspected)


def is_trained(system: str, inspected: InspectReport | None) -> bool:
    """Whether a system's adapter is known to come from training, so that nothing was merged."""
    known = _by_name(inspected)
    return system in known and known[system].record.get("command") in (*_TASK, *_ALIGNMENT)


def controls_among(systems: Sequence[str], inspected: InspectReport | None) -> list[str]:
    """Return the control systems, which scale one adapter without merging in others."""
    known = _by_name(inspected)
    sources = {s: sources_of(known[s].record) for s in systems if s in known}
    return [s for s, of_s in sources.items() if len(of_s) == 1 and of_s[0]["weight"] != 1]


def is_unscaled(merge: str, before: str, inspected: InspectReport | None) -> bool:
    """Whether a merge adds other adapters to one that keeps its weight of 1 in every module."""
    known = _by_name(inspected)
    adapter = known.get(merge)
    if adapter is None or adapter.record.get("method") != "exact":
        return False
    has_rules = bool(_mapping(adapter.record.get("weighting")).get("rules"))
    if before in known:
        whole = {s.get("blake3") for s in sources_of(adapter.record) if s["weight"] == 1}
        return not has_rules and known[before].blake3 in whole
    return not has_rules and (before, 1.0) in made_of(adapter.record)


def language_groups(
    langs: Sequence[str],
    merge: str | None,
    inspected: InspectReport | None,
    given: Mapping[str, Sequence[str]],
    *,
    is_chosen: bool = False,
) -> Groups:
    """Group the languages into trained, aligned and others, by the training of the adapters.

    If that is unknown, or the user chose groups, the record's groups are used, provided that no
    language is in two of them; otherwise there is one group without a name.
    """
    members = [lang for group in given.values() for lang in group]
    is_clear = len(members) == len(set(members))
    trained, aligned = _seen(_parts_of(merge, inspected))
    if (trained or aligned) and not (is_chosen and members and is_clear):
        first = [lang for lang in langs if flores_code(lang) in trained]
        second = [lang for lang in langs if lang not in first and flores_code(lang) in aligned]
        found = {"trained languages": first, "aligned languages": second}
    else:
        found = {name: list(group) for name, group in given.items()} if is_clear else {}
    rest = [lang for lang in langs if not any(lang in group for group in found.values())]
    groups = {**found, ("other languages" if any(found.values()) else ""): rest}
    return [(name, group) for name, group in groups.items() if group]


def has_chosen_groups(record: Mapping[str, Any]) -> bool:
    """Whether the groups of a run are its user's, not the task's."""
    return bool(_mapping(record.get("settings")).get("groups"))


def alignment_layers(inspected: InspectReport | None, depth: int) -> dict[str, int]:
    """Return the layer at which each adapter was aligned, alone or jointly with a task.

    A merge has the layer of its sources if all are known and they were aligned at one layer.
    """
    known = _by_name(inspected)
    seen: dict[str, set[int | None]] = {name: set() for name in known}  # None: unknown
    for name, adapter in known.items():
        if adapter.record.get("command") in _ALIGNMENT:
            chosen = _mapping(adapter.record.get("layers")).get("layer")  # chosen by --layer auto
            asked = _mapping(adapter.record.get("settings")).get("layer")
            with suppress(ConfigError, ValueError):  # of a deeper model, or not by adaptermix
                seen[name].add(layer_index(chosen or asked or "middle", depth))
    merges = {name: adapter for name, adapter in known.items() if sources_of(adapter.record)}
    for _ in merges:  # each may be a source of another
        seen |= {name: _of_sources(adapter, known, seen) for name, adapter in merges.items()}
    only = {name: next(iter(layers)) for name, layers in seen.items() if len(layers) == 1}
    return {name: layer for name, layer in only.items() if layer is not None}


def _of_sources(
    adapter: AdapterReport,
    known: Mapping[str, AdapterReport],
    seen: Mapping[str, set[int | None]],
) -> set[int | None]:
    hashes = {source.get("blake3") for source in sources_of(adapter.record)}
    parts = {part.blake3: name for name, part in known.items() if part.blake3 in hashes}
    layers = set().union(*(seen[name] for name in parts.values()))
    return layers if len(parts) == len(hashes) else {*layers, None}


def label_of(lang: str) -> str:
    """Return a language's name with its code, or only the code."""
    name = LANGUAGE_NAMES.get(known_code(lang) or "", "") if target_of(lang) == lang else ""
    return f"{name[0].upper()}{name[1:]} ({lang})" if name and name != lang else lang


def _by_name(inspected: InspectReport | None) -> dict[str, AdapterReport]:
    return {adapter.name: adapter for adapter in inspected.adapters} if inspected else {}


def _parts_of(merge: str | None, inspected: InspectReport | None) -> list[AdapterReport]:
    """Return the known source adapters of a merge, or all adapters without a merge."""
    known = _by_name(inspected)
    record = known[merge].record if merge in known else {}
    hashes = {source.get("blake3") for source in sources_of(record)}
    return [a for a in known.values() if not hashes or a.blake3 in hashes]


def _seen(adapters: Sequence[AdapterReport]) -> tuple[set[str], set[str]]:
    """Return the languages of task training and of alignment."""
    trained: set[str] = set()
    aligned: set[str] = set()
    for adapter in adapters:
        command = adapter.record.get("command")
        for name in _mapping(adapter.record.get("examples")):
            sides = sides_of(str(name))
            if command in _ALIGNMENT and len(sides) == 2:
                aligned |= {flores_code(side) for side in sides}
            elif command in _TASK:
                trained.add(flores_code(str(name)))
    return trained, aligned


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
