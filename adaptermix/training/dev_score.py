"""The task's metric on the answers of a model in training to dev prompts."""

from collections.abc import Sequence

from peft import PeftModel

from adaptermix.generation.prompts import PromptEncoder, truncate
from adaptermix.generation.transformers_engine import answer_greedily
from adaptermix.settings.training import TrainJointSettings
from adaptermix.tasks.catalog import make_task


class DevScore:
    """Scores the answers of a model in training to dev prompts with the task's metric."""

    def __init__(
        self,
        settings: TrainJointSettings,
        encoder: PromptEncoder,
        stop_ids: Sequence[int],
        room: int | None = None,
    ) -> None:
        """Read the dev examples.

        Args:
            settings: Settings with the task, its data and the length of answers.
            encoder: Encodes prompts.
            stop_ids: IDs of the tokens that end an answer.
            room: Maximum length of a prompt, in tokens; longer ones are cut as in ``eval``.
        """
        self.tokenizer = encoder.tokenizer
        self.settings = settings
        self.stop_ids = stop_ids
        self.task = make_task(settings.task, settings.prompt, settings.system_prompt)
        self.examples = {
            lang: self.task.read(lang, "dev", settings.data_dir)[: settings.dev_limit]
            for lang in settings.langs
        }
        self.prompts = {
            lang: [
                truncate(encoder.prompt_ids(self.task.messages(example)), room)
                for example in examples
            ]
            for lang, examples in self.examples.items()
        }

    def __call__(self, model: PeftModel) -> float:
        """Return the macro average over languages of the task's first metric."""
        scores = []
        for lang, examples in self.examples.items():
            answers = self._answers(model, self.prompts[lang])
            outcomes = [
                self.task.outcome(example, answer)
                for example, answer in zip(examples, answers, strict=True)
            ]
            scores.append(self.task.score(outcomes).value)
        return sum(scores) / len(scores)

    def _answers(self, model: PeftModel, prompts: Sequence[list[int]]) -> list[str]:
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        answers: dict[int, str] = {}
        size = self.settings.contrastive_batch
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            generated = answer_greedily(
                model,
                self.tokenizer,
                self.stop_ids,
                [prompts[index] for index in batch],
                self.settings.max_new_tokens,
            )
            answers |= {i: answer.text for i, answer in zip(batch, generated, strict=True)}
        return [answers[index] for index in range(len(prompts))]
