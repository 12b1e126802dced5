"""Results of lm-eval for single examples, and their keys in the cache of answers."""

import hashlib
import inspect
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from adaptermix.generation.engine import Generated

_FORMAT = 4  # version of the stored rows; part of every key


@dataclass(frozen=True)
class Row:
    """The result of one example.

    Attributes:
        output: The model's answer; for multiple choice, the most likely choice.
        expected: The correct answer.
        predicted: The answer after each of the task's filters, by filter.
        values: Metric values, by lm-eval's ``METRIC,FILTER``; those that are no numbers, such as
            NaN, are left out.
        is_cut: Whether the answer reached the length limit.
    """

    output: str
    expected: str
    predicted: dict[str, str]
    values: dict[str, float]
    is_cut: bool = False

    @classmethod
    def stored(cls, answer: Generated) -> "Row":
        """Return the result that is stored as an answer."""
        return cls(**json.loads(answer.text))

    def as_answer(self) -> Generated:
        """Return the result as an answer for the cache."""
        return Generated(json.dumps(asdict(self)), False)


def content_key(content: Mapping[str, Any]) -> bytes:
    """Return the hash of everything that results depend on, functions by their source."""
    text = json.dumps({"format": _FORMAT, **content}, sort_keys=True, default=_source)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


class CutAnswers:
    """Watches lm-eval's model, which does not say whether an answer reached the length limit.

    Attributes:
        contexts: The requests whose answers did.
    """

    def __init__(self, lm: Any) -> None:
        """Watch a model of lm-eval, also as its cache, which is told of each answer in turn."""
        self.contexts: set[str] = set()
        self._of_batch: list[bool] = []
        self._lm, self._generate = lm, lm._model_generate
        lm._model_generate = self._watched
        lm.set_cache_hook(self)

    def start(self) -> None:
        """Forget all answers."""
        self.contexts.clear()
        self._of_batch.clear()

    def add_partial(self, kind: str, request: tuple[Any, ...], answer: Any) -> None:
        """Keep the request of an answer that reached the limit."""
        if kind == "generate_until" and self._of_batch.pop(0):
            self.contexts.add(request[0])

    def _watched(self, context: Any, max_length: int, stop: list[str], **options: Any) -> Any:
        made = self._generate(context=context, max_length=max_length, stop=stop, **options)
        own = self._lm.model.generation_config.eos_token_id
        ends = {self._lm.eot_token_id, *(own if isinstance(own, list) else [own])}
        for row in made[:, context.shape[1] :].tolist():
            text = self._lm.tok_decode(row)
            is_ended = not ends.isdisjoint(row) or any(term and term in text for term in stop)
            self._of_batch.append(made.shape[1] >= max_length and not is_ended)
        return made


def rows_of(samples: Sequence[Mapping[str, Any]], cut: Collection[str] = ()) -> list[Row]:
    """Return a row per example from lm-eval's samples, which are per example and filter.

    Args:
        samples: The samples.
        cut: The requests whose answers reached the length limit.
    """
    rows: dict[int, Row] = {}
    for sample in samples:
        if sample["doc_id"] not in rows:
            output, expected = _texts(sample)
            is_cut = any(asked[0] in cut for asked in sample["arguments"])
            rows[sample["doc_id"]] = Row(output, expected, {}, {}, is_cut)
        row, filtered = rows[sample["doc_id"]], sample["filter"]
        if isinstance(response := sample["filtered_resps"][0], str):
            row.predicted[filtered] = response
        for metric in sample["metrics"]:
            if (value := _number(sample[metric])) is not None:
                row.values[f"{metric},{filtered}"] = value
    return [rows[at] for at in sorted(rows)]


def _number(value: Any) -> float | None:
    """Return a metric's value, also of NumPy and PyTorch; None for NaN and what is no number."""
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if not isinstance(value, (bool, int, float)) or math.isnan(value):
        return None
    return float(value)


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


def _source(value: object) -> str:
    if callable(value):
        try:
            return inspect.getsource(value)
        except (OSError, TypeError):
            return getattr(value, "__qualname__", type(value).__qualname__)
    return str(value)
