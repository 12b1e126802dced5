"""Evaluation of systems on lm-eval tasks, with one model that switches adapters."""

import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, Generic, TypeVar

from adaptermix.adapters.adapter import Adapter
from adaptermix.adapters.systems import BASE, System
from adaptermix.adapters.writing import stage_adapter
from adaptermix.errors import ConfigError, DataError, ResourceError, first_line
from adaptermix.evaluation.asking import Answered
from adaptermix.evaluation.harness import (
    Harness,
    HarnessOutcome,
    HarnessScores,
    guarded,
    of_task,
    part_of,
    set_seeds,
)
from adaptermix.evaluation.harness_results import CutAnswers, Row, content_key, rows_of
from adaptermix.files.outputs import cache_folder
from adaptermix.generation.answers import AnswerCache
from adaptermix.generation.engine import Generated, shares_any_batch
from adaptermix.generation.own_config import generation_config, greedy_changes
from adaptermix.generation.prompts import PromptedExample
from adaptermix.models.files import context_length, text_model_type
from adaptermix.models.fitting import RowLimit
from adaptermix.models.loading import AdaptedModel, compute_dtype, load_model, tokenizer_hash
from adaptermix.models.systems import Systems
from adaptermix.progress import OnProgress, Progress
from adaptermix.settings.scored import ScoredSettings
from adaptermix.settings.shared import HARNESS
from adaptermix.tables import number_of
from adaptermix.tasks.metrics.metric import Outcome

S = TypeVar("S", bound=ScoredSettings)
_ANSWER_TOKENS = 256  # longest answer if neither the task nor --max-new-tokens sets it


@dataclass(frozen=True)
class HarnessExample:
    """One example of an lm-eval task."""

    id: str
    lang: str
    utterance: str


class HarnessQuestions(Generic[S]):
    """The requests of lm-eval tasks, as the questions for the systems.

    Attributes:
        settings: The settings, with the tasks in place of languages.
        harness: The tasks.
        items: All examples, each with the token IDs of its longest request.
        names: Names of adapters in progress messages, by path; callers may fill it.
        notes: Notes for the user about the data.
    """

    name = HARNESS
    engine = "transformers"
    servers = ()

    def __init__(self, settings: S, systems: Systems, *, is_dev: bool = False) -> None:
        """Load the tasks and build their requests, without a model.

        Args:
            settings: The tasks.
            systems: The base model and the adapters.
            is_dev: Use dev data in place of the data on which lm-eval scores the tasks.
        """
        self.harness = Harness(settings, is_dev=is_dev)
        self.settings = settings.model_copy(update={"langs": tuple(self.harness.tasks)})
        self.items = _items(self.harness, systems)
        self.names: dict[Path, str] = {}
        self.notes = [*self.harness.notes, *_notes_on_generation(self.harness, systems)]
        self._run = _Run(self.harness, systems)
        # IDs of examples without a value, by task and metric, then by adapter.
        self._uncounted: dict[tuple[str, str], dict[Path | None, set[str]]] = {}
        self._cut = Counter[str]()  # answers of candidates that reached the length limit, by task

    @property
    def split(self) -> str:
        """The splits of the examples."""
        return self.harness.split

    @property
    def task(self) -> HarnessScores:
        """The scoring of answers."""
        return self.harness.scores

    @property
    def context(self) -> bytes:
        """Hash of everything that results depend on, except adapters."""
        return content_key({"contexts": self._run.contexts, "requests": self._run.requests})

    @property
    def reused(self) -> int:
        """Number of examples with cached results."""
        return self._run.reused

    @property
    def notes_on_answers(self) -> list[str]:
        """Notes for the user about the results and their cache."""
        uncounted = [
            f"lm-eval task {name}: {len(set().union(*by_adapter.values()))} of "
            f"{number_of(self.harness.counts[name], 'example')} do not count for "
            f"{key.partition(',')[0]}, because lm-eval's value is not a number"
            for (name, key), by_adapter in self._uncounted.items()
        ]
        cut = [
            f"lm-eval task {name}: {number_of(count, 'answer')} of the candidates reached the "
            "length limit and were cut; --max-new-tokens changes the limit"
            for name, count in self._cut.items()
        ]
        return [*self._run.notes, *uncounted, *cut]

    def notes_on(self, adapters: Mapping[str, Adapter]) -> list[str]:
        """Return no notes: no adapter was trained on these prompts."""
        return []

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Create a temporary folder for adapters."""
        with tempfile.TemporaryDirectory(prefix="adaptermix-") as scratch:
            yield Path(scratch)

    def answer(
        self, systems: Systems, tested: Mapping[str, System | None], on_progress: OnProgress
    ) -> Answered:
        """Run lm-eval with every system.

        Raises:
            DataError: A task has no value of a metric for any example.
        """
        with self.staging() as scratch:
            staged = {name: stage_adapter(a, scratch) for name, a in systems.adapters.items()}
            self.names = {path: name for name, path in staged.items()}
            parts = [
                (staged.get(name), list(items))
                for name in tested
                for _, items in groupby(self.items, key=attrgetter("lang"))
            ]
            rows = iter(self._run.rows(parts, self.names, on_progress))
        found = {name: [row for _ in self.harness.tasks for row in next(rows)] for name in tested}
        answers = [[Generated(row.output, row.is_cut) for row in mine] for mine in found.values()]
        outcomes = {
            name: self._outcomes(staged.get(name), self.items, mine) for name, mine in found.items()
        }
        run = self._run
        notes = [*self.notes, *self.notes_on_answers]
        return Answered(answers, outcomes, self.engine, run.decoded, run.reused, notes)

    def outcomes(
        self,
        parts: Sequence[tuple[Path | None, Sequence[PromptedExample]]],
        on_progress: OnProgress,
    ) -> list[list[Outcome]]:
        """Return the outcomes of every part: an adapter, and examples of one task.

        Raises:
            DataError: A task has no value of a metric for any example.
        """
        found = self._run.rows(parts, self.names, on_progress)
        for (_, items), rows in zip(parts, found, strict=True):
            self._cut.update(i.lang for i, row in zip(items, rows, strict=True) if row.is_cut)
        return [
            self._outcomes(adapter, items, rows)
            for (adapter, items), rows in zip(parts, found, strict=True)
        ]

    def _outcomes(
        self, adapter: Path | None, items: Sequence[PromptedExample], rows: Sequence[Row]
    ) -> list[Outcome]:
        """Return the outcomes of examples, with answers after the first metric's filter.

        Metrics whose values are not those that their names promise are renamed.
        """
        keys = self.task.metrics[0].keys
        used = {name: key.partition(",")[2] for name, key in keys.items()}
        for metric in self.task.metrics:
            for item, row in zip(items, rows, strict=True):
                if (key := metric.keys[item.lang]) not in row.values:
                    by_adapter = self._uncounted.setdefault((item.lang, key), {})
                    by_adapter.setdefault(adapter, set()).add(item.example.id)
        self._check_values(adapter)
        outcomes: list[Outcome] = [
            HarnessOutcome(
                row.predicted.get(used[item.lang], row.output),
                row.expected,
                lang=item.lang,
                values=row.values,
            )
            for item, row in zip(items, rows, strict=True)
        ]
        self.harness.scores = self.task.named_by(outcomes)
        return outcomes

    def _check_values(self, adapter: Path | None) -> None:
        """Refuse a task without any value of a metric: its score would be 0."""
        for (name, key), by_adapter in self._uncounted.items():
            if len(by_adapter.get(adapter, ())) == self.harness.counts[name]:
                system = BASE if adapter is None else self.names.get(adapter, adapter.name)
                raise DataError(
                    f"lm-eval task {name}: {key.partition(',')[0]} of {system} is not a number "
                    "for any example",
                    hint="choose another metric of the task: --metrics NAME",
                )


def _notes_on_generation(harness: Harness, systems: Systems) -> list[str]:
    """Note that lm-eval decodes with the model's generation config, which other tasks ignore."""
    changes = greedy_changes(systems.folder)
    if not changes or all(t.OUTPUT_TYPE != "generate_until" for t in harness.tasks.values()):
        return []
    named = ", ".join(f"{key} = {value}" for key, value in changes.items())
    return [
        f"lm-eval applies the generation_config.json of {systems.base} ({named}) when it generates "
        "answers; other tasks, and lm-eval with vLLM, do not"
    ]


def _items(harness: Harness, systems: Systems) -> list[PromptedExample]:
    """Return the examples of all tasks.

    Raises:
        ConfigError: Answers may be as long as the model's context.
    """
    items = []
    for name, task in harness.tasks.items():
        room = _room(name, task, context_length(systems.folder))
        requests: dict[int, list[str]] = {}
        for instance in task.instances:
            texts = [part for part in instance.args if isinstance(part, str)]
            requests.setdefault(instance.doc_id, [texts[0]]).append("".join(texts))
        for number, (first, *asked) in sorted(requests.items()):
            ids = max((systems.tokenizer(text)["input_ids"] for text in asked), key=len)
            example = HarnessExample(str(number), name, first)
            items.append(PromptedExample(name, example, ids, len(ids) > room))
    return items


def _room(name: str, task: Any, context: int | None) -> int:
    """Return how many tokens of a request fit the model; lm-eval truncates longer ones."""
    if context is None or task.OUTPUT_TYPE == "loglikelihood_rolling":  # split into windows
        return sys.maxsize
    if task.OUTPUT_TYPE != "generate_until":
        return context + 1  # the last token is predicted, but not read
    given = task.get_config("generation_kwargs") or {}
    answer = int(given.get("max_gen_toks") or _ANSWER_TOKENS)
    if answer >= context:
        raise ConfigError(
            f"lm-eval task {name} asks for answers of up to {answer} tokens, but the "
            f"model's context is {context} tokens",
            hint="lower --max-new-tokens",
        )
    return context - answer


class _Run:
    """Evaluates systems on tasks; the base model is loaded when it is first needed.

    Attributes:
        contexts: By task, a hash of everything that results depend on, except the adapter and the
            example's requests.
        can_batch: Whether transformers can answer any requests of this model in one batch.
        rows_at_once: Maximum number of requests in a batch.
        decoded: Number of evaluated examples.
        reused: Number of examples with cached results.
    """

    def __init__(self, harness: Harness, systems: Systems) -> None:
        """Set up the evaluation on the tasks."""
        self.harness = harness
        self.settings = harness.settings
        self.systems = systems
        self.decoded = self.reused = 0
        self.can_batch = shares_any_batch(text_model_type(systems.folder))
        self.rows_at_once = self.settings.batch_size if self.can_batch else 1
        self.limit = RowLimit(self.rows_at_once)
        self._cache = AnswerCache(cache_folder()) if self.settings.cache else None
        self._lm: Any = None
        self._cut: CutAnswers | None = None
        self._adapted: AdaptedModel | None = None

    @property
    def notes(self) -> list[str]:
        """Notes for the user about the cache of results."""
        return self._cache.notes if self._cache else []

    @cached_property
    def contexts(self) -> dict[str, str]:
        """Return hashes by task."""
        shared = {
            "base": self.systems.weights_hash,
            "dtype": str(compute_dtype(self.settings)),
            "tokenizer": tokenizer_hash(self.systems.tokenizer),
            "generation_config": generation_config(self.systems.folder),
            "versions": {name: version(name) for name in ("lm-eval", "transformers", "peft")},
            "code": _code_beside(self.settings.lm_eval_path),
        }
        configs = {
            name: {**task.dump_config(), "metadata": task.VERSION}
            for name, task in self.harness.tasks.items()
        }
        known = content_key(shared).hex()
        return {
            name: content_key({"shared": known, "config": config}).hex()
            for name, config in configs.items()
        }

    @cached_property
    def requests(self) -> dict[str, dict[int, str]]:
        """Hashes of the requests of each example, by task."""
        found: dict[str, dict[int, list[Any]]] = {name: {} for name in self.harness.tasks}
        for name, task in self.harness.tasks.items():
            for instance in task.instances:
                found[name].setdefault(instance.doc_id, []).append((instance.doc, instance.args))
        return {
            name: {at: content_key({"asked": asked}).hex() for at, asked in each.items()}
            for name, each in found.items()
        }

    def rows(
        self,
        parts: Sequence[tuple[Path | None, Sequence[PromptedExample]]],
        names: Mapping[Path, str],
        on_progress: OnProgress,
    ) -> list[list[Row]]:
        """Return the results of every part: an adapter or the base model, and examples of a task.

        The results of a part are cached together when they are complete.

        Raises:
            DataError: A task fails.
            ResourceError: There is not enough memory.
        """
        total = sum(len(items) for _, items in parts)
        found: list[list[Row]] = []
        for adapter, items in parts:
            if items:
                system = BASE if adapter is None else names.get(adapter, adapter.name)
                done = sum(map(len, found))
                told = f"{system} on {items[0].lang}"
                on_progress(Progress("evaluating", done, total, told))
            found.append(self._results(adapter, items, on_progress) if items else [])
        on_progress(Progress("evaluating", total, total))
        return found

    def _results(
        self, adapter: Path | None, items: Sequence[PromptedExample], on_progress: OnProgress
    ) -> list[Row]:
        """Return the results of examples of one task: cached ones, and the others from lm-eval."""
        name, system = items[0].lang, adapter and adapter.name
        numbers = [int(item.example.id) for item in items]
        keys = {
            at: content_key(
                {
                    "context": self.contexts[name],
                    "adapter": system,
                    "requests": self.requests[name][at],
                }
            )
            for at in numbers
        }
        known = self._cache.get(list(keys.values())) if self._cache else {}
        missing = [at for at in sorted(numbers) if keys[at] not in known]
        if missing:
            made = self._ask(name, adapter, missing, on_progress)
            new = {keys[at]: row.as_answer() for at, row in zip(missing, made, strict=True)}
            if self._cache:
                self._cache.put(new)
            known |= new
        self.decoded += len(missing)
        self.reused += len(items) - len(missing)
        return [Row.stored(known[keys[at]]) for at in numbers]

    def _ask(
        self, name: str, adapter: Path | None, numbers: Sequence[int], on_progress: OnProgress
    ) -> list[Row]:
        """Return the results of lm-eval for examples of a task."""
        from lm_eval.evaluator import evaluate

        task = self.harness.tasks[name]
        with guarded(self.settings):
            lm, cut = self._switched_to(adapter, on_progress)

            def attempt(rows: int) -> Any:
                set_seeds(task)
                cut.start()
                lm.batch_size_per_gpu = rows
                return evaluate(
                    lm=lm,
                    task_dict={"tasks": {name: part_of(task, set(numbers))}},
                    bootstrap_iters=0,
                    log_samples=True,
                )

            with of_task(name):
                found = self.limit.run(self.rows_at_once, attempt, _refusal)
        return rows_of(found["samples"][name], cut.contexts)

    def _switched_to(self, adapter: Path | None, on_progress: OnProgress) -> tuple[Any, CutAnswers]:
        """Return lm-eval's model with this adapter, or with none, and what watches it."""
        from lm_eval.models.huggingface import HFLM

        if self._adapted is None or self._cut is None:
            on_progress(Progress("loading the model", 0, None))
            self._adapted = AdaptedModel(load_model(self.systems.folder, self.settings))
            self._lm = HFLM(
                pretrained=self._adapted.model,
                tokenizer=self.systems.tokenizer,
                batch_size=self.rows_at_once,
            )
            self._cut = CutAnswers(self._lm)
        self._adapted.switch_to(adapter)
        self._lm._model = self._adapted.model  # PEFT wraps the base when it loads an adapter
        return self._lm, self._cut


def _refusal(rows: int, error: RuntimeError) -> ResourceError:
    return ResourceError(
        f"not enough memory for one request: {first_line(error)}",
        hint="use --dtype bfloat16, which needs less memory than float32",
    )


def _code_beside(folder: Path | None) -> list[str]:
    """Return the Python files in a folder of tasks, which may define functions of tasks."""
    return [path.read_text("utf-8") for path in sorted(folder.rglob("*.py"))] if folder else []
