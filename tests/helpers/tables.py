"""The same rows as files of every format."""

import csv
import json

import pyarrow
from pyarrow import parquet

FORMATS = ("csv", "tsv", "json", "jsonl", "parquet")


def write_rows(path, rows):
    """Write rows in the format of the suffix; in CSV and TSV, lists and objects are JSON."""
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        names = list(rows[0])
        cells = [[as_text(row.get(name)) for name in names] for row in rows]
        with path.open("w", newline="", encoding="utf-8") as file:
            if path.suffix == ".csv":
                csv.writer(file).writerows([names, *cells])
            else:
                file.writelines("\t".join(row) + "\n" for row in [names, *cells])
    return path


def as_text(value):
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)
