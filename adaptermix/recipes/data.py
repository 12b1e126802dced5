"""The data that a recipe needs: what exists, what is missing, and how to download it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptermix.data.contamination import flores_in_training
from adaptermix.data.languages import split_pair
from adaptermix.errors import AdaptermixError, DataError
from adaptermix.files.outputs import Report
from adaptermix.recipes.step import Recipe, Step
from adaptermix.settings.locations import is_local_data
from adaptermix.sources.catalog import SOURCES
from adaptermix.sources.inventory import Stock, stocks
from adaptermix.sources.lock import LOCK_NAME
from adaptermix.tables import Cell, Line, Look, Row, Table, View, noted, number_of


@dataclass(frozen=True)
class Need:
    """A language or pair that a step reads.

    Attributes:
        step: Name of the step.
        folder: Folder to read from; empty if none is given and the data is downloaded.
        name: The language or pair.
        examples: Number of examples; None if the data was not read.
        problem: Why the data cannot be read.
    """

    step: str
    folder: str
    name: str
    examples: int | None
    problem: str | None


@dataclass(frozen=True)
class DataReport(Report):
    """The existing data, and the data that a recipe still needs.

    Attributes:
        folder: Folder of all data.
        sources: The existing data of each source.
        needs: The data that the recipe's steps read.
        get: Commands that download the missing data.
        traps: Known pitfalls of the data.
    """

    folder: str
    sources: Sequence[Stock]
    needs: Sequence[Need]
    get: Sequence[str]
    traps: Sequence[str]

    @property
    def missing(self) -> list[Need]:
        """The needs of the recipe that cannot be read."""
        return [need for need in self.needs if need.problem]

    def view(self) -> View:
        """Return the human-readable view."""
        rows = [_row(stock) for stock in self.sources]
        columns = ("source", "folder", "files", "rows", "state")
        shown: list[Table | Line] = [
            Table("data", f"data in {self.folder}", columns, rows, align="llrrl")
        ]
        if self.needs:
            heads = ("step", "folder", "examples", "missing")
            steps = list(self._steps())
            shown.append(Table("steps", "data that the steps read", heads, steps, align="llrl"))
        shown += [Cell(need.problem or "", look="missing") for need in _first_of_each(self.missing)]
        if self.get:
            shown += ["to download the missing data:", *(f"    {line}" for line in self.get)]
        elif self.needs and not self.missing:
            shown.append(Cell("nothing is missing", look="ok"))
        return View(shown, noted(self.traps))

    def _steps(self) -> Iterator[Row]:
        keys = dict.fromkeys((need.step, need.folder) for need in self.needs)
        for step, folder in keys:
            needs = [need for need in self.needs if (need.step, need.folder) == (step, folder)]
            lacking = " ".join(need.name for need in needs if need.problem)
            count = sum(need.examples or 0 for need in needs)
            told = f"{count:,}" if folder else "downloaded when the step runs"
            yield (step, folder or "none", told, Cell(lacking, look="missing"))


def check_data(folder: Path, recipe: Recipe | None = None) -> DataReport:
    """Check a folder of data, and the data that a recipe needs from it and other folders.

    Raises:
        DataError: The record is damaged.
    """
    needs = [need for step in recipe.steps for need in _needs(step)] if recipe else []
    found = stocks(folder)
    changed = [Path(stock.folder).resolve() for stock in found if stock.changed]
    return DataReport(
        folder=str(folder),
        sources=found,
        needs=needs,
        get=list(get_lines([need for need in needs if need.problem], changed)),
        traps=list(_traps(folder, found)),
    )


def _needs(step: Step) -> Iterator[Need]:
    """Yield a step's needs, language by language, so that every missing one is reported."""
    settings: Any = step.settings
    folder = getattr(settings, "data_dir", None)
    own = [getattr(settings, name, None) for name in ("chat", "src")]  # named as files
    for lang in getattr(settings, "langs", ()) if own == [None, None] else ():
        place = folder or _own_folder(settings, lang)
        yield _need(step, place, lang, {"langs": (lang,), "pairs": ()})
    for pair in getattr(settings, "pairs", ()):
        yield _need(step, settings.pairs_dir or folder, pair, {"langs": (), "pairs": (pair,)})


def _own_folder(settings: Any, lang: str) -> Path | None:
    """Return the folder of a user-defined task; None for other tasks and for data on the Hub."""
    from adaptermix.tasks.custom import load_task_file

    path = Path(getattr(settings, "task", ""))
    if path.suffix != ".toml":
        return None
    try:
        patterns = load_task_file(path).files.values()
    except AdaptermixError:
        return path.parent  # reading the data tells what is wrong
    names = [pattern.replace("{lang}", lang) for pattern in patterns]
    return path.parent if all(is_local_data(name, path.parent) for name in names) else None


def _need(step: Step, folder: Path | None, name: str, names: dict[str, tuple[str, ...]]) -> Need:
    if folder is None:
        return Need(step.name, "", name, None, None)
    fields = type(step.settings).model_fields
    narrowed = {key: value for key, value in (names | {"limit": None}).items() if key in fields}
    try:
        counts = step.command.examples(step.settings.model_copy(update=narrowed))
    except AdaptermixError as error:
        return Need(step.name, str(folder), name, None, error.message)
    return Need(step.name, str(folder), name, counts.get(name), None)


def get_lines(needs: Sequence[Need], changed: Sequence[Path] = ()) -> Iterator[str]:
    """Yield the commands that download needs, for folders with the name of a source's folder.

    In folders with changed files, existing files are replaced.
    """
    by_folder = {source.folder: source for source in SOURCES.values()}
    wanted: dict[str, dict[str, None]] = {}
    for need in needs:
        source = by_folder.get(Path(need.folder).name)
        if source is not None:
            is_pair = "-" in need.name and source.by == "langs" and source.name != "massive"
            langs = split_pair(need.name) if is_pair else (need.name,)
            wanted.setdefault(need.folder, {}).update(dict.fromkeys(langs))
    for folder, names in wanted.items():
        source = by_folder[Path(folder).name]
        is_whole = source.known == source.default and len(source.known) == 1
        told = "" if is_whole else f" --{source.by} {','.join(names)}"
        told += " --force" if Path(folder).resolve() in changed else ""
        yield f"adaptermix data get {source.name}{told} -o {Path(folder).parent}"


def _traps(folder: Path, found: Sequence[Stock]) -> Iterator[str]:
    by_name = {source.name: source.folder for source in SOURCES.values()}
    try:
        contained = flores_in_training(folder / by_name["alma"], folder / by_name["flores"])
    except DataError as error:
        yield error.message
        contained = {}
    for path, (held, rows) in contained.items():
        if held:
            yield (
                f"{path} contains {number_of(held, 'sentence')} of FLORES-200 in its "
                f"{number_of(rows, 'row')}; training on it inflates retrieval on FLORES"
            )
    for stock in found:
        if (
            stock.files
            and stock.source == "alma"
            and not any(s.files for s in found if s.source == "flores")
        ):
            yield from SOURCES["alma"].notes[:1]
        if stock.changed:
            yield (
                f"{stock.changed[0]} differs from its record in {LOCK_NAME}; --force "
                "downloads it again"
            )
        yield from stock.odd[:3]


def _row(stock: Stock) -> Row:
    if not stock.files:
        return (stock.source, stock.folder, 0, "", Cell("missing", look="warn"))
    states = [
        (stock.recorded, "as recorded"),
        (len(stock.changed), "changed"),
        (stock.others, "not recorded"),
    ]
    told = ", ".join(f"{count} {state}" for count, state in states if count)
    look: Look = "warn" if stock.changed else ""
    return (stock.source, stock.folder, stock.files, f"{stock.rows:,}", Cell(told, look=look))


def _first_of_each(needs: Sequence[Need]) -> list[Need]:
    """Return one need per folder, because a folder's problems have similar messages."""
    return list({need.folder: need for need in reversed(needs)}.values())[::-1]
