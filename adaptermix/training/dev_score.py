"""The task's metric on the answers of a model in training to dev prompts."""

from collections.abc import Sequence

from peft import PeftModel

from adaptermix.generation.engine import Generated
from adaptermix.generation.prompts import PromptEncoder, truncate
from adaptermix.generation.transformers_engine import answer_greedily, no_memory_to_answer
from adaptermix.models.fitting import RowLimit
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
        self.limit = RowLimit(settings.contrastive_batch)
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
        """Answer prompts in batches by length, or in smaller ones if memory runs out."""
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))

        def answer(batch: Sequence[list[int]]) -> list[Generated]:
            length = self.settings.max_new_tokens
            return answer_greedily(model, self.tokenizer, self.stop_ids, batch, length)

        parts = self.limit.parts([prompts[at] for at in order], answer, no_memory_to_answer)
        texts = dict(zip(order, (each.text for part in parts for each in part), strict=True))
        return [texts[index] for index in range(len(prompts))]
