"""Outputs of earlier commands on disk: evaluations, searches, retrieval analyses, adapters."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from adaptermix.adapters.adapter import adapter_hash, read_adapter
from adaptermix.adapters.card import model_name
from adaptermix.adapters.family import family_hash, is_family, read_family
from adaptermix.adapters.format import CONFIG_FILE, CONFIG_KEY, RECORD_KEY
from adaptermix.adapters.systems import distinct_names
from adaptermix.errors import AdaptermixError, DataError
from adaptermix.evaluation.report import EvalReport
from adaptermix.files.tensors import TensorFile
from adaptermix.files.text import json_rows, json_value
from adaptermix.retrieval.report import RetrievalReport
from adaptermix.retrieval.summary import ALL
from adaptermix.search.record import RECORD_FILE as SEARCH_RECORD
from adaptermix.search.record import SearchReport
from adaptermix.settings.shared import complaint
from adaptermix.tables import printable

_RERUN = "rerun the command that wrote it"

EVAL_RECORD = "scores.json"
RETRIEVAL_RECORD = "retrieval.json"
_RECORDS = (EVAL_RECORD, SEARCH_RECORD, RETRIEVAL_RECORD)
_DEPTH = 4  # levels of subfolders to search
T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """A run's record.

    Attributes:
        path: Path of the record's file.
        content: The raw record.
        report: The validated report of its command, with printable texts.
        name: Name of its folder; equal names have those of parent folders as a prefix.
    """

    path: Path
    content: Mapping[str, Any]
    report: Any
    name: str

    @property
    def source(self) -> str:
        """The record, the model and the version that the section is made from."""
        settings, version = (self.content.get(key) for key in ("settings", "adaptermix"))
        model = settings.get("model") if isinstance(settings, dict) else None
        named = f", model {model_name(model)}" if isinstance(model, str) else ""
        by = f", adaptermix {printable(version)}" if isinstance(version, str) else ""
        return f"Source: {self.name}/{self.path.name}{named}{by}."


@dataclass(frozen=True)
class Answers:
    """The answers of all systems to the examples of one language, in the order of the data.

    Attributes:
        lang: The language.
        rows: Prediction records by system.
    """

    lang: str
    rows: dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Runs:
    """All runs and adapters that were found, in the order given by the user."""

    evaluations: list[Run]
    searches: list[Run]
    retrievals: list[Run]
    adapters: list[Path]
    families: list[Path]

    @property
    def task(self) -> str | None:
        """The task of the evaluations and searches."""
        runs = [*self.evaluations, *self.searches]
        return runs[0].report.task if runs else None


def find_runs(paths: Sequence[Path]) -> Runs:
    """Read the records of runs, and find the adapters that belong to them.

    Folders are searched for runs, except for models and hidden folders. Adapters that were
    evaluated or analyzed are found by the paths in the record, if they have not changed since.

    Raises:
        DataError: A path does not exist or is not a run, a record is damaged, or runs have
            different tasks.
        ArtifactError: An adapter is damaged.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        here = list(_places(path))
        if not here:
            raise DataError(
                f"{path}: not a run",
                hint="name an output of eval, merge --search or retrieval, an adapter, or a "
                "folder that contains these",
            )
        found.update({place.resolve(): place for place in here})
    records: dict[str, list[Run]] = {name: [] for name in _RECORDS}
    adapters: dict[Path, Path] = {}
    names = _names_of_folders(real for real, place in found.items() if place.name in _RECORDS)
    for real, place in found.items():
        if place.name in _RECORDS:
            records[place.name].append(_read(place, names[real.parent]))
        else:
            adapters[place.resolve()] = place
    for run in (*records[EVAL_RECORD], *records[RETRIEVAL_RECORD]):
        adapters |= {a.resolve(): a for a in _tested(run) if a.resolve() not in adapters}
    evaluations, searches, retrievals = records.values()
    families = [path for path in adapters.values() if is_family(path)]
    alone = [path for path in adapters.values() if path not in families]
    runs = Runs(evaluations, searches, retrievals, alone, families)
    _refuse_other_tasks([*runs.evaluations, *runs.searches])
    return runs


def _places(path: Path) -> Iterator[Path]:
    """Yield record files and adapters at or below a path."""
    if path.is_dir():
        yield from _in_folder(path, _DEPTH)
    elif not path.is_file():
        raise DataError(
            f"{path}: no such file or folder", hint="name a run, or a folder that contains runs"
        )
    elif path.name in _RECORDS or path.suffix == ".safetensors":
        yield path


def _in_folder(folder: Path, depth: int) -> Iterator[Path]:
    records = [folder / name for name in _RECORDS if (folder / name).is_file()]
    if records:
        yield from records
    elif (folder / CONFIG_FILE).is_file() or is_family(folder):
        yield folder
    elif depth and not (folder / "config.json").is_file():  # a model's config
        for child in sorted(folder.iterdir()):
            if child.is_dir() and not child.name.startswith("."):
                yield from _in_folder(child, depth - 1)
            elif child.suffix == ".safetensors" and _is_adapter(child):
                yield child


def _is_adapter(path: Path) -> bool:
    return bool({CONFIG_KEY, RECORD_KEY} & TensorFile(path).metadata.keys())


def _names_of_folders(records: Iterable[Path]) -> dict[Path, str]:
    """Return the names of the folders of records, which differ from each other."""
    folders = list(dict.fromkeys(path.parent for path in records))
    names = distinct_names([folder.parts for folder in folders])
    return {folder: printable(name) for folder, name in zip(folders, names, strict=True)}


def _read(path: Path, name: str) -> Run:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text: {error}") from error
    content = json_value(text, str(path))
    kinds: dict[str, type] = {
        EVAL_RECORD: EvalReport,
        SEARCH_RECORD: SearchReport,
        RETRIEVAL_RECORD: RetrievalReport,
    }
    report: Any = _validated(kinds[path.name], _printable(content), path)
    if isinstance(report, EvalReport):
        _check_cells(report, path)
    if isinstance(report, RetrievalReport):
        _check_layers(report, path)
    return Run(path, content, report, name)


def _validated(kind: type[T], content: Any, path: Path) -> T:
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(
            f"{path}: damaged record: {f'{where}: ' if where else ''}{complaint(first)}",
            hint=_RERUN,
        ) from error


def _printable(value: Any) -> Any:
    """Make every text in a record printable, so that it can be written anywhere."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_printable(item) for item in value]
    if isinstance(value, dict):
        return {printable(key): _printable(item) for key, item in value.items()}
    return value


def _check_cells(report: EvalReport, path: Path) -> None:
    there = {(cell.system, cell.lang) for cell in report.cells}
    for system in report.systems:
        for lang in report.langs:
            if (system, lang) not in there:
                raise DataError(
                    f"{path}: damaged record: no scores of {system} on {lang}",
                    hint=_RERUN,
                )
    averages = {"all languages": report.macro, **report.group_macro}
    for name, means in averages.items():
        missing = [system for system in report.systems if system not in means]
        if missing:
            raise DataError(
                f"{path}: damaged record: no average of {missing[0]} over {name}", hint=_RERUN
            )
    if not report.cells or not report.langs:
        raise DataError(f"{path}: damaged record: no scores", hint=_RERUN)
    if report.reference not in report.systems:
        raise DataError(
            f"{path}: damaged record: the baseline {report.reference} is not one of the systems",
            hint=_RERUN,
        )


def _check_layers(report: RetrievalReport, path: Path) -> None:
    if not report.systems:
        raise DataError(f"{path}: damaged record: no systems", hint=_RERUN)
    if report.pivot_lang is None and report.pivot != ALL:
        raise DataError(
            f"{path}: damaged record: the pivot {report.pivot} is not one of the languages",
            hint=_RERUN,
        )
    for accuracies in [row.accuracy for row in report.pairs] + [
        r.accuracy for r in report.by_layer
    ]:
        if len(accuracies) != len(report.layers):
            raise DataError(
                f"{path}: damaged record: {len(accuracies)} accuracies, but "
                f"{len(report.layers)} layers",
                hint=_RERUN,
            )


def _tested(run: Run) -> Iterator[Path]:
    """Yield the adapters of a record that have not changed since."""
    entries = run.content.get("adapters")
    for entry in entries.values() if isinstance(entries, dict) else ():
        if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
            continue
        path = Path(entry["path"])
        try:
            if path.exists() and _hash(path) == entry.get("hash"):
                yield path
        except (AdaptermixError, OSError):  # deleted or replaced since, which is not an error here
            continue


def _hash(path: Path) -> str:
    return family_hash(read_family(path)) if is_family(path) else adapter_hash(read_adapter(path))


def _refuse_other_tasks(runs: Sequence[Run]) -> None:
    for run in runs[1:]:
        if run.report.task != runs[0].report.task:
            raise DataError(
                f"{run.path}:{_line_of_task(run.path)}: the run has the task "
                f"'{run.report.task}', but {runs[0].path} has '{runs[0].report.task}'",
                hint="a report covers one task; make one report per task",
            )


def _line_of_task(path: Path) -> int:
    """Return the line of a record's top-level task, which is indented by two spaces."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((at for at, line in enumerate(lines, 1) if line.startswith('  "task":')), 1)


def read_answers(run: Run) -> Iterator[Answers]:
    """Yield the predictions of an evaluation by language; nothing if they were deleted.

    Raises:
        DataError: A file is missing or damaged, or systems have different examples.
    """
    folder = run.path.parent / "predictions"
    if not folder.is_dir():
        return
    systems = dict(zip(run.content["systems"], run.report.systems, strict=True))
    for lang in run.content["langs"]:
        rows = {
            shown: _predictions(folder / name / f"{lang}.jsonl") for name, shown in systems.items()
        }
        first, *others = rows.values()
        for (name, _), other in zip(list(systems.items())[1:], others, strict=True):
            if [row["id"] for row in other] != [row["id"] for row in first]:
                raise DataError(
                    f"{folder / name / lang}.jsonl: examples differ from those of "
                    f"{next(iter(systems))}",
                    hint=_RERUN,
                )
        yield Answers(printable(lang), rows)


def _predictions(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, row in json_rows(path):
        fields = ("id", "utterance", "output")
        if not isinstance(row, dict) or not all(isinstance(row.get(f), str) for f in fields):
            raise DataError(f"{path}:{number}: damaged record: no id, utterance or output")
        rows.append(row)
    return rows
