"""Evaluation of systems on tasks of lm-eval, with one model that switches adapters."""

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from adaptermix.adapters.adapter import Adapter
from adaptermix.adapters.systems import System
from adaptermix.adapters.writing import stage_adapter
from adaptermix.errors import ConfigError, ResourceError, first_line
from adaptermix.evaluation.asking import Answered
from adaptermix.evaluation.harness import (
    Harness,
    HarnessOutcome,
    HarnessScores,
    guarded,
    of_task,
    sow,
)
from adaptermix.evaluation.harness_results import HarnessResults, Row, content_key
from adaptermix.generation.engine import Generated
from adaptermix.generation.prompts import PromptedExample
from adaptermix.models.files import context_length
from adaptermix.models.fitting import RowLimit
from adaptermix.models.loading import AdaptedModel, compute_dtype, load_model
from adaptermix.models.systems import Systems
from adaptermix.progress import OnProgress, Progress
from adaptermix.settings.evaluation import EvalSettings
from adaptermix.settings.shared import HARNESS
from adaptermix.tasks.metrics.metric import Outcome

_ANSWER_TOKENS = 256  # longest answer if neither the task nor --max-new-tokens sets it


@dataclass(frozen=True)
class HarnessExample:
    """One example of a task of lm-eval."""

    id: str
    lang: str
    utterance: str


class HarnessQuestions:
    """The requests of lm-eval's tasks, as the questions for the systems.

    Attributes:
        settings: The settings, with the tasks in place of languages.
        harness: The tasks.
        items: All examples, each with the token IDs of its longest request.
    """

    name = HARNESS
    servers = ()
    notes = ()

    def __init__(self, settings: EvalSettings, systems: Systems) -> None:
        """Load the tasks and build their requests, without a model."""
        self.harness = Harness(settings)
        self.settings = settings.model_copy(update={"langs": tuple(self.harness.tasks)})
        self.items = _items(self.harness, systems)

    @property
    def split(self) -> str:
        """The splits of the examples."""
        return self.harness.split

    @property
    def task(self) -> HarnessScores:
        """The scoring of answers."""
        return self.harness.scores

    def notes_on(self, adapters: Mapping[str, Adapter]) -> list[str]:
        """Return no notes: no adapter was trained on these prompts."""
        return []

    def answer(
        self, systems: Systems, tested: Mapping[str, System | None], on_progress: OnProgress
    ) -> Answered:
        """Run lm-eval with every system."""
        run = _Run(self.harness, systems, on_progress)
        found = run.rows({name: systems.adapters.get(name) for name in tested})
        answers = [
            [Generated(row.output, False) for rows in by_task.values() for row in rows]
            for by_task in found.values()
        ]
        outcomes = {
            system: [o for task, rows in by_task.items() for o in self._outcomes(task, rows)]
            for system, by_task in found.items()
        }
        return Answered(answers, outcomes, "transformers", run.decoded, run.reused, run.notes)

    def _outcomes(self, task: str, rows: Sequence[Row]) -> list[Outcome]:
        """Return the outcomes of a task, with answers after the first metric's filter."""
        used = self.task.metrics[0].keys[task].partition(",")[2]
        return [
            HarnessOutcome(
                row.predicted.get(used, row.output), row.expected, lang=task, values=row.values
            )
            for row in rows
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
            f"lm-eval's task {name} asks for up to {answer} tokens, but the model has a context "
            f"of {context}",
            hint="use a smaller --max-new-tokens",
        )
    return context - answer


class _Run:
    """Evaluates every system on every task; the base model is loaded when first needed.

    Attributes:
        decoded: Number of evaluated examples.
        reused: Number of examples with cached results.
        notes: Notes for the user about the cache of results.
    """

    def __init__(self, harness: Harness, systems: Systems, on_progress: OnProgress) -> None:
        """Set up the evaluation of systems on the tasks."""
        self.harness = harness
        self.settings = harness.settings
        self.systems = systems
        self.on_progress = on_progress
        self.decoded = self.reused = 0
        self.limit = RowLimit(self.settings.batch_size)
        self._results = HarnessResults(self.settings.cache)
        self._lm: Any = None
        self._adapted: AdaptedModel | None = None

    @property
    def notes(self) -> list[str]:
        """Notes for the user about the cache of results."""
        return self._results.notes

    def rows(self, tested: Mapping[str, Adapter | None]) -> dict[str, dict[str, list[Row]]]:
        """Return the results of every system on every task; None stands for the base model.

        The results of a system on a task are cached as one file, which other runs reuse.

        Raises:
            DataError: A task fails.
            ResourceError: There is not enough memory.
        """
        contents = {name: self._content(task) for name, task in self.harness.tasks.items()}
        total = len(tested) * sum(self.harness.counts.values())
        found: dict[str, dict[str, list[Row]]] = {}
        with tempfile.TemporaryDirectory(prefix="adaptermix-") as scratch:
            for system, adapter in tested.items():
                found[system] = {}
                staged = None if adapter is None else stage_adapter(adapter, Path(scratch))
                for name in self.harness.tasks:
                    done = self.decoded + self.reused
                    self.on_progress(Progress("evaluating", done, total, f"{system} on {name}"))
                    key = content_key(contents[name] | {"adapter": staged and staged.name})
                    rows = self._results.get(key)
                    if rows is None:
                        rows = self._ask(name, staged)
                        self._results.put(key, rows)
                        self.decoded += len(rows)
                    else:
                        self.reused += len(rows)
                    found[system][name] = rows
        self.on_progress(Progress("evaluating", total, total))
        return found

    def _content(self, task: Any) -> dict[str, Any]:
        """Return everything that the results of a task depend on, except the adapter."""
        return {
            "base": self.systems.fingerprint,
            "dtype": str(compute_dtype(self.settings)),
            "tokenizer": _vocabulary(self.systems.tokenizer),
            "versions": {name: version(name) for name in ("lm-eval", "transformers", "peft")},
            "config": {**task.dump_config(), "metadata": task.VERSION},
            "code": _code_beside(self.settings.lm_eval_path),
            "requests": [(i.doc_id, i.doc, i.args) for i in task.instances],
        }

    def _ask(self, name: str, adapter: Path | None) -> list[Row]:
        from lm_eval.evaluator import evaluate

        task = self.harness.tasks[name]
        with guarded(self.settings):
            lm = self._switched_to(adapter)

            def attempt(rows: int) -> Any:
                sow(task)
                lm.batch_size_per_gpu = rows
                return evaluate(
                    lm=lm,
                    task_dict={"tasks": {name: task}},
                    limit=self.settings.limit,
                    bootstrap_iters=0,
                    log_samples=True,
                )

            with of_task(name):
                found = self.limit.run(self.settings.batch_size, attempt, _refusal)
        return _rows(found["samples"][name])

    def _switched_to(self, adapter: Path | None) -> Any:
        """Return lm-eval's model with this adapter, or with none."""
        from lm_eval.models.huggingface import HFLM

        if self._adapted is None:
            self.on_progress(Progress("loading the model", 0, None))
            self._adapted = AdaptedModel(load_model(self.systems.folder, self.settings))
            self._lm = HFLM(
                pretrained=self._adapted.model,
                tokenizer=self.systems.tokenizer,
                batch_size=self.settings.batch_size,
            )
        self._adapted.switch_to(adapter)
        self._lm._model = self._adapted.model  # PEFT wraps the base when it loads an adapter
        return self._lm


def _refusal(rows: int, error: RuntimeError) -> ResourceError:
    return ResourceError(
        f"not enough memory for one request: {first_line(error)}",
        hint="--dtype bfloat16 needs less than float32",
    )


def _rows(samples: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Return a row per example from lm-eval's samples, which are per example and filter."""
    rows: dict[int, Row] = {}
    for sample in samples:
        if sample["doc_id"] not in rows:
            output, expected = _texts(sample)
            rows[sample["doc_id"]] = Row(output, expected, {}, {})
        row, filtered = rows[sample["doc_id"]], sample["filter"]
        if isinstance(response := sample["filtered_resps"][0], str):
            row.predicted[filtered] = response
        for metric in sample["metrics"]:
            value = sample[metric]
            if isinstance(value, (bool, int, float, np.number)) and not np.isnan(value):
                row.values[f"{metric},{filtered}"] = float(value)
    return [rows[at] for at in sorted(rows)]


def _texts(sample: Mapping[str, Any]) -> tuple[str, str]:
    """Return the answer and the correct one; for multiple choice, the most likely text."""
    target, answers = sample["target"], [responses[0] for responses in sample["resps"]]
    if isinstance(answers[0], str):
        return answers[0], str(target)
    if not isinstance(answers[0], (tuple, list)):
        return f"log-likelihood {answers[0]:.4f}", str(target)
    asked = [at for at, args in enumerate(sample["arguments"]) if args[0]] or [0]
    texts = [sample["arguments"][at] for at in asked]
    at_end = len({args[1] for args in texts}) > 1 or len(texts) == 1
    choices = [str(args[1 if at_end else 0]).strip() for args in texts]
    best = max(range(len(asked)), key=lambda at: answers[asked[at]][0])
    is_number = isinstance(target, int) and 0 <= target < len(choices)
    return choices[best], choices[target] if is_number else str(target)


def _vocabulary(tokenizer: Any) -> Any:
    fast = getattr(tokenizer, "backend_tokenizer", None)
    return fast.to_str() if fast is not None else sorted(tokenizer.get_vocab().items())


def _code_beside(folder: Path | None) -> list[str]:
    """Return the Python files in a folder of tasks, which may define functions of tasks."""
    return [path.read_text("utf-8") for path in sorted(folder.rglob("*.py"))] if folder else []
