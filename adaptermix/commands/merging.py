"""``merge``, with its search, ``inspect`` and ``export``."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adaptermix.commands import examples
from adaptermix.commands.command import Argument, Call, Command, Maker
from adaptermix.errors import require_extra
from adaptermix.files.outputs import Report
from adaptermix.settings.export import ExportSettings
from adaptermix.settings.merging import SearchSettings
from adaptermix.settings.reports import InspectSettings
from adaptermix.settings.shared import HARNESS, flag_of, harness_tasks, notes_on_languages
from adaptermix.tables import noted


def merge(call: Call) -> Report:
    """Merge adapters into one, without loading the base model.

    The default method, exact, gives the weighted sum of the adapters' delta weights. To truncate a
    single adapter, use --weights 1 --rank N.

    Examples:
        adaptermix merge task.safetensors align.safetensors --weight 0.9

        adaptermix merge task align style --weights 0.8,0.1,0.1 --method ties

        adaptermix merge task align --search 0.5,0.7,0.9 --langs en,cy

        adaptermix merge task align --search 0.7,0.9 --per-language -o family

        adaptermix merge task align --weight 0.9 --into base -o model

    More options with --search: adaptermix merge --search auto --help
    """
    if call.settings.search is not None:
        return _search(call)
    _keep_to_one_thread()
    if call.settings.into is not None:
        from adaptermix.merging.fold import merge_into as run
    else:
        from adaptermix.merging.merge import merge as run
    return run(call.inputs, call.settings, force=call.force, dry_run=call.dry_run)


def _keep_to_one_thread() -> None:
    """Limit BLAS to one thread before NumPy is imported: more threads slow small products down."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def _search(call: Call) -> Report:
    needs_torch = not call.settings.server or call.settings.search == "learn"
    extra = HARNESS if harness_tasks(call.settings.task) else "eval"
    require_extra("search")  # first: it includes eval
    require_extra(extra if needs_torch else "server")
    if call.settings.per_language:
        from adaptermix.search.by_language import plan_by_language, search_by_language

        if call.dry_run:
            return plan_by_language(call.inputs, call.settings, force=call.force)
        return search_by_language(
            call.inputs, call.settings, force=call.force, on_progress=call.on_progress
        )
    from adaptermix.search.run import plan_search, search

    if call.dry_run:
        return plan_search(call.inputs, call.settings, force=call.force)
    return search(call.inputs, call.settings, force=call.force, on_progress=call.on_progress)


def inspect(call: Call) -> Report:
    """Show what adapters contain, and where they interfere.

    Shows rank, modules, norms of the delta weights, base model and origin. For each pair of
    adapters, shows the cosine of their delta weights and the overlap of their subspaces by layer.
    For a family (merge --per-language), also shows its routes. Needs no base model.

    Examples:
        adaptermix inspect task.safetensors

        adaptermix inspect task.safetensors align.safetensors --by kind
    """
    _keep_to_one_thread()
    from adaptermix.adapters.inspection import inspect as run

    return run(call.inputs, call.settings)


def export(call: Call) -> Report:
    """Write an adapter for llama.cpp, Ollama or mlx-lm.

    Writes a LoRA in GGUF with a Modelfile for Ollama (--to gguf), or a folder for mlx-lm (--to
    mlx). Only the base model's config is needed, not its weights.

    Examples:
        adaptermix export merged.safetensors --to gguf -o merged-gguf

        adaptermix export merged.safetensors --to mlx -o merged-mlx
    """
    _keep_to_one_thread()
    from adaptermix.export.export import export as run

    return run(call.inputs, call.settings, force=call.force, dry_run=call.dry_run)


def _search_examples(settings: Any) -> dict[str, int]:
    """Count the dev examples of a search; a plain merge reads no data."""
    if settings.search is None:
        return {}
    if harness_tasks(settings.task):
        return examples.of_harness(settings, is_dev=True)
    counts = examples.of_task(settings, ("dev",), may_lack=settings.per_language)
    return examples.limited(counts, settings.limit)


def _remark(settings: Any) -> str | None:
    notes = [] if settings.search is None else notes_on_languages(settings)
    notes += _notes_on_search(settings)
    return "\n".join(noted(notes)) or None


def _notes_on_search(settings: Any) -> list[str]:
    """Note options of another kind of search."""
    kinds = {name: "auto" for name in ("layer_groups", "trials", "sampler")}
    kinds |= {name: "learn" for name in ("learn_per", "learn_steps", "learn_lr", "learn_penalty")}
    return [
        f"{flag_of(name)} has no effect without --search {kind}"
        for name, kind in kinds.items()
        if settings.search not in (None, kind) and name in settings.model_fields_set
    ]


def _search_size(call: Call, counts: Mapping[str, int]) -> dict[str, Any]:
    if call.settings.search is None:
        return {}
    from adaptermix.search.candidates import first_candidates, merges_with_first

    names = [path.name.removesuffix(".safetensors") for path in call.inputs]
    if call.settings.per_language:
        merges = merges_with_first(names, call.settings)
        return {"candidates": [names[0], *(found.name for found in merges)]}
    return {"candidates": [found.name for found in first_candidates(names, call.settings)]}


def _check_merge(call: Call, maker: Maker) -> None:
    from adaptermix.merging.weights import read_weights

    file = call.settings.weights_file
    if call.settings.search is not None:
        from adaptermix.search.run import check_search

        check_search([Path(path) for path in call.inputs], call.settings)
        if not harness_tasks(call.settings.task):
            from adaptermix.tasks.catalog import make_task
            from adaptermix.tasks.metrics.text import require_comet

            require_comet(make_task(call.settings.task, options=call.settings).metrics[0])
    elif file is None or (file.is_file() and maker(file) is None):  # a step may write it anew
        read_weights(len(call.inputs), call.settings)


MERGE = Command(
    SearchSettings,
    merge,
    Argument("adapters", "Adapters to merge, in the order of the weights.", "adapters"),
    remark=_remark,
    examples=_search_examples,
    size=_search_size,
    check=_check_merge,
)
INSPECT = Command(
    InspectSettings,
    inspect,
    Argument("adapters", "Adapters: files, folders, or names on the Hub (OWNER/NAME).", "adapters"),
    output=".json",
    can_dry_run=False,
    shows_progress=False,
)
EXPORT = Command(
    ExportSettings,
    export,
    Argument("adapters", "The adapter: a file, a folder, or a name on the Hub.", "adapters"),
    output="folder",
    shows_progress=False,
)
