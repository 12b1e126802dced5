"""``eval``, ``score`` and ``retrieval``."""

from collections.abc import Mapping
from typing import Any

from adaptermix.commands import examples
from adaptermix.commands.command import Call, Command, Maker
from adaptermix.errors import ConfigError
from adaptermix.files.hub import path_of
from adaptermix.files.outputs import Report
from adaptermix.settings.evaluation import EvalSettings, RetrievalSettings, ScoreSettings
from adaptermix.settings.shared import harness_tasks


def evaluate(call: Call) -> Report:
    """Score the base model and adapters on a task, language by language.

    Shows the difference between each system and the baseline with its interval, and writes every
    answer as a JSON record.

    Examples:
        adaptermix eval --task massive

        adaptermix eval --adapter task --adapter merged --langs en,cy

        adaptermix eval --adapter merged --groups "aligned=cy,sw;other=de,fr"

        adaptermix eval --task lm-eval:mgsm_direct_sw,belebele_swh_Latn
    """
    from adaptermix.evaluation.evaluate import evaluate as run
    from adaptermix.evaluation.evaluate import plan

    if call.dry_run:
        return plan(call.settings, force=call.force)
    return run(call.settings, force=call.force, on_progress=call.on_progress)


def score(call: Call) -> Report:
    r"""Score existing outputs of any system, without a model.

    The predictions have one line, or one JSON record with an "output" field, per gold row.

    Examples:
        adaptermix score --lang cy --gold cy-GB.jsonl.gz --predictions out.txt

        adaptermix score --task wmt23 --src en.txt --ref de.txt \
            --target-lang de --predictions out.txt --metrics bleu,chrf,comet

        adaptermix score --task uner --lang da --gold da.iob2 --predictions a.txt
    """
    from adaptermix.evaluation.score import score_files

    return score_files(call.settings)


def retrieval(call: Call) -> Report:
    """Measure where languages are aligned: translation retrieval at every layer.

    A sentence is represented by the mean of its hidden states. LASER's margin score finds its
    nearest sentence in the other language, for the base model and each adapter.

    Examples:
        adaptermix retrieval --data flores200 --langs en,de,cy,sw

        adaptermix retrieval --adapter merged.safetensors --data flores200

        adaptermix retrieval --data flores200 --scores eval-massive
    """
    from adaptermix.retrieval.analysis import analyze, plan

    if call.dry_run:
        return plan(call.settings, force=call.force)
    return analyze(call.settings, force=call.force, on_progress=call.on_progress)


def _without_adapters(settings: Any) -> str | None:
    if settings.adapters:
        return None
    return "only the base model is tested; add adapters with --adapter PATH"


def _eval_examples(settings: Any) -> dict[str, int]:
    if harness_tasks(settings.task):
        return examples.of_harness(settings)
    return examples.limited(examples.of_task(settings, (settings.split,)), settings.limit)


def _eval_size(call: Call, counts: Mapping[str, int]) -> dict[str, Any]:
    return {"systems": len(call.settings.adapters) + (not call.settings.exclude_base)}


def _check_eval(call: Call, maker: Maker) -> None:
    from adaptermix.adapters.systems import systems_of
    from adaptermix.tasks.catalog import make_task
    from adaptermix.tasks.metrics.text import require_comet, without_missing_comet

    settings = call.settings
    systems_of(settings)
    if harness_tasks(settings.task):  # their names are checked when they are loaded
        return
    settings, _ = without_missing_comet(settings)
    task = make_task(settings.task, settings.prompt, settings.system_prompt, settings)
    for metric in task.metrics:
        require_comet(metric)


def _sentences(settings: Any) -> dict[str, int]:
    counts = {} if settings.data_dir is None else examples.of_sentences(settings)
    return examples.limited(counts, settings.limit)


def _check_retrieval(call: Call, maker: Maker) -> None:
    from adaptermix.adapters.systems import system_names
    from adaptermix.retrieval.analysis import language_pairs
    from adaptermix.retrieval.task_scores import match_languages, read_scores

    settings = call.settings
    system_names(map(path_of, settings.adapters))
    language_pairs(settings.langs, settings.pivot)
    if settings.scores is None:
        return
    made = maker(settings.scores)
    if made is None:
        read_scores(settings.scores, settings.langs)
    elif made.command != EVAL.name:
        raise ConfigError(
            f"scores: @{made.step} runs {made.command}, not eval",
            hint='name a step with command = "eval"',
        )
    else:
        match_languages(made.settings.langs, settings.langs, f"@{made.step}")


EVAL = Command(
    EvalSettings,
    evaluate,
    output="folder",
    extra="eval",
    remark=_without_adapters,
    examples=_eval_examples,
    size=_eval_size,
    check=_check_eval,
)
SCORE = Command(ScoreSettings, score, output=".json", can_dry_run=False, shows_progress=False)
RETRIEVAL = Command(
    RetrievalSettings,
    retrieval,
    output="folder",
    extra="eval",
    examples=_sentences,
    check=_check_retrieval,
)
