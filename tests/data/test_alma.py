"""ALMA's JSON is read alike for a task and as pairs to align."""

import json

import pytest

from adaptermix.data.pairs import read_pairs
from adaptermix.errors import DataError
from adaptermix.tasks.translation import read_wmt

ROWS = [{"translation": {"de": f" Satz {n} ", "en": f"sentence {n}"}} for n in range(5)]


@pytest.mark.parametrize("is_array", [False, True])
def test_lines_and_an_array_are_the_same_sentences(tmp_path, is_array):
    lines = "\n".join(map(json.dumps, ROWS))
    (tmp_path / "de-en.train.json").write_text(json.dumps(ROWS, indent=1) if is_array else lines)
    (tmp_path / "de-en.valid.json").write_text(lines)
    expected = [(f"Satz {n}", f"sentence {n}") for n in range(5)]
    pairs = read_pairs("de-en", tmp_path)
    assert [(pair.source, pair.target) for pair in pairs] == expected
    examples = read_wmt("de-en", "train", tmp_path)
    assert [(example.source, *example.references) for example in examples] == expected


def test_a_null_is_an_empty_side(tmp_path):
    rows = [{"translation": {"de": None, "en": "sentence"}}, *ROWS]
    (tmp_path / "de-en.train.json").write_text("\n".join(map(json.dumps, rows)))
    assert len(read_pairs("de-en", tmp_path)) == 5
    (tmp_path / "de-en.train.json").write_text('{"translation": {"en": "sentence"}}')
    with pytest.raises(DataError, match="no 'translation' with de and en"):
        read_pairs("de-en", tmp_path)
