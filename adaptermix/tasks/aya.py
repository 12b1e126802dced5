"""Universal NER in the Aya collection: questions in each language, and answers as JSON.

The parquet files ``templated_uner_llm`` have ``inputs``, ``targets`` and ``language``. An input is
a template of the language and the sentence, and nothing tells where the one ends and the other
begins.
"""

import os
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from adaptermix.data.languages import language_code
from adaptermix.errors import DataError
from adaptermix.files.text import Split, parquet_columns, parquet_rows

# Codes of three letters in the collection, where adaptermix has others.
_CODES = {"zho": "zh", "cmn": "zh", "slk": "sk", "srp": "sr", "hrv": "hr"}


class AyaRow(NamedTuple):
    """A question, the sentence at its end, and the answer."""

    number: int
    prompt: str
    sentence: str
    answer: str


def aya_names(split: Split) -> list[str]:
    """Return the names that the file of a part may have."""
    name = "validation" if split == "dev" else split
    return [f"{name}-*.parquet", f"{name}/*.parquet"]


def read_aya(path: Path, code: str) -> list[AyaRow]:
    """Read the rows of one language, in file order.

    The sentence is what follows the text that all rows of a template begin with; where a template
    has one row only, it is the whole question.

    Raises:
        DataError: Another kind of file, or none of the language.
    """
    columns = ["inputs", "targets", "language"]
    names = parquet_columns(path)
    if missing := [name for name in columns if name not in names]:
        raise DataError(f"{path}: no column '{missing[0]}'", hint="templated_uner_llm is read")
    if "template_id" in names:
        columns.append("template_id")
    there: set[str] = set()
    rows = []
    for number, row in enumerate(parquet_rows(path, columns), start=1):
        there.add(lang := str(row["language"]))
        if _code(lang) == code:
            rows.append((number, row))
    if not rows:
        raise DataError(f"{path}: nothing in '{code}'", hint=f"it has {' '.join(sorted(there))}")
    inputs: dict[object, list[str]] = defaultdict(list)
    for _, row in rows:
        inputs[row.get("template_id")].append(str(row["inputs"]))
    lengths = {template: _length_of_template(texts) for template, texts in inputs.items()}
    return [
        AyaRow(
            number,
            row["inputs"],
            row["inputs"][lengths[row.get("template_id")] :].strip(),
            row["targets"],
        )
        for number, row in rows
    ]


def _code(lang: str) -> str:
    try:
        return _CODES.get(lang) or language_code(lang)
    except DataError:
        return lang


def _length_of_template(texts: list[str]) -> int:
    """Return how much all texts begin with, up to a space: sentences may begin alike."""
    if len({*texts}) < 2:
        return 0
    return len(os.path.commonprefix(texts).rpartition(" ")[0])
