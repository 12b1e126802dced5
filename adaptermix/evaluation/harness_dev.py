"""Dev data of lm-eval tasks: documents that ``eval`` does not score.

lm-eval scores a task on its test split or, if it has none, on its validation split. A search must
not see these documents, not even as few-shot examples.
"""

import json
from itertools import islice
from typing import Any

from adaptermix.errors import ConfigError
from adaptermix.tables import number_of


def use_dev_documents(name: str, task: Any, limit: int | None) -> list[str]:
    """Replace a task's scored documents with dev documents.

    They are the validation split or, if that is scored or missing, the training split.

    Args:
        name: Name of the task.
        task: lm-eval's task, which is changed.
        limit: Use the first documents only.

    Returns:
        Notes for the user.

    Raises:
        ConfigError: The task has no other documents, or its few-shot examples are scored ones.
    """
    scored = _split(task, "test") or _split(task, "validation")
    kinds = [
        kind for kind in ("validation", "training") if _split(task, kind) not in (None, scored)
    ]
    if not kinds:
        raise ConfigError(
            f"lm-eval task {name} has only the split '{scored}', which eval uses; a "
            "search needs other data",
            hint="use a task with a validation or training split, or write one: a YAML file that "
            "includes this task and names such a split, in the folder of --lm-eval-path",
        )
    split = _split(task, kinds[0])
    test = {_content(document) for document in task.eval_docs}
    documents = list(islice(getattr(task, f"{kinds[0]}_docs")(), limit))
    dev = [document for document in documents if _content(document) not in test]
    if not dev:
        raise ConfigError(
            f"lm-eval task {name}: all examples of the split '{split}' are also in the split "
            f"'{scored}', which eval uses; a search needs other data"
        )
    if task.get_config("num_fewshot"):
        _separate_few_shot_examples(name, task, split, scored)
    task.has_test_docs = lambda: True  # lm-eval scores these first, whatever the task's class
    task.test_docs = lambda: dev
    return [*_notes(name, kinds[0], split, scored), *_left_out(name, len(documents) - len(dev))]


def _split(task: Any, kind: str) -> str | None:
    """Return the name of a task's split of a kind: training, validation or test."""
    if not getattr(task, f"has_{kind}_docs")():
        return None
    return getattr(task.config, f"{kind}_split", None) or kind


def _separate_few_shot_examples(
    name: str, task: Any, split: str | None, scored: str | None
) -> None:
    """Refuse scored documents as examples, and keep a dev document out of its own prompt."""
    shots = task.fewshot_cfg
    source = shots.split
    if source is None and shots.samples is None:  # lm-eval's own choice
        kinds = (_split(task, kind) for kind in ("training", "validation", "test"))
        source = next(filter(None, kinds))
    if source == scored:
        raise ConfigError(
            f"lm-eval task {name} takes its few-shot examples from the split '{scored}', "
            "which eval uses; a search must not read them",
            hint="write a YAML file that includes this task and names another fewshot_split, in "
            "the folder of --lm-eval-path",
        )
    # lm-eval leaves a document out of its own examples if both splits have the same name.
    shots.split = source
    task.set_config(key="test_split", value=split)


def _content(document: Any) -> str:
    return json.dumps(document, sort_keys=True, default=str)


def _notes(name: str, kind: str, split: str | None, scored: str | None) -> list[str]:
    if kind == "validation":
        return []
    return [f"the dev data of {name} is its split '{split}'; eval uses '{scored}'"]


def _left_out(name: str, count: int) -> list[str]:
    if not count:
        return []
    return [
        f"left out {number_of(count, 'dev example')} of {name} that its test data also contains"
    ]
