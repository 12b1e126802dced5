from types import SimpleNamespace

import numpy as np
import pytest
import torch

from adaptermix.evaluation.harness_results import CutAnswers, Row, content_key, rows_of


def sample(number, responses, **changes):
    return {
        "doc_id": number,
        "filter": "none",
        "arguments": [("Q: ", f" {word}") for word in ("one", "two", "three")],
        "resps": [[response] for response in responses],
        "filtered_resps": responses,
        "target": 2,
        "metrics": ["acc"],
        "acc": 1.0,
        **changes,
    }


def test_of_choices_the_likeliest_is_the_answer():
    likely = [(-3.0, False), (-1.0, True), (-2.0, False)]
    (row,) = rows_of([sample(0, likely)])
    assert (row.output, row.expected, row.values) == ("two", "three", {"acc,none": 1.0})
    contexts = [(f"{word} went", " home") for word in ("one", "two", "three")]
    (row,) = rows_of([sample(0, likely, arguments=contexts)])
    assert (row.output, row.expected) == ("two went", "three went")
    alone = [*sample(0, likely)["arguments"], *(("", f" {word}") for word in ("one", "two"))]
    (row,) = rows_of([sample(0, [*likely, (0.0, True), (0.0, True)], arguments=alone)])
    assert row.output == "two", "log-likelihoods without the question are no answers"


def test_a_written_answer_is_kept_with_what_filters_made_of_it():
    asked = {"arguments": [("Q: ", {"until": ["\n"]})], "target": "7", "metrics": ["exact_match"]}
    samples = [
        sample(1, ["it is 7"], filter=name, exact_match=value, **asked)
        | {"filtered_resps": [filtered]}
        for name, filtered, value in (("number", "7", True), ("whole", "it is 7", 0))
    ]
    (row,) = rows_of(samples)
    assert (row.output, row.expected) == ("it is 7", "7")
    assert row.predicted == {"number": "7", "whole": "it is 7"}
    assert row.values == {"exact_match,number": 1.0, "exact_match,whole": 0.0}


class Model:
    """Writes the same rows to every prompt, as lm-eval's model does."""

    eot_token_id = 1
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=[1, 2]))

    def __init__(self, rows):
        self.rows = torch.tensor(rows)

    def set_cache_hook(self, hook):
        self.hook = hook

    def _model_generate(self, context, max_length, stop):
        return torch.cat([context, self.rows], dim=1)[:, :max_length]

    def tok_decode(self, ids):
        return " ".join(map(str, ids))

    def answer(self, contexts, length):
        """Answer one batch in the order of lm-eval's own steps."""
        self._model_generate(context=torch.zeros(len(self.rows), 3), max_length=length, stop=["9"])
        for context in contexts:
            self.hook.add_partial("generate_until", (context, {}), "an answer")


def test_an_answer_is_cut_if_nothing_ends_it_before_the_limit():
    model = Model([[5, 6, 7], [5, 1, 0], [5, 6, 2], [9, 6, 7]])
    cut = CutAnswers(model)
    for length, expected in ((6, {"a"}), (7, set())):
        cut.start()
        model.answer("abcd", length)
        model.hook.add_partial("loglikelihood", ("b", "c"), 0.5)
        assert cut.contexts == expected
    rows = rows_of([sample(at, [("x")], arguments=[(at, {})]) for at in (1, 2)], cut={2})
    assert [row.is_cut for row in rows] == [False, True]
    assert Row.stored(rows[1].as_answer()).is_cut


def test_rows_are_in_the_order_of_the_data():
    rows = rows_of(
        [
            sample(1, [(-1.0, True)], arguments=[("a", " b")], acc=float("nan"), target="b"),
            sample(0, [-2.5], arguments=[("text",)], acc=(1, 2), target="text"),
        ]
    )
    assert [row.output for row in rows] == ["log-likelihood -2.5000", "b"]
    assert [row.values for row in rows] == [{}, {}], "neither a number"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((kind, 1.0) for kind in (True, 1, np.True_, np.float32(1), np.int64(1), np.array(1))),
        *((torch.tensor(kind), 1.0) for kind in (True, 1, 1.0)),
        *((kind, None) for kind in (np.nan, np.float32("nan"), torch.tensor(np.nan), None, "1")),
        (np.array([1.0]), None),
    ],
)
def test_a_value_is_any_kind_of_number(value, expected):
    (row,) = rows_of([sample(0, [-2.5], arguments=[("text",)], acc=value)])
    assert row.values.get("acc,none") == expected


def test_a_row_is_stored_as_an_answer():
    row = Row("a \ud800", "b", {"first": "a"}, {"acc,none": 1.0})
    assert Row.stored(row.as_answer()) == row
    row.as_answer().text.encode()  # SQLite stores UTF-8


def test_keys_know_the_source_of_functions():
    def made():
        def one(doc):
            return doc["a"]

        return one

    def other(doc):
        return doc["b"]

    functions = [made(), made(), other]  # the first two lie at two addresses
    keys = [content_key({"config": {"how": how}}) for how in functions]
    assert keys[0] == keys[1] != keys[2]
    assert content_key({"a": "\ud800"}) != content_key({"a": "?"})
    assert content_key({"how": len}) == content_key({"how": len}), "no address of memory"
