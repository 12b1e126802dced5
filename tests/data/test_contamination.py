"""FLORES-200 is looked for in ALMA's training files."""

import gzip
import json

from adaptermix.data.contamination import flores_in_training


def rows(path, texts):
    lines = (json.dumps({"translation": {"de": "x", "en": text}}) for text in texts)
    path.write_text("\n".join(lines))


def test_sentences_of_both_parts_are_counted_once(tmp_path):
    alma, flores = tmp_path / "alma", tmp_path / "flores200"
    alma.mkdir()
    flores.mkdir()
    assert flores_in_training(alma, flores) == {}
    (flores / "eng_Latn.dev").write_text("One. \nTwo.\n")
    (flores / "eng_Latn.devtest").write_text("Three.\n")
    rows(alma / "de-en.train.json", ["One.", " Three.", "One.", "Four."])
    rows(alma / "de-en.valid.json", ["Two."])
    (alma / "cs-en.train.json.gz").write_bytes(
        gzip.compress(b'{"translation": {"cs": "One.", "en": "Two."}}')
    )
    assert flores_in_training(alma, flores) == {
        str(alma / "cs-en.train.json.gz"): (1, 1),
        str(alma / "de-en.train.json"): (2, 4),
    }
