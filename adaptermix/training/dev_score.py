"""The task's metric on the answers of a model in training to dev prompts."""

from collections.abc import Sequence

from peft import PeftModel

from adaptermix.generation.engine import Generated
from adaptermix.generation.prompts import PromptEncoder, truncate
from adaptermix.generation.transformers_engine import answer_greedily, no_memory_to_answer
from adaptermix.models.fitting import RowLimit
from adaptermix.settings.training import TrainJointSettings
from adaptermix.tasks.catalog import make_task
from adaptermix.tasks.metrics.metric import prepare
from adaptermix.tasks.metrics.text import require_comet


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

        Raises:
            DataError: The task's metric does not know the language of an example.
            ArtifactError: The COMET model does not exist or is not a checkpoint.
            ResourceError: COMET or a tokenizer that the metric needs is not installed.
        """
        self.tokenizer = encoder.tokenizer
        self.settings = settings
        self.stop_ids = stop_ids
        self.limit = RowLimit(settings.contrastive_batch)
        self.task = make_task(settings.task, settings.prompt, settings.system_prompt)
        require_comet(self.task.metrics[0])
        self.examples = {
            lang: self.task.read(lang, "dev", settings.data_dir)[: settings.dev_limit]
            for lang in settings.langs
        }
        self.task.check_metrics([example for each in self.examples.values() for example in each])
        self.prompts = {
            lang: [
                truncate(encoder.prompt_ids(self.task.messages(example)), room)
                for example in examples
            ]
            for lang, examples in self.examples.items()
        }

    def __call__(self, model: PeftModel) -> float:
        """Return the macro average over languages of the task's first metric."""
        found = []
        for lang, examples in self.examples.items():
            answers = self._answers(model, self.prompts[lang])
            found.append(
                [
                    self.task.outcome(example, answer)
                    for example, answer in zip(examples, answers, strict=True)
                ]
            )
        prepare(self.task.metrics[0], found)
        return sum(self.task.score(outcomes).value for outcomes in found) / len(found)

    def _answers(self, model: PeftModel, prompts: Sequence[list[int]]) -> list[str]:
        """Answer prompts in batches by length, or in smaller ones if memory runs out."""
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))

        def answer(batch: Sequence[list[int]]) -> list[Generated]:
            length = self.settings.max_new_tokens
            return answer_greedily(model, self.tokenizer, self.stop_ids, batch, length)

        parts = self.limit.parts([prompts[at] for at in order], answer, no_memory_to_answer)
        texts = dict(zip(order, (each.text for part in parts for each in part), strict=True))
        return [texts[index] for index in range(len(prompts))]
