"""Which results of lm-eval are kept for what, and what fits the model; without lm-eval itself."""

import json
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.models import make_tokenizer

from adaptermix.errors import ConfigError, DataError
from adaptermix.evaluation import harness_run
from adaptermix.evaluation.evaluate import _asked
from adaptermix.evaluation.harness import Harness, HarnessScores, MeanMetric
from adaptermix.evaluation.harness_results import Row
from adaptermix.evaluation.harness_run import HarnessQuestions, _items, _room, _Run
from adaptermix.generation.prompts import PromptedExample
from adaptermix.settings.evaluation import EvalSettings


@dataclass(frozen=True)
class Instance:
    """One request, as lm-eval has it."""

    doc_id: int
    args: tuple
    doc: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """What is read of a task of lm-eval."""

    instances: tuple[Instance, ...] = ()
    config: dict = field(default_factory=dict)
    VERSION: float = 1.0
    OUTPUT_TYPE: str = "multiple_choice"
    has_test: bool = True

    def dump_config(self):
        return dict(self.config)

    def get_config(self, key):
        return self.config.get(key)

    def has_test_docs(self):
        return self.has_test


def asks(*texts, doc=None):
    return tuple(Instance(at, (text, " yes"), doc or {}) for at, text in enumerate(texts))


class Counted(_Run):
    """Answers with the name of the adapter and the example, in place of lm-eval."""

    def _ask(self, name, adapter, numbers, on_progress):
        system = adapter.name if adapter else "base"
        return [Row(f"{system} {name} {at}", "", {}, {}) for at in numbers]


def run_of(tasks, tmp_path, *, weights_hash="f", eos="<|end|>", kind="llama", **settings):
    (tmp_path / "tasks").mkdir(exist_ok=True)
    given = {"task": "lm-eval:a,b", "lm_eval_path": tmp_path / "tasks", "dtype": "float32"}
    harness = SimpleNamespace(settings=EvalSettings(**(given | settings)), tasks=tasks)
    own = {"weights_hash": weights_hash, "tokenizer": make_tokenizer()}
    own["tokenizer"].eos_token = eos
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    systems = SimpleNamespace(**own, folder=tmp_path)
    return Counted(harness, systems)


def rows(run, task, adapters, numbers):
    items = [PromptedExample(task, SimpleNamespace(id=str(at)), [], False) for at in numbers]
    made = run.rows([(adapter, items) for adapter in adapters], {}, lambda progress: None)
    return [[row.output for row in part] for part in made]


@pytest.fixture
def _versions(monkeypatch):
    monkeypatch.setattr(harness_run, "version", lambda name: "1")


@pytest.mark.usefixtures("_versions")
def test_results_depend_on_all_that_makes_them(tmp_path, monkeypatch):
    tasks = {"a": Task(config={"shots": 1}), "b": Task(config={"shots": 1})}
    contexts = run_of(tasks, tmp_path).contexts
    assert contexts == run_of(tasks, tmp_path).contexts
    assert contexts["a"] == contexts["b"], "the requests tell tasks apart"
    changed = {
        "base": run_of(tasks, tmp_path, weights_hash="g"),
        "dtype": run_of(tasks, tmp_path, dtype="bfloat16"),
        "tokenizer": run_of(tasks, tmp_path, eos="<|pad|>"),
        "config": run_of(tasks | {"a": Task(config={"shots": 2})}, tmp_path),
        "version": run_of(tasks | {"a": replace(tasks["a"], VERSION=2.0)}, tmp_path),
    }
    found = {name: run.contexts for name, run in changed.items()}
    for name in ("config", "version"):
        assert found[name]["b"] == contexts["b"], "it is another task's"
    for package in ("lm-eval", "transformers", "peft"):
        with monkeypatch.context() as patch:
            newer = {package: "99"}
            patch.setattr(harness_run, "version", lambda name, newer=newer: newer.get(name, "1"))
            found[package] = run_of(tasks, tmp_path).contexts
    (tmp_path / "tasks" / "metrics.py").write_text("def score(doc): return 1")
    found["code"] = run_of(tasks, tmp_path).contexts
    for entries in ({"eos_token_id": [1, 2]}, {"do_sample": True, "top_k": 1}):
        (tmp_path / "generation_config.json").write_text(json.dumps(entries))
        found[str(entries)] = run_of(tasks, tmp_path).contexts
    assert len({contexts["a"], *(context["a"] for context in found.values())}) == 12
    assert run_of(tasks, tmp_path, kind="rwkv").rows_at_once == 1 < changed["dtype"].rows_at_once


@pytest.mark.usefixtures("_versions")
def test_a_result_is_that_of_its_system_and_example(tmp_path):
    tasks = {"a": Task(asks("one", "two", "three"))}
    run = run_of(tasks, tmp_path)
    adapters = (None, Path("x/task"), Path("x/merged"))
    first = rows(run, "a", adapters, [2, 0])
    assert first == [[f"{name} a 2", f"{name} a 0"] for name in ("base", "task", "merged")]
    assert (run.decoded, run.reused) == (6, 0)
    again = run_of(tasks, tmp_path)
    assert rows(again, "a", adapters[::-1], [0, 1, 2]) == [
        [f"{name} a {at}" for at in range(3)] for name in ("merged", "task", "base")
    ]
    assert (again.decoded, again.reused) == (3, 6)


@pytest.mark.usefixtures("_versions")
@pytest.mark.parametrize(
    "change",
    [
        asks("one", "another"),
        asks("one", "two", doc={"right": 1}),
        (*asks("one", "two"), Instance(1, ("two", " no"))),
    ],
)
def test_a_result_of_another_request_is_not_used(tmp_path, change):
    """Of another text, with another answer in the data, or with one choice more."""
    rows(run_of({"a": Task(asks("one", "two"))}, tmp_path), "a", [None], [0, 1])
    run = run_of({"a": Task(change)}, tmp_path)
    rows(run, "a", [None], [1])
    assert (run.decoded, run.reused) == (1, 0)
    off = run_of({"a": Task(asks("one", "two"))}, tmp_path, cache=False)
    rows(off, "a", [None], [0, 1])
    assert (off.decoded, off.reused, off.notes) == (2, 0, [])
    asked = HarnessQuestions.__new__(HarnessQuestions)
    contexts = []
    for asked._run in (run, off):  # a search that has ended is known by it
        contexts.append(asked.context)
    assert contexts[0] != contexts[1]


def test_a_request_leaves_room_for_the_answer():
    choice = Task()
    assert _room("a", choice, 256) == 257, "the last token is predicted, and not read"
    assert _room("a", choice, None) > 10**6
    assert _room("a", replace(choice, OUTPUT_TYPE="loglikelihood_rolling"), 256) > 10**6
    written = replace(choice, OUTPUT_TYPE="generate_until")
    assert _room("a", written, 1000) == 1000 - 256
    short = replace(written, config={"generation_kwargs": {"max_gen_toks": 6}})
    assert _room("a", short, 256) == 250
    with pytest.raises(ConfigError, match="answers of up to 256 tokens, but the model's context"):
        _room("a", written, 256)


def test_an_example_has_the_length_of_its_longest_request(model_dir):
    """Those longer than the model reads are cut by lm-eval, and counted."""
    tokenizer = make_tokenizer()
    words = ("z" * count for count in range(999))
    fits = next(text for text in words if len(tokenizer(text + " x")["input_ids"]) == 257)
    texts = {0: ("short", " and a much longer choice"), 1: ("hello " * 400, " no"), 2: (fits, "")}
    instances = [Instance(at, (first, " x")) for at, (first, _) in texts.items()]
    instances += [Instance(at, both) for at, both in texts.items()]
    harness = SimpleNamespace(tasks={"a": Task(tuple(instances[::-1]))})
    items = _items(harness, SimpleNamespace(folder=model_dir, tokenizer=tokenizer))
    assert [(item.lang, item.example.id) for item in items] == [("a", "0"), ("a", "1"), ("a", "2")]
    for item, (first, last) in zip(items, texts.values(), strict=True):
        assert item.example.utterance == first
        longest = max((first + " x", first + last), key=len)
        assert item.prompt_ids == tokenizer(longest)["input_ids"]
        assert item.is_truncated == (len(item.prompt_ids) > 257)
    assert [item.is_truncated for item in items] == [False, True, False]


def test_the_split_is_the_one_that_lm_eval_scores():
    test, validation = Task(), Task(has_test=False)
    for tasks, split in (
        ([test, test], "test"),
        ([validation], "validation"),
        ([validation, test], "test and validation"),
    ):
        harness = SimpleNamespace(tasks=dict(enumerate(tasks)))
        assert Harness.split.fget(harness) == split
    harness = SimpleNamespace(tasks={"a": Task((*asks("one", "two"), *asks("one", "two")))})
    assert Harness.counts.fget(harness) == {"a": 2}, "examples, not requests"


def test_examples_without_a_value_are_told():
    """A task where no example has one is refused: its score would be 0."""
    values = {"a": [{"acc,none": 1.0}, {}], "b": [{"acc,none": 0.0}]}
    asked = HarnessQuestions.__new__(HarnessQuestions)
    asked.items = [
        PromptedExample(name, SimpleNamespace(id=str(at)), [], False)
        for name, mine in values.items()
        for at in range(len(mine))
    ]
    scores = HarnessScores((MeanMetric("acc", dict.fromkeys("ab", "acc,none"), {}),))
    asked.harness = SimpleNamespace(scores=scores, counts={"a": 2, "b": 1}, tasks=values)
    asked._run, asked._uncounted = SimpleNamespace(notes=["cached"]), {}
    asked._cut = Counter()
    made = [Row("x", "y", {}, each) for mine in values.values() for each in mine]
    for adapter in (None, Path("x/task")):
        asked._outcomes(adapter, asked.items, made)
    told = "lm-eval task a: 1 of 2 examples do not count for acc, because lm-eval's value is not a"
    assert asked.notes_on_answers == ["cached", f"{told} number"]
    merged = Path("x/merged")
    asked.names = {merged: "candidate 0.7"}
    empty = Row("x", "y", {}, {})
    asked._run.rows = lambda parts, *_: [[empty] * len(items) for _, items in parts]
    asked.outcomes([(merged, asked.items[1:2])], None)  # a race begins with a part of them
    assert len(asked.notes_on_answers) == 2, "no answer was cut"
    asked._run.rows = lambda parts, *_: [[replace(empty, is_cut=True)] for _ in parts]
    asked.outcomes([(merged, asked.items[1:2])] * 3, None)
    cut = "lm-eval task a: 3 answers of the candidates reached the length limit and were cut; "
    assert asked.notes_on_answers[2] == f"{cut}--max-new-tokens changes the limit"
    asked._run.rows = lambda parts, *_: [[empty] * len(items) for _, items in parts]
    with pytest.raises(DataError, match="task b: acc of candidate 0.7 is not a number for any"):
        asked.outcomes([(merged, asked.items[2:])], None)
    assert [metric.name for metric in asked.task.metrics] == ["acc"]
    asked._outcomes(None, asked.items[:1], [Row("x", "y", {}, {"acc,none": 100.0})])
    asked._outcomes(None, asked.items, made)
    assert [metric.name for metric in asked.task.metrics] == ["acc (raw)"], "it is a percentage"


def test_a_group_with_the_name_of_a_task_is_refused(monkeypatch):
    """Groups and tags of lm-eval become tasks only when these are loaded."""
    found = SimpleNamespace(settings=SimpleNamespace(langs=("mmlu_law", "mmlu_art")))
    monkeypatch.setattr(harness_run, "HarnessQuestions", lambda settings, systems: found)
    settings = EvalSettings(task="lm-eval:mmlu", groups={"arts": "mmlu_art"})
    assert _asked(settings, None, []) is found
    settings = EvalSettings(task="lm-eval:mmlu", groups={"mmlu_law": "mmlu_art"})
    with pytest.raises(ConfigError, match="'mmlu_law' is the name of a task"):
        _asked(settings, None, [])
