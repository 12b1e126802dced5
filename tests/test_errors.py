"""Errors keep their kind, words and exit code when they are restated or cross processes."""

import pickle
import signal

import pytest

from adaptermix import errors
from adaptermix.errors import AdaptermixError, StoppedError, first_line

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, AdaptermixError)
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("changed", ["restated", "pickled"])
def test_every_error_can_be_restated_and_pickled(kind, changed):
    error = kind("cy.jsonl:3: no slots", hint="fill them in")
    if changed == "restated":
        other = error.restated("recipe.toml:2: no slots", hint=None)
        assert (str(other), other.message, other.hint) == ("recipe.toml:2: no slots",) * 2 + (None,)
        assert error.message == str(error) == "cy.jsonl:3: no slots"
    else:
        other = pickle.loads(pickle.dumps(error))
        assert (str(other), other.hint) == (str(error), "fill them in")
    assert type(other) is kind
    assert other.exit_code == error.exit_code


def test_a_stopped_run_keeps_the_code_of_its_signal():
    error = StoppedError("stopped", number=signal.SIGINT)
    assert error.restated("[task] stopped", hint=None).exit_code == 130
    assert pickle.loads(pickle.dumps(error)).exit_code == 130


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no slots\nin line 3", "no slots"),
        ("\nfield 'r':\n    expected int\n  got str", "field 'r': expected int"),
        ("no slots:", "no slots:"),
        (" \n", "ValueError"),
    ],
)
def test_the_first_line_of_an_error_has_its_reason(text, expected):
    assert first_line(ValueError(text)) == expected
