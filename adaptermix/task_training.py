"""Fine-tune a LoRA on a task; the loss is on the answers only."""

from transformers import Trainer, set_seed

from adaptermix.batching import AnswerCollator, EncodedExample, PromptEncoder, encode_example
from adaptermix.config import TrainTaskSettings
from adaptermix.errors import DataError
from adaptermix.models import load_model, load_tokenizer, locate_model
from adaptermix.tasks import make_task
from adaptermix.training import (
    OnProgress,
    Stream,
    TrainingRun,
    TrainReport,
    check_training,
    plan_training,
    with_lora,
)


def train_task(
    settings: TrainTaskSettings,
    *,
    force: bool = False,
    dry_run: bool = False,
    on_progress: OnProgress = lambda progress: None,
) -> TrainReport:
    """Fine-tune a LoRA on the task data of some languages; loss on the answers only.

    Raises:
        ConfigError: Settings that contradict each other.
        DataError: Missing or malformed data.
        ArtifactError: A model that cannot be used, or an output that exists.
    """
    micro = check_training(settings, settings.micro_batch_size, "--micro-batch-size", force)
    folder = locate_model(settings)
    tokenizer = load_tokenizer(folder, settings)
    stream = _task_stream(settings, PromptEncoder(tokenizer, turn_newline=settings.turn_newline))
    if dry_run:
        return plan_training(settings, stream)
    set_seed(settings.seed)
    model = with_lora(load_model(folder, settings), settings, "CAUSAL_LM")
    collator = AnswerCollator(int(tokenizer.pad_token_id or 0))
    run = TrainingRun(settings, folder, stream, micro, collator, on_progress)
    return run.train(model, Trainer, force)


def _task_stream(settings: TrainTaskSettings, encoder: PromptEncoder) -> Stream:
    task = make_task(settings.task, settings.prompt, settings.system_prompt)
    rows: dict[str, list[EncodedExample]] = {"train": [], "dev": []}
    counts: dict[str, dict[str, int]] = {"train": {}, "dev": {}}
    lost = 0
    for lang in settings.langs:
        for split, limit in (("train", settings.limit), ("dev", settings.dev_limit)):
            examples = task.read(lang, split, settings.data_dir)[:limit]  # type: ignore[arg-type]
            encoded = [
                encode_example(
                    encoder.prompt_ids(task.messages(example)),
                    encoder.answer_ids(task.answer(example)),
                    settings.max_length,
                )
                for example in examples
            ]
            kept = [row for row in encoded if row is not None]
            lost += len(encoded) - len(kept)
            counts[split][lang] = len(kept)
            rows[split].extend(kept)
    if not rows["train"] or not rows["dev"]:
        raise DataError(f"every prompt is longer than --max-length {settings.max_length}")
    return Stream(rows["train"], rows["dev"], counts["train"], counts["dev"], lost)
