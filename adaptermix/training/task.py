"""Fine-tune a LoRA on a task, with the loss on answers only."""

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from peft import PeftModel
from transformers import set_seed

from adaptermix.data.chats import read_chats
from adaptermix.data.sampling import hold_out
from adaptermix.errors import DataError
from adaptermix.generation.prompts import PromptEncoder
from adaptermix.models.blocks import empty_model
from adaptermix.models.fitting import give_back_between_blocks
from adaptermix.models.kernels import check_kernels, faster_blocks
from adaptermix.models.loading import load_model
from adaptermix.models.lora import with_lora
from adaptermix.models.lora_linear import speed_up
from adaptermix.models.stacking import add_stack
from adaptermix.processes import process_count
from adaptermix.progress import OnProgress, ignore, tell
from adaptermix.settings.training import TrainJointSettings, TrainTaskSettings
from adaptermix.tasks.catalog import make_task
from adaptermix.training.base import open_base
from adaptermix.training.batches import (
    AnswerCollator,
    EncodedExample,
    answer_length,
    encode_chat,
    encode_example,
    padded_length,
)
from adaptermix.training.memory import Pass, footprint
from adaptermix.training.preview import preview
from adaptermix.training.report import TrainingData, TrainReport, plan_training
from adaptermix.training.run import TrainingRun, check_training, finished_report
from adaptermix.training.trainer import AdapterTrainer, NamedCollator

TaskSettings = TrainTaskSettings | TrainJointSettings


def train_task(
    settings: TrainTaskSettings,
    *,
    force: bool = False,
    dry_run: bool = False,
    on_progress: OnProgress = ignore,
) -> TrainReport:
    """Fine-tune a LoRA on the task data of some languages, with the loss on answers only.

    Raises:
        ConfigError: Settings that contradict each other.
        DataError: Missing or malformed data.
        ArtifactError: The model cannot be used, or the output exists.
        ResourceError: A compiler, a package or a GPU is missing.
    """
    if (finished := finished_report(settings, force)) is not None:
        return finished
    micro = min(settings.micro_batch_size, settings.batch_size // process_count())
    check_training(settings, micro, "--micro-batch-size", force)
    if not dry_run:
        check_kernels(settings)
    base = open_base(settings)
    encoder = PromptEncoder.of(base.tokenizer, settings)
    data = task_data(settings, encoder, on_progress)
    data = base.check_rows(data)
    if dry_run:
        empty = with_lora(empty_model(base.folder, settings), settings, "CAUSAL_LM")
        tell(on_progress, base.notes)
        plan = plan_training(
            settings, data, footprint(empty, [task_pass(micro, data.train)], settings)
        )
        return replace(plan, preview=preview(data.train, base.tokenizer))
    set_seed(settings.seed)
    whole = add_stack(load_model(base.folder, settings), base.stack)
    adapted = with_lora(whole, settings, "CAUSAL_LM")
    if not settings.compile:  # the compiler fuses the steps of PEFT's own layers
        spare_memory(adapted)
    run = TrainingRun(settings, base, data, micro, on_progress)
    kind = partial(AdapterTrainer, data_collator=NamedCollator(AnswerCollator(base.pad)))
    with faster_blocks(adapted, settings):
        return run.train(adapted, kind, force)


def spare_memory(model: PeftModel) -> None:
    """Make a forward pass keep little more than the graph needs, with equal results."""
    speed_up(model)
    give_back_between_blocks(model.get_base_model())


def task_pass(rows: int, examples: Sequence[EncodedExample]) -> Pass:
    """Return the largest possible pass of a batch of these examples."""
    longest = max(map(answer_length, examples))
    return Pass(rows, max(map(padded_length, examples)), answers=rows * longest)


def task_data(
    settings: TaskSettings, encoder: PromptEncoder, on_progress: OnProgress = ignore
) -> TrainingData:
    """Read and encode the training and dev rows of a task, or of the user's conversations.

    Raises:
        DataError: Missing or malformed data, or no answer fits.
    """
    if settings.chat is not None:
        return _chat_data(settings, settings.chat, encoder, on_progress)
    task = make_task(settings.task, settings.prompt, settings.system_prompt)
    task.check_langs(settings.langs, ("train", "dev"), settings.data_dir)
    rows: dict[str, list[EncodedExample]] = {"train": [], "dev": []}
    counts: dict[str, dict[str, int]] = {"train": {}, "dev": {}}
    answers: dict[str, list[str]] = {lang: [] for lang in settings.langs}
    lost = 0
    for lang in settings.langs:
        for split, limit in (("train", settings.limit), ("dev", settings.dev_limit)):
            examples = task.read(lang, split, settings.data_dir)[:limit]  # type: ignore[arg-type]
            given = [task.answer(example) for example in examples]
            answers[lang] += given
            encoded = [
                encode_example(
                    encoder.prompt_ids(task.messages(example)),
                    encoder.answer_ids(answer),
                    settings.max_length,
                    f"{lang}:{example.id}",
                )
                for example, answer in zip(examples, given, strict=True)
            ]
            kept = [row for row in encoded if row is not None]
            lost += len(encoded) - len(kept)
            counts[split][lang] = len(kept)
            rows[split].extend(kept)
    encoder.note_on_answers(answers)
    if not rows["train"] or not rows["dev"]:
        raise DataError(
            f"every prompt is longer than --max-length {settings.max_length}",
            hint="raise --max-length",
        )
    return TrainingData(
        rows["train"],
        rows["dev"],
        counts["train"],
        counts["dev"],
        truncated=lost,
        notes=encoder.notes,
    )


def _chat_data(
    settings: TaskSettings, path: Path, encoder: PromptEncoder, on_progress: OnProgress
) -> TrainingData:
    """Encode conversations; without a dev file, hold some out."""
    chats = read_chats(path, settings.columns, settings.limit, on_progress)
    if settings.dev_chat is not None:
        dev = read_chats(settings.dev_chat, settings.columns, settings.dev_limit, on_progress)
    else:
        most = settings.dev_limit or 100
        chats, dev = hold_out(chats, most, random.Random(settings.seed))
    if not chats:
        raise DataError(
            f"{path}: only one conversation, but training and dev data need one each",
            hint="add conversations, or name dev data: --dev-chat",
        )
    asked = [[chat.with_system(settings.system_prompt) for chat in part] for part in (chats, dev)]
    encoded = [[encode_chat(c, encoder, settings.max_length) for c in part] for part in asked]
    kept = [[row for rows in part for row in rows] for part in encoded]
    lost = sum(not rows for part in encoded for rows in part)
    if not all(kept):
        raise DataError(
            f"{path}: no assistant answer fits in --max-length {settings.max_length} (training "
            f"conversations: {len(chats)}, dev conversations: {len(dev)})",
            hint="an answer is an assistant message, with text or a tool call, after a user "
            "message; to allow longer answers, raise --max-length",
        )
    train_count, dev_count = (sum(map(bool, part)) for part in encoded)
    dropped = {"chat": {"no answer within --max-length": lost}} if lost else {}
    return TrainingData(
        kept[0],
        kept[1],
        {"chat": train_count},
        {"chat": dev_count},
        dropped=dropped,
        notes=encoder.notes,
    )
