"""Find the weights of a merge on dev data, and say how certain the choice is.

Every candidate is a separate LoRA in one engine. Each adapter alone is always a candidate, so the
answer may be that merging does not help.

The result depends only on the answers, and every answer is cached as it arrives. After a kill, the
same search starts over, finds its answers in the cache, and gives the same result.
"""

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from blake3 import blake3
from pydantic import TypeAdapter

from adaptermix.adapters.adapter import Adapter, adapter_hash, read_adapter
from adaptermix.errors import AdaptermixError, ArtifactError, ConfigError, require_extra
from adaptermix.files.outputs import check_output, whole_output, write_json
from adaptermix.generation.cached import notes_on_servers
from adaptermix.generation.prompts import PromptedExample
from adaptermix.merging.merge import check_out, write_merge
from adaptermix.merging.plan import MergePlan, open_adapters, plan_merge
from adaptermix.merging.weights import Weighting
from adaptermix.models.loading import load_model
from adaptermix.models.systems import open_systems
from adaptermix.progress import OnProgress, ignore
from adaptermix.search.asking import Asked, DevPrompts, ask_dev_data
from adaptermix.search.candidates import (
    AUTO_STEP,
    Candidate,
    as_parameters,
    candidate_of,
    first_candidates,
    layer_groups,
    merges_with_first,
    names_of,
    plan_candidate,
    scalar_candidate,
)
from adaptermix.search.dev_data import group_by_language, set_apart
from adaptermix.search.halving import Entry, SuccessiveHalving, choose
from adaptermix.search.record import (
    RECORD_FILE,
    STAGE,
    Choice,
    SearchPlan,
    SearchReport,
    is_half_out,
    plot_of,
    put_in_place,
    result_of,
    search_folder,
)
from adaptermix.settings.merging import SearchSettings
from adaptermix.settings.shared import flag_of
from adaptermix.tables import number_of
from adaptermix.training.batches import AnswerCollator, encode_example
from adaptermix.version import __version__

TRIAL_SHARE = 0.25  # share of the dev examples for one trial


def search(
    paths: Sequence[Path],
    settings: SearchSettings,
    *,
    force: bool = False,
    on_progress: OnProgress = ignore,
) -> SearchReport:
    """Try merges on dev data, choose one and write it.

    Writes the merged adapter and, beside it, the folder ``NAME.search`` with the record, the
    chosen weights as a file for ``--weights-file``, and a plot. If the same search has already
    finished there, its report is returned, so a killed search can be restarted with the same
    command.

    Raises:
        ConfigError: A grid with fewer than two points, or settings that contradict each other.
        DataError: Missing or malformed dev data, or dev data without gold answers.
        ArtifactError: As for ``merge``, or the adapters do not fit the base model.
        ResourceError: The chosen engine is not installed, or it stopped.
    """
    folder = search_folder(settings.out)
    is_there = not force and settings.out.exists() and (folder / RECORD_FILE).exists()
    inputs = _prepare(paths, settings, force or is_there)
    if is_there:
        ended = _ended_search(inputs)
        if ended is not None:
            return ended
        check_out(paths, settings, force)
    with inputs.asked.staging() as scratch:
        halving = SuccessiveHalving(inputs.plan, inputs.asked, inputs.items, scratch, on_progress)
        finalists = _run(halving, inputs, settings)
        return _finish(halving, _choose(halving, finalists, inputs), inputs, force)


def plan_search(
    paths: Sequence[Path], settings: SearchSettings, *, force: bool = False
) -> SearchPlan:
    """Check the inputs of ``search`` and return what it would do. Raises the same errors."""
    inputs = _prepare(paths, settings, force)
    return SearchPlan(
        [candidate.name for candidate in inputs.candidates],
        {lang: len(items) for lang, items in inputs.items.items()},
        max(len(item.prompt_ids) for items in inputs.items.values() for item in items),
        str(settings.out),
        str(search_folder(settings.out)),
        notes=[*inputs.notes, *notes_on_servers(inputs.asked.servers)],
    )


@dataclass(frozen=True)
class _SearchInputs:
    """The inputs of a search, checked before an engine starts.

    Attributes:
        opened: The adapters as ``merge`` opens them.
        adapters: The same adapters, with the base model's module names.
        asked: The dev examples and the engine.
        items: Dev examples by language, to compare candidates on.
        learning: Dev examples to learn weights on.
        candidates: The initial candidates.
    """

    opened: list[Adapter]
    adapters: list[Adapter]
    asked: Asked
    items: dict[str, list[PromptedExample]]
    learning: list[PromptedExample]
    candidates: list[Candidate]

    @property
    def settings(self) -> SearchSettings:
        """The settings, with lm-eval tasks in place of languages."""
        return self.asked.settings

    def plan(self, weighting: Weighting) -> MergePlan:
        """Plan the merge for given weights."""
        return plan_candidate(self.opened, self.adapters, weighting, self.settings)

    @property
    def notes(self) -> list[str]:
        """Notes for the user before anything is decoded."""
        unused = {"trials", "sampler"} & self.settings.model_fields_set
        if self.settings.search != "auto" or self.has_trials:
            unused = set()
        return [
            *self.asked.notes,
            *(
                f"{flag_of(name)} has no effect with two adapters, unless --layer-groups is given"
                for name in sorted(unused)
            ),
        ]

    @property
    def has_trials(self) -> bool:
        """Whether ``auto`` has too many weights for a grid."""
        return len(self.adapters) > 2 or self.settings.layer_groups > 1

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
            self.learning,
        )
        return blake3(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()


def _prepare(paths: Sequence[Path], settings: SearchSettings, force: bool) -> _SearchInputs:
    check_search(paths, settings)
    check_out(paths, settings, force)
    record = search_folder(settings.out)
    check_output(record, force or is_half_out(settings.out), [*paths, *settings.inputs()])
    opened = open_adapters(paths, settings)
    names = names_of(opened)
    candidates = first_candidates(names, settings)
    systems = open_systems(settings, dict(zip(names, opened, strict=True)))
    adapters = list(systems.adapters.values())
    plans = [plan_candidate(opened, adapters, found.weighting, settings) for found in candidates]
    if settings.search == "learn":
        _check_learnable(adapters, settings)
    for plan in plans:
        plan.config()  # raises if they cannot be merged, before anything is decoded
    if settings.search == "auto":
        layer_groups(plans[0], settings.layer_groups)
    rank = max(spec.rank for plan in plans for spec in plan.specs.values())
    asked = ask_dev_data(settings, systems, len(candidates), rank)
    items = group_by_language(asked.items, settings.seed)
    learning = set_apart(items) if settings.search == "learn" else []
    return _SearchInputs(opened, adapters, asked, items, learning, candidates)


def _check_learnable(adapters: Sequence[Adapter], settings: SearchSettings) -> None:
    """Refuse whole weights, which can be merged only if the weights add up to 1.

    Raises:
        ArtifactError: The adapters have whole weights.
    """
    any_sum = Weighting((1.0,) * len(adapters))
    try:
        plan_merge(adapters, any_sum, settings).saved()
    except ArtifactError as error:
        raise ArtifactError(
            "--search learn finds weights that do not add up to 1, but the adapters contain whole "
            "weights (biases, modules_to_save or embeddings), which need weights that do",
            hint="use --search auto or a grid of weights",
        ) from error


def _ended_search(inputs: _SearchInputs) -> SearchReport | None:
    """Return the report of an identical, finished search whose adapter is unchanged."""
    out = inputs.settings.out
    folder = search_folder(out)
    try:
        record = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
        if (record["key"], record["adapter"]) != (inputs.key, adapter_hash(read_adapter(out))):
            return None
        report = TypeAdapter(SearchReport).validate_python(record)
    except (AdaptermixError, OSError, ValueError, KeyError, TypeError):
        return None  # damaged, or written by another version
    shutil.rmtree(folder / STAGE, ignore_errors=True)  # empty after a kill between the two moves
    note = "this search was already complete; nothing was decoded or written"
    return replace(report, notes=[*report.notes, note])


def check_search(paths: Sequence[Path], settings: SearchSettings) -> None:
    """Check what a search needs besides adapters, data and a model.

    Raises:
        ConfigError: Fewer than two adapters, an output that is a full model, an invalid grid.
        ResourceError: A required package is not installed.
    """
    if settings.into is not None:
        raise ConfigError(
            "--search writes an adapter, but --into writes a model",
            hint="search first, then fold: --weights-file NAME.search/weights.toml --into BASE",
        )
    if len(paths) < 2:
        raise ConfigError("--search needs at least two adapters", hint="adaptermix merge --help")
    require_extra("search")
    first = merges_with_first if settings.per_language else first_candidates
    first([path.name for path in paths], settings)


def _run(
    halving: SuccessiveHalving, inputs: _SearchInputs, settings: SearchSettings
) -> list[Entry]:
    if settings.search == "learn":
        from accelerate.utils.memory import clear_device_cache  # imports torch

        candidates = [*inputs.candidates, _learn(halving, inputs, settings)]
        clear_device_cache(garbage_collection=True)  # the engine needs the memory of the model
        return halving.run(candidates, exhaustive=settings.exhaustive)
    if settings.search != "auto":
        return halving.run(inputs.candidates, exhaustive=settings.exhaustive)
    if len(inputs.adapters) > 2 or settings.layer_groups > 1:
        candidates = [*inputs.candidates, *_try(halving, inputs, settings)]
        return halving.run(candidates, exhaustive=settings.exhaustive)
    ranked = halving.run(inputs.candidates, exhaustive=settings.exhaustive)
    # The finalists have answered everything: a race on a part of it could only drop the best one.
    finalists = [entry.candidate for entry in ranked]
    return halving.run([*finalists, *_between(ranked)], exhaustive=True)


def _learn(
    halving: SuccessiveHalving, inputs: _SearchInputs, settings: SearchSettings
) -> Candidate:
    """Learn weights on the dev examples reserved for it, before an engine starts."""
    from adaptermix.search.learn import WeightedMerge, learn_weights  # imports the Trainer

    asked = inputs.asked
    assert isinstance(asked, DevPrompts)  # noqa: S101 - the settings allow no other task
    encoder = asked.encoder
    encoded = [
        encode_example(
            item.prompt_ids, encoder.answer_ids(asked.task.answer(item.example)), sys.maxsize
        )
        for item in inputs.learning
    ]
    merges = [c.weighting for c in inputs.candidates if not c.is_control]
    model = load_model(asked.generator.folder, settings)
    learned = learn_weights(
        WeightedMerge(model, inputs.plan(merges[0]), settings),
        merges,
        [row for row in encoded if row is not None],
        AnswerCollator(int(encoder.tokenizer.pad_token_id or 0)),
        halving.on_progress,
    )
    halving.notes.append(
        f"learned from {learned.start.weights} on {number_of(len(encoded), 'dev example')} not "
        f"used for the comparison: loss {learned.start_loss:.4f} to {learned.loss:.4f}"
    )
    if settings.method != "exact":
        halving.notes.append(
            "weights are learned for the weighted sum; "
            f"--method {settings.method} changes the merge"
        )
    return Candidate("learned", learned.weighting)


def _between(ranked: Sequence[Entry]) -> list[Candidate]:
    """Return the grid weights on either side of the best merge."""
    best = next((entry for entry in ranked if not entry.candidate.is_control), None)
    if best is None:
        return []
    weight = best.candidate.weighting.weights[0]
    sides = (weight - AUTO_STEP, weight + AUTO_STEP)
    return [scalar_candidate(round(side, 6), 2) for side in sides]


def _try(
    halving: SuccessiveHalving, inputs: _SearchInputs, settings: SearchSettings
) -> list[Candidate]:
    """Let Optuna propose weights beyond the first candidates, and return the best of all.

    With ``exhaustive``, return all: they have answered all examples.

    The study is kept in memory. With the same seed and answers it proposes the same weights, so
    a killed search needs no storage other than the cached answers.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    samplers = {"tpe": optuna.samplers.TPESampler, "cma": optuna.samplers.CmaEsSampler}
    sampler = samplers[settings.sampler](seed=settings.seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    groups = layer_groups(inputs.plan(inputs.candidates[0].weighting), settings.layer_groups)
    for candidate in inputs.candidates:
        study.enqueue_trial(as_parameters(candidate.weighting.weights, len(groups)))
    tried: dict[str, float] = {}
    candidates: dict[str, Candidate] = {}
    for number in range(len(inputs.candidates) + settings.trials):
        trial = study.ask()
        weights = [
            [trial.suggest_float(f"{at}.{group}", 0, 1) for at in range(len(inputs.adapters))]
            for group in range(len(groups))
        ]
        known = [*inputs.candidates, *candidates.values()]
        candidate = candidate_of(weights, groups, number, known)
        entry = halving.enter(candidate)
        halving.show([entry], 1.0 if settings.exhaustive else TRIAL_SHARE)
        tried[candidate.name] = halving.score(entry)
        candidates[candidate.name] = candidate
        study.tell(trial, tried[candidate.name])
    best = sorted(tried, key=lambda name: -tried[name])
    if not settings.exhaustive:
        best = best[: len(inputs.candidates)]
    return [candidates[name] for name in best]


def _choose(
    halving: SuccessiveHalving, finalists: Sequence[Entry], inputs: _SearchInputs
) -> Choice:
    winner, tied, verdict = choose(halving, finalists, inputs.settings.prefer)
    control = _show_without_others(halving, winner, inputs)
    if control is not None:
        verdict += f"; {_told_apart(halving, winner, control)}"
    return Choice(winner, tied, verdict, control)


def _show_without_others(
    halving: SuccessiveHalving, winner: Entry, inputs: _SearchInputs
) -> Entry | None:
    """Decode with the chosen merge's main adapter alone, at the weights it has in the merge.

    This control is not a candidate. With ``inactive = keep``, weights differ by module, and the
    control is left out. So is one that cannot be written: whole weights need a sum of 1.
    """
    names = names_of(inputs.adapters)
    pairs = zip(names, inputs.adapters, strict=True)
    aligned = {name for name, adapter in pairs if adapter.is_for_alignment}
    alone = winner.candidate.without_others(names, aligned)
    if alone is None or inputs.settings.inactive == "keep":
        return None
    if any(entry.candidate.weighting == alone.weighting for entry in halving.entries.values()):
        return None  # at weight 1 it was already a candidate
    try:
        entry = halving.enter(alone)
    except (ArtifactError, ConfigError) as error:
        halving.notes.append(
            f"{winner.candidate.name} is not compared with {alone.name}, which cannot be written: "
            f"{error.message}"
        )
        return None
    halving.show([entry], 1.0)
    return entry


def _told_apart(halving: SuccessiveHalving, winner: Entry, control: Entry) -> str:
    """Say whether the merge's other adapters had an effect beyond the smaller weight."""
    difference = halving.compare(winner, control).interval
    merge, alone = winner.candidate.name, control.candidate.name
    if not difference.excludes_zero:
        return (
            f"{merge} is not significantly different from {alone}, so its gain may come from "
            "the smaller weight, not from the other adapters"
        )
    if difference.value > 0:
        return f"{merge} is better than {alone}: the other adapters help"
    return f"{merge} is worse than {alone}: the other adapters hurt"


def _finish(
    halving: SuccessiveHalving, choice: Choice, inputs: _SearchInputs, force: bool
) -> SearchReport:
    """Write the winner and the record of the search.

    Two outputs cannot appear at the same instant. The record's folder appears first and contains
    the adapter, so a search that was killed between the two steps can be recognized and finished.
    """
    settings, asked, winner = inputs.settings, inputs.asked, choice.winner.candidate
    entries = sorted(
        halving.entries.values(),
        key=lambda e: (e is not choice.winner, -e.answered, -halving.score(e)),
    )
    folder = search_folder(settings.out)
    score = halving.score_interval(choice.winner)
    metric = asked.task.metrics[0].name
    found = {
        "dev": {metric: score.value},
        "search": {
            "task": asked.name,
            "langs": list(inputs.items),
            "low": score.low,
            "high": score.high,
            "verdict": choice.verdict,
        },
    }
    candidates = [result_of(halving, entry, choice.winner) for entry in entries]
    control = choice.control.candidate.name if choice.control else None
    record = {"adaptermix": __version__, "settings": settings.model_dump(mode="json")}
    plan = inputs.plan(winner.weighting)
    with whole_output(folder) as partial:
        staged = partial / STAGE / settings.out.name
        staged.parent.mkdir(parents=True)
        (partial / "weights.toml").write_text(winner.weighting.as_toml(), encoding="utf-8")
        plot_of(candidates, winner.name, metric, control=control).write(partial)
        report = SearchReport(
            winner=winner.name,
            verdict=choice.verdict,
            tied=[entry.candidate.name for entry in choice.tied],
            candidates=candidates,
            task=asked.name,
            metric=metric,
            langs=list(inputs.items),
            engine=asked.engine,
            decoded=halving.needed,
            exhaustive=len(entries) * halving.examples,
            reused=asked.reused,
            merge=write_merge(plan, settings, at=staged, found=found),
            notes=[
                *inputs.notes,
                *halving.notes,
                *halving.notes_on_answers,
                *asked.notes_on_answers,
            ],
            folder=str(folder),
            control=control,
        )
        kept = {"key": inputs.key, "adapter": adapter_hash(read_adapter(staged))}
        write_json(partial / RECORD_FILE, record | kept | report.as_record())
        check_output(settings.out, force)
    put_in_place(folder / STAGE, settings.out)
    return report
