"""The training commands."""

from collections.abc import Mapping
from typing import Any

from adaptermix.commands import examples
from adaptermix.commands.command import Call, Command
from adaptermix.files.outputs import Report
from adaptermix.settings.training import (
    TrainAlignSettings,
    TrainJointSettings,
    TrainTaskSettings,
    notes_on_training,
)
from adaptermix.tables import noted
from adaptermix.training.steps import planned_steps


def train_task(call: Call) -> Report:
    """Fine-tune a LoRA on a task in some languages.

    The loss covers the answers only. The defaults are the paper's.

    Examples:
        adaptermix train-task --langs en,de,es

        adaptermix train-task --chat chats.jsonl --model Qwen/Qwen2.5-7B-Instruct
    """
    from adaptermix.training.task import train_task as run

    return run(call.settings, force=call.force, dry_run=call.dry_run, on_progress=call.on_progress)


def train_align(call: Call) -> Report:
    """Train a LoRA that aligns languages at a middle layer.

    A contrastive loss pulls each sentence toward its translation. Only the embeddings and the
    blocks up to that layer are loaded.

    Examples:
        adaptermix train-align --pairs cy-en,sw-en

        adaptermix train-align --pairs cy-en --pairs-dir pairs --layer auto
    """
    from adaptermix.training.align import train_align as run

    return run(call.settings, force=call.force, dry_run=call.dry_run, on_progress=call.on_progress)


def train_joint(call: Call) -> Report:
    """Train one LoRA on a task and on alignment.

    The two losses alternate. The task loss goes through the whole model, the alignment loss
    through the blocks up to the aligned layer.

    Example: adaptermix train-joint --langs en,de,es --pairs cy-en,sw-en
    """
    from adaptermix.training.joint import train_joint as run

    return run(call.settings, force=call.force, dry_run=call.dry_run, on_progress=call.on_progress)


def _remark(settings: Any) -> str | None:
    from adaptermix.training.checkpoints import last_checkpoint, work_folder

    notes = notes_on_training(settings)
    is_one = len(getattr(settings, "temperature", ())) < 2  # several have their own folders
    is_new = not settings.out.exists() and last_checkpoint(work_folder(settings.out)) is None
    if settings.resume and is_one and is_new:
        notes.append("--resume: there is no checkpoint yet; the training starts from the beginning")
    return "\n".join(noted(notes)) or None


def _task_examples(settings: Any) -> dict[str, int]:
    counts = {} if settings.chat is not None else examples.of_task(settings, ("train", "dev"))
    return examples.limited(counts, settings.limit)


def _joint_examples(settings: Any) -> dict[str, int]:
    return examples.of_pairs(settings) | _task_examples(settings)


def _steps(settings: Any, rows: int) -> dict[str, Any]:
    """Return the maximum number of optimizer steps for a number of rows per epoch."""
    return {"planned_steps": planned_steps(settings, rows)}


def _task_size(call: Call, counts: Mapping[str, int]) -> dict[str, Any]:
    return _steps(call.settings, sum(counts.values()))


def _align_size(call: Call, counts: Mapping[str, int]) -> dict[str, Any]:
    """Return the planned steps of all temperatures.

    Every pair is repeated up to the size of the largest.
    """
    of_one = planned_steps(call.settings, max(counts.values()) * len(counts))
    return {"planned_steps": of_one * len(call.settings.temperature)}


def _joint_size(call: Call, counts: Mapping[str, int]) -> dict[str, Any]:
    """Return the planned steps; an epoch has as many sentence pairs as task examples.

    In translation, both have the same names, and ``counts`` has the task examples.
    """
    task = sum(counts.get(lang, 0) for lang in call.settings.langs)
    return _steps(call.settings, 2 * task)


TRAIN_TASK = Command(
    TrainTaskSettings,
    train_task,
    extra="train",
    remark=_remark,
    examples=_task_examples,
    size=_task_size,
)
TRAIN_ALIGN = Command(
    TrainAlignSettings,
    train_align,
    extra="train",
    remark=_remark,
    examples=examples.of_pairs,
    size=_align_size,
)
TRAIN_JOINT = Command(
    TrainJointSettings,
    train_joint,
    extra="train",
    remark=_remark,
    examples=_joint_examples,
    size=_joint_size,
)
