"""Universal NER in the Aya collection: questions in each language, and answers as JSON.

The parquet files ``templated_uner_llm`` have the columns ``inputs``, ``targets`` and ``language``.
An input is a template in the language followed by the sentence, and nothing separates the two.
"""

import os
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from adaptermix.data.languages import language_code
from adaptermix.errors import DataError
from adaptermix.files.text import Split, parquet_columns, parquet_rows


class AyaRow(NamedTuple):
    """A question, the sentence that it ends with, and the answer."""

    number: int
    prompt: str
    sentence: str
    answer: str


def aya_names(split: Split) -> list[str]:
    """Return the glob patterns of a split's file."""
    name = "validation" if split == "dev" else split
    return [f"{name}-*.parquet", f"{name}/*.parquet"]


def read_aya(path: Path, code: str) -> list[AyaRow]:
    """Read the rows of one language, in file order.

    The sentence is what follows the common prefix of all rows of a template. If a template has
    only one row, the sentence is the whole question.

    Raises:
        DataError: A required column is missing, or no row is in the language.
    """
    columns = ["inputs", "targets", "language"]
    names = parquet_columns(path)
    if missing := [name for name in columns if name not in names]:
        raise DataError(
            f"{path}: no column '{missing[0]}'",
            hint="adaptermix reads the file of templated_uner_llm",
        )
    if "template_id" in names:
        columns.append("template_id")
    there: set[str] = set()
    rows = []
    for number, row in enumerate(parquet_rows(path, columns), start=1):
        there.add(lang := str(row["language"]))
        if _code(lang) == code:
            rows.append((number, row))
    if not rows:
        raise DataError(
            f"{path}: no rows in the language '{code}'",
            hint=f"its languages are {' '.join(sorted(there))}",
        )
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
        return language_code(lang)
    except DataError:
        return lang


def _length_of_template(texts: list[str]) -> int:
    """Return the length of the common prefix up to a space, because sentences may start alike."""
    if len({*texts}) < 2:
        return 0
    return len(os.path.commonprefix(texts).rpartition(" ")[0])
