"""The page of messages is made of the source."""

import ast

import pytest

from adaptermix.cli.messages import _messages_of, messages, messages_page
from adaptermix.errors import ArtifactError
from adaptermix.files.outputs import check_output
from adaptermix.files.records import _NO_FILE

SOURCE = """
def work(path, names):
    if not names:
        raise ConfigError(f"{path.name}:{line_of(path)}: none of " + f"{', '.join(names)}")
    raise DataError("no rows", hint=f"there are {len(names)}")
    raise ValueError("a bug")
    raise ArtifactError(f"{path}: {names}")
    raise draft.fail(f"{key}: no step", key, hint="add one")
"""


def test_a_message_is_found_with_its_values_and_hint():
    found = sorted(_messages_of(ast.parse(SOURCE), "data/some.py"))
    assert [(each.exit_code, each.text, each.hint) for each in found] == [
        (3, "{key}: no step", "add one"),
        (3, "{name}:{line}: none of {names}", ""),
        (4, "no rows", "there are {names}"),
    ]
    assert {each.module for each in found} == {"data/some.py"}


TEXTS = """
from adaptermix.files.records import _NO_FILE
_ADD = "add one"
class LostError(ResourceError):
    pass
def work(path, near, count):
    hint = f"did you mean {near[0]}?" if near else _ADD
    raise LostError(f"{path / 'config.json'}: no line {count + 1}", hint=hint)
    raise DataError(f"{path or 'the disk'}: not there", hint=_NO_FILE)
    raise DataError(f"{number_of(len(near), 'line')} left")
    raise ConfigError(with_value(f"--out {path}: bad", path), hint=near and _ADD)
    raise StoppedError("stopped")
"""


def test_constants_and_alternatives_are_written_out():
    found = sorted(_messages_of(ast.parse(TEXTS), "data/some.py"))
    assert [(each.exit_code, each.text, each.hint) for each in found] == [
        (3, "--out {path}: bad", "add one"),
        (4, "{near} lines left", ""),
        (4, "{path}: not there", _NO_FILE),
        (6, "{path}/config.json: no line {count}", "did you mean {near}? / add one"),
        (130, "stopped", ""),
    ]


def test_a_wrong_value_of_a_setting_is_a_message_too():
    (found,) = _messages_of(ast.parse('raise ValueError("not a number")'), "settings/some.py")
    assert (found.exit_code, found.text) == (3, "not a number")


def test_what_is_raised_is_on_the_page(tmp_path):
    with pytest.raises(ArtifactError) as raised:
        check_output(tmp_path, False)
    text = raised.value.message.replace(str(tmp_path), "{path}")
    assert f"| {text} | {raised.value.hint} |" in messages_page()
    assert {each.exit_code for each in messages()} == {3, 4, 5, 6, 130}
