"""Merge adapters into one adapter, without loading the base model."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from adaptermix.adapters.adapter import Adapter
from adaptermix.adapters.card import languages_of
from adaptermix.adapters.config import FROM_OPTIONS
from adaptermix.adapters.matching import notes_on_copies, notes_on_revisions
from adaptermix.adapters.names import unknown_start
from adaptermix.adapters.stacking import notes_on_stack
from adaptermix.adapters.writing import stream_adapter
from adaptermix.errors import ConfigError
from adaptermix.files.outputs import OTHER_OUT, check_output, real_path
from adaptermix.merging.plan import MergePlan, Tally, open_adapters, plan_merge
from adaptermix.merging.report import MergeReport, MergeSource
from adaptermix.merging.weights import Weighting, read_weights
from adaptermix.settings.merging import MergeSettings
from adaptermix.settings.shared import flag_of
from adaptermix.version import __version__

_RANDOM = ("dare", "dare-ties", "della")
_OF_METHODS = {  # options that only some methods use
    "density": ("magnitude", "ties", *_RANDOM, "knots"),
    "epsilon": ("della",),
    "seed": _RANDOM,
}


def merge(
    paths: Sequence[Path], settings: MergeSettings, *, force: bool = False, dry_run: bool = False
) -> MergeReport:
    """Merge adapters and write the result as one adapter.

    With the default method, every module's delta weight is sum_i w_i delta_i, where an adapter
    without the module counts as zero. This reads the paper's "averaging their weights" without
    cross terms; the literal reading is the method ``factor-average``.

    Raises:
        ConfigError: The numbers of weights and adapters differ, or options contradict each other.
        ArtifactError: An adapter is damaged or not a plain LoRA, base models or shapes differ,
            or the output exists.
    """
    check_out(paths, settings, force)
    adapters = open_adapters(paths, settings)
    plan = plan_merge(adapters, read_weights(len(paths), settings), settings)
    plan.config()  # raises if the adapters cannot be merged, in a dry run too
    if dry_run:
        return merge_report(plan, settings, plan.try_out(), written=False)
    return write_merge(plan, settings, force=force)


def write_merge(
    plan: MergePlan,
    settings: MergeSettings,
    *,
    at: Path | None = None,
    force: bool = False,
    found: Mapping[str, Any] | None = None,
) -> MergeReport:
    """Execute a merge plan.

    Args:
        plan: The merge to execute.
        settings: Output path and the settings that the report repeats.
        at: Temporary path, if the caller moves the result to the settings' output itself.
        force: Replace an existing output.
        found: Additional fields of the record, such as the results of a search.
    """
    tally = Tally()

    def record() -> dict[str, Any]:
        # A copy, such as a file that becomes a folder, was made as the adapter was. What a search
        # finds names the adapter as its source, so that both are compared.
        own = plan.adapters[0].record
        if own and not found and plan.is_sum and plan.weighting == Weighting((1.0,)):
            return dict(own)
        report = merge_report(plan, settings, tally, written=True)
        return merge_record(plan, report) | dict(found or {})

    stream_adapter(at or settings.out, plan.result(tally), plan.config(), record, force=force)
    return merge_report(plan, settings, tally, written=True)


def merge_record(plan: MergePlan, report: MergeReport) -> dict[str, Any]:
    """Return the record of how a result was made, to store with it."""
    return {
        "adaptermix": __version__,
        "numpy": np.__version__,
        "command": "merge",
        **report.as_record(),
        "seed": plan.seed,
        "options": asdict(plan.options),
        "base_fingerprint": _fingerprint(plan.adapters),
        "languages": sorted({lang for a in plan.adapters for lang in languages_of(a.record)}),
    }


def merge_report(
    plan: MergePlan, settings: MergeSettings, tally: Tally, *, written: bool
) -> MergeReport:
    """Summarize a merge.

    Args:
        plan: The merge.
        settings: Its settings, with the output path.
        tally: What the method lost.
        written: False for a dry run.
    """
    return MergeReport(
        out=str(settings.out),
        method=plan.method,
        sources=[
            MergeSource(
                str(adapter.path),
                adapter.weights_hash,
                plan.weighting.weights[at],
                int(adapter.config["r"]),
                len(adapter.modules),
                plan.inactive[at],
            )
            for at, adapter in enumerate(plan.adapters)
        ],
        weighting=plan.weighting.as_record(),
        rank=max(spec.rank for spec in plan.specs.values()),
        modules=len(plan.specs),
        relative_error=tally.relative(tally.lost_energy) ** 0.5,
        cross_term_energy=tally.relative(tally.cross_energy),
        inactive=settings.inactive,
        written=written,
        notes=[*_notes_on_unused(settings, plan.adapters), *_notes(plan)],
    )


def _notes_on_unused(settings: MergeSettings, adapters: Sequence[Adapter]) -> list[str]:
    """Return notes on options that were given and have no effect."""
    unused = {option for option, names in _OF_METHODS.items() if settings.method not in names}
    if settings.search is not None:
        unused.discard("seed")  # it also chooses the examples of a search
    notes = [
        f"{flag_of(option)} has no effect with --method {settings.method}; it is for "
        f"{', '.join(_OF_METHODS[option])}"
        for option in sorted(unused & settings.model_fields_set)
    ]
    if settings.into and settings.compact:
        notes.append("--compact has no effect with --into, which writes no adapter")
    given = [option for option in ("source_rank", "source_alpha") if getattr(settings, option)]
    if given and not any(adapter.origin == FROM_OPTIONS for adapter in adapters):
        flags = " and ".join(map(flag_of, given))
        verb = "have" if len(given) > 1 else "has"
        notes.append(f"{flags} {verb} no effect, because every adapter has a config")
    return notes


def _notes(plan: MergePlan) -> list[str]:
    """Return notes on inputs that are allowed but look like mistakes."""
    paths = [str(adapter.path) for adapter in plan.adapters]
    mixtures = [plan.weighting.weights, *(rule.weights for rule in plan.weighting.rules)]
    notes = []
    for path, weights in zip(paths, zip(*mixtures, strict=True), strict=True):
        outside = sorted({weight for weight in weights if not 0 <= weight <= 1})
        if len(outside) == 1:
            notes.append(f"the weight {outside[0]:g} of {path} is not between 0 and 1")
        elif outside:  # learned weights: one of each layer
            notes.append(
                f"{len(outside)} weights of {path}, from {outside[0]:g} to {outside[-1]:g}, are "
                "not between 0 and 1"
            )
    notes += [note for adapter in plan.adapters for note in adapter.notes]
    notes += notes_on_copies(plan.adapters)
    notes += notes_on_revisions(plan.adapters)
    if odd := unknown_start(plan.specs):
        notes.append(
            f"the modules are named like '{odd}', but no known model has names that start with "
            f"'{odd.partition('.')[0]}'; PEFT ignores updates of modules that do not exist"
        )
    weights = plan.weighting.weights
    most = max(range(len(weights)), key=weights.__getitem__)
    is_alone = sum(weight == weights[most] for weight in weights) == 1
    if len(weights) > 1 and is_alone and plan.adapters[most].is_for_alignment:
        notes.append(
            f"{paths[most]} was trained for alignment and has the largest weight, but the "
            "largest weight usually belongs to the task adapter; check that the weights are "
            "in the order of the adapters"
        )
    weights_here: dict[str, list[float]] = {}
    for adapter, given in zip(plan.adapters, zip(*mixtures, strict=True), strict=True):
        weights_here.setdefault(adapter.weights_hash, []).extend(given)
    notes += notes_on_stack(plan.adapters, weights_here)
    hashes = [adapter.weights_hash for adapter in plan.adapters]
    for at, own in enumerate(hashes):
        if own in hashes[:at]:
            notes.append(f"{paths[hashes.index(own)]} and {paths[at]} are the same adapter")
    return notes


def check_out(paths: Sequence[Path], settings: MergeSettings, force: bool) -> None:
    """Refuse an output that exists, equals or contains an input, or is inside an adapter or a base.

    Raises:
        ArtifactError: The output exists.
        ConfigError: The output and an input overlap.
    """
    into = [Path(settings.into)] if settings.into else []
    for path in (*paths, *into):
        new, old = real_path(settings.out), real_path(path)
        if new != old and new.is_relative_to(old):
            raise ConfigError(f"--out {settings.out} is inside the input {path}", hint=OTHER_OUT)
    check_output(settings.out, force, [*paths, *settings.inputs()])


def _fingerprint(adapters: Sequence[Adapter]) -> str | None:
    prints = {adapter.record.get("base_fingerprint") for adapter in adapters}
    return prints.pop() if len(prints) == 1 else None
