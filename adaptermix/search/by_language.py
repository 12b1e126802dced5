"""Choose an adapter for every language on dev data, and write them as one folder: a family.

In each language, the task adapter alone competes with its merges. All of them answer all dev
examples: a race would drop merges that are bad on average but good in one language.

As in the search for one merge, the result depends only on the answers, which are cached. After a
kill, the same command finds its answers in the cache and gives the same result.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from blake3 import blake3
from pydantic import TypeAdapter

from adaptermix.adapters.adapter import Adapter, adapter_hash, read_adapter
from adaptermix.adapters.base_names import is_one_base, is_quantized_name
from adaptermix.adapters.family import Route, Routes, family_hash, read_family
from adaptermix.adapters.family_files import from_anywhere, serving, write_family
from adaptermix.adapters.matching import notes_on_base
from adaptermix.adapters.stacking import notes_on_stack
from adaptermix.adapters.writing import copy_adapter, stage_adapter
from adaptermix.errors import AdaptermixError
from adaptermix.files.outputs import whole_output, write_json
from adaptermix.generation.cached import notes_on_servers
from adaptermix.generation.prompts import PromptedExample
from adaptermix.generation.vllm_engine import VLLM_RANKS, vllm_lacks
from adaptermix.merging.merge import check_out, merge_report, write_merge
from adaptermix.merging.plan import MergePlan, Tally, open_adapters
from adaptermix.merging.weights import Weighting
from adaptermix.models.systems import Systems, open_systems
from adaptermix.progress import OnProgress, ignore
from adaptermix.search.asking import DevPrompts
from adaptermix.search.candidates import (
    Candidate,
    folder_names,
    merges_with_first,
    names_of,
    plan_candidate,
)
from adaptermix.search.dev_data import group_by_language
from adaptermix.search.halving import SuccessiveHalving
from adaptermix.search.routes import Route as Chosen
from adaptermix.search.routes import choose_routes
from adaptermix.search.routes_report import EVIDENCE_FILE, RoutesPlan, RoutesReport
from adaptermix.search.run import check_search
from adaptermix.settings.merging import SearchSettings
from adaptermix.tasks.metrics.significance import Statistics
from adaptermix.version import __version__


def search_by_language(
    paths: Sequence[Path],
    settings: SearchSettings,
    *,
    force: bool = False,
    on_progress: OnProgress = ignore,
) -> RoutesReport:
    """Choose the first adapter or a merge of it for every language, and write the family.

    Writes a new folder with a PEFT directory for the task adapter and for each chosen merge,
    ``routes.toml``, ``serve.sh``, a model card, and ``evidence.json``. If the folder already holds
    the result of the same choice, its report is returned.

    Args:
        paths: The task adapter, then the adapters to merge with it, one at a time.
        settings: The grid and the dev data.
        force: Replace an existing output.
        on_progress: Called with the progress of decoding.

    Raises:
        ConfigError: An invalid grid, or settings that contradict each other.
        DataError: Malformed dev data, or no dev data in any language.
        ArtifactError: As for ``merge``, or the adapters do not fit the base model.
        ResourceError: The chosen engine is not installed, or it stopped.
    """
    is_there = not force and (settings.out / EVIDENCE_FILE).is_file()
    inputs = _prepare(paths, settings, force or is_there)
    if is_there:
        ended = _ended_choice(inputs)
        if ended is not None:
            return ended
        check_out(paths, settings, force)
    with inputs.asked.staging() as scratch:
        halving = SuccessiveHalving(inputs.plan, inputs.asked, inputs.items, scratch, on_progress)
        chosen = _choose(halving, inputs)
    report = _report(halving, chosen, inputs)
    _write(report, inputs)
    return report


def plan_by_language(
    paths: Sequence[Path], settings: SearchSettings, *, force: bool = False
) -> RoutesPlan:
    """Check the inputs of ``search_by_language`` and return what it would do."""
    inputs = _prepare(paths, settings, force)
    return RoutesPlan(
        [inputs.name, *(merge.name for merge in inputs.merges)],
        {lang: len(inputs.items.get(lang, ())) for lang in settings.langs},
        inputs.asked.generator.limits.prompt,
        settings.prefer,
        str(settings.out),
        notes=[*inputs.notes, *notes_on_servers(inputs.asked.servers)],
    )


@dataclass(frozen=True)
class _Inputs:
    """The inputs of a choice by language, checked before an engine starts.

    Attributes:
        opened: The adapters of every merge as ``merge`` opens them, by their places in the list.
        adapters: All adapters, with the base model's module names.
        first: The task adapter, unchanged.
        merges: Its merges, named like the folders they will get.
        items: Dev examples by language. Languages without any are left out.
    """

    opened: dict[tuple[int, ...], list[Adapter]]
    adapters: list[Adapter]
    first: Adapter
    merges: list[Candidate]
    systems: Systems
    asked: DevPrompts
    items: dict[str, list[PromptedExample]]
    settings: SearchSettings

    @property
    def name(self) -> str:
        """Name of the task adapter's folder."""
        return folder_names(names_of(self.adapters))[0]

    def plan(self, weighting: Weighting) -> MergePlan:
        """Plan the merge of the adapters whose weight is not zero."""
        return _plan(self.opened, self.adapters, weighting, self.settings)

    @property
    def notes(self) -> list[str]:
        """Notes for the user before anything is decoded."""
        lacking = [lang for lang in self.settings.langs if lang not in self.items]
        without = f"no dev data for {', '.join(lacking)}: the adapter {self.name} is used"
        slip = (
            f"{self.first.path} was trained for alignment, but the first adapter is used as the "
            "task adapter"
        )
        always = "--exhaustive has no effect with --per-language, which always is"
        served = [
            f"serve.sh: vLLM cannot load {adapter.path}: {why}"
            for adapter in self.adapters
            if (why := vllm_lacks(adapter))
        ]
        return [
            *([without] if lacking else []),
            *([slip] if self.first.is_for_alignment else []),
            *([always] if self.settings.exhaustive else []),
            *served,
            *self.asked.notes,
        ]

    @property
    def key(self) -> str:
        """Return a hash of everything that the result depends on."""
        parts = (
            __version__,
            self.settings.as_text(),
            [adapter_hash(adapter) for adapter in self.adapters],
            self.asked.context.hex(),
            self.asked.task.definition,
            self.items,
        )
        return blake3(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()


def _prepare(paths: Sequence[Path], settings: SearchSettings, force: bool) -> _Inputs:
    check_search(paths, settings)
    check_out(paths, settings, force)
    adapters = open_adapters(paths, settings)
    first = read_adapter(paths[0], rank=settings.source_rank, alpha=settings.source_alpha)
    names = names_of(adapters)
    merges = merges_with_first(names, settings)
    opened = {
        used: open_adapters([paths[at] for at in used], settings)
        for used in dict.fromkeys(_used(merge.weighting) for merge in merges)
    }
    systems = open_systems(settings, dict(zip(names, adapters, strict=True)))
    adapters = list(systems.adapters.values())
    plans = [_plan(opened, adapters, merge.weighting, settings) for merge in merges]
    for plan in plans:
        plan.config()  # raises if they cannot be merged, before anything is decoded
    rank = max(_rank(first), *(spec.rank for plan in plans for spec in plan.specs.values()))
    asked = DevPrompts.of(settings, systems, 1 + len(merges), rank)
    items = group_by_language(asked.items, settings.seed)
    return _Inputs(opened, adapters, first, merges, systems, asked, items, settings)


def _used(weighting: Weighting) -> tuple[int, ...]:
    """Return the places of the adapters whose weight is not zero."""
    return tuple(at for at, weight in enumerate(weighting.weights) if weight)


def _plan(
    opened: Mapping[tuple[int, ...], Sequence[Adapter]],
    adapters: Sequence[Adapter],
    weighting: Weighting,
    settings: SearchSettings,
) -> MergePlan:
    """Plan a merge without the zero-weight adapters, as a search over the remaining ones would."""
    used = _used(weighting)
    weights = Weighting(tuple(weighting.weights[at] for at in used))
    plan = plan_candidate(opened[used], [adapters[at] for at in used], weights, settings)
    return replace(plan, base=_base_of(adapters))


def _base_of(adapters: Sequence[Adapter]) -> str | None:
    """Return the base model that all merges name, if an adapter names one.

    With --ignore-base, that of a pair may not be the task adapter's, and a family has one base.
    """
    named = [adapter.base for adapter in adapters if adapter.base]
    same = (base for base in named if is_one_base(base, named[0]))
    return min(same, key=is_quantized_name, default=None)  # as in a merge


def _rank(adapter: Adapter) -> int:
    return max(adapter.spec(module).rank for module in adapter.modules)


def _choose(halving: SuccessiveHalving, inputs: _Inputs) -> dict[str, Chosen]:
    """Decode all dev examples with all candidates, and choose."""
    alone = Weighting((1.0, *[0.0] * (len(inputs.adapters) - 1)))
    staged = stage_adapter(inputs.adapters[0], halving.scratch)
    task = halving.enter(Candidate(inputs.name, alone), staged)
    merges = [halving.enter(merge) for merge in inputs.merges]
    halving.show([task, *merges], 1.0)
    langs = list(inputs.items)
    rows: Mapping[str, Mapping[str, Statistics]] = {
        entry.candidate.name: dict(zip(langs, entry.statistics, strict=True))
        for entry in (task, *merges)
    }
    nothing = np.empty((0, task.statistics[0].shape[1]))
    of_task = {lang: rows[inputs.name].get(lang, nothing) for lang in inputs.settings.langs}
    of_merges = {merge.name: rows[merge.name] for merge in inputs.merges}
    return choose_routes(of_task, of_merges, inputs.asked.task.value, inputs.settings.prefer)


def _report(
    halving: SuccessiveHalving, chosen: Mapping[str, Chosen], inputs: _Inputs
) -> RoutesReport:
    settings = inputs.settings
    names = names_of(inputs.adapters)
    return RoutesReport(
        out=str(settings.out),
        routes=Routes(
            default=inputs.name,
            routes={lang: _route(found, inputs.name) for lang, found in chosen.items()},
            base=inputs.first.base or _base_of(inputs.adapters) or settings.model,
            base_fingerprint=inputs.systems.fingerprint,
            task=settings.task,
            metric=inputs.asked.task.metrics[0].name,
            prefer=settings.prefer,
            adaptermix=__version__,
        ),
        evidence={lang: found.evidence for lang, found in chosen.items()},
        weights={
            merge.name: dict(zip(names, merge.weighting.weights, strict=True))
            for merge in inputs.merges
        },
        engine=inputs.asked.engine,
        decoded=halving.needed,
        reused=inputs.asked.reused,
        notes=list(dict.fromkeys([*_notes(chosen, inputs), *halving.notes_on_answers])),
    )


def _notes(chosen: Mapping[str, Chosen], inputs: _Inputs) -> Iterator[str]:
    """Yield notes on the chosen adapters, the data and the answers."""
    systems, first = inputs.systems, inputs.first
    yield from first.notes
    yield from notes_on_base(systems.adapters, systems.base, systems.fingerprint)
    yield from notes_on_stack([first], {first.weights_hash: [1.0]})
    taken = {route.chosen for route in chosen.values()}
    for merge in inputs.merges:
        if merge.name in taken:
            plan = inputs.plan(merge.weighting)
            yield from merge_report(plan, inputs.settings, Tally(), written=True).notes
    yield from inputs.notes
    yield from inputs.asked.notes_on_answers


def _route(found: Chosen, alone: str) -> Route:
    """Return a route with the evidence for the chosen merge, or else for the best one."""
    merge = next((e for e in found.evidence if found.chosen in (None, e.candidate)), None)
    if merge is None:
        return Route(alone)
    ends = merge.difference.interval
    numbers = (merge.score, ends.value, ends.low, ends.high, merge.difference.p_value, merge.p_holm)
    score, *others = (round(float(number), 6) for number in numbers)
    task_score = None if found.task_score is None else round(found.task_score, 6)
    adapter = found.chosen or alone
    return Route(adapter, found.examples, task_score, merge.candidate, score, *others)


def _write(report: RoutesReport, inputs: _Inputs) -> None:
    """Write the family so that it appears complete or not at all."""
    settings, routes = inputs.settings, report.routes
    merges = {merge.name: merge for merge in inputs.merges}
    with whole_output(settings.out) as partial:
        partial.mkdir()
        copy_adapter(inputs.first, partial / routes.default)
        for name in routes.names[1:]:
            langs = [lang for lang in routes.routes if routes.name_for(lang) == name]
            write_merge(
                inputs.plan(merges[name].weighting),
                settings.model_copy(update={"out": settings.out / name}),
                at=partial / name,
                found={"chosen_for": langs},
            )
        rank = max(_rank(read_adapter(partial / name)) for name in routes.names)
        room = next((size for size in VLLM_RANKS if size >= rank), rank)
        command = serving(settings.model, routes, room, _serving_options(settings))
        write_family(partial, settings.out.name, routes, command)
        kept = {
            "adaptermix": __version__,
            "settings": settings.model_dump(mode="json"),
            "key": inputs.key,
            "family": family_hash(read_family(partial)),
        }
        write_json(partial / EVIDENCE_FILE, kept | report.as_record())


def _serving_options(settings: SearchSettings) -> list[str]:
    """Return what vLLM needs to load the model and to write prompts as in the search."""
    options = ["--revision", settings.revision] if settings.revision else []
    options += ["--trust-remote-code"] if settings.trust_remote_code else []
    if settings.tokenizer:
        options += ["--tokenizer", from_anywhere(settings.tokenizer)]
    if settings.chat_template:
        options += ["--chat-template", from_anywhere(str(settings.chat_template))]
    return options


def _ended_choice(inputs: _Inputs) -> RoutesReport | None:
    """Return the report of an identical, finished choice whose family is unchanged."""
    out = inputs.settings.out
    try:
        record = json.loads((out / EVIDENCE_FILE).read_text(encoding="utf-8"))
        if (record["key"], record["family"]) != (inputs.key, family_hash(read_family(out))):
            return None
        known = {field.name: record[field.name] for field in fields(RoutesReport)}
        report = TypeAdapter(RoutesReport).validate_python(known)
    except (AdaptermixError, OSError, ValueError, KeyError, TypeError):
        return None  # damaged, or written by another version
    note = "this search was already complete; nothing was decoded or written"
    return replace(report, notes=[*report.notes, note])
