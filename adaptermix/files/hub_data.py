"""Data sets of the Hugging Face Hub, streamed by the package ``datasets`` without running code.

A local folder with the layout of such a repository is read in the same way.
"""

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from adaptermix.errors import DataError, MissingDataError, ResourceError, first_line
from adaptermix.files.hub import reaching_hub
from adaptermix.progress import OnProgress, tell

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt", ".gz")
_NAME = re.compile(r"(?P<repository>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w.-]+(/[\w.-]+)*))?")
_SHOWN = 10  # maximum number of names that a message lists


@dataclass(frozen=True)
class DataSet:
    """A data set with the requested revision, configuration and split.

    Attributes:
        repository: ``OWNER/NAME``, or a local folder.
        revision: Branch, tag or commit, or None for the main branch.
        parts: Names of configuration and split, of one of them, or none.
    """

    repository: str
    revision: str | None = None
    parts: tuple[str, ...] = ()

    @property
    def is_local(self) -> bool:
        """Whether the data set is a local folder."""
        return Path(self.repository).is_dir()

    @property
    def is_saved(self) -> bool:
        """Whether the data set is a folder that ``save_to_disk`` wrote."""
        return is_saved(Path(self.repository))


@dataclass(frozen=True)
class Stream:
    """The streamed rows of one split of a data set."""

    origin: str
    columns: tuple[str, ...]
    rows: Callable[[Sequence[str]], Iterator[tuple[int, dict[str, Any]]]]


def is_saved(folder: Path) -> bool:
    """Whether ``save_to_disk`` of the package ``datasets`` wrote the folder."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def find_data_set(text: str, beside: Path = Path()) -> DataSet | None:
    """Parse ``OWNER/NAME[@REVISION][:CONFIG][:SPLIT]``, or ``FOLDER[:CONFIG][:SPLIT]``.

    Existing files, names with the suffix of a data file, and names that start with an existing
    folder and have no revision are paths; None is returned for them.

    Args:
        text: A possible name of a data set.
        beside: The folder that paths are relative to.
    """
    name, *parts = text.split(":")
    if (beside / text).is_dir():
        return DataSet(str(beside / text))
    if len(parts) > 2 or (beside / text).is_file():
        return None
    if (beside / name).is_dir():
        return DataSet(str(beside / name), parts=tuple(parts))
    found = _NAME.fullmatch(name)
    if found is None or name.endswith(SUFFIXES):
        return None
    if (beside / name.partition("/")[0]).is_dir() and not found["revision"]:
        return None
    return DataSet(found["repository"], found["revision"], tuple(parts))


def open_data_set(
    data_set: DataSet, pick: Callable[[Sequence[str]], str | None], on_progress: OnProgress
) -> Stream:
    """Open a split of a data set, whose rows are downloaded while they are read.

    Args:
        data_set: The data set.
        pick: Chooses a configuration if none is given.
        on_progress: Called with the configuration, split, revision and license.

    Raises:
        DataError: The configuration or split does not exist, or it is ambiguous.
        ResourceError: ``datasets`` is not installed, or the Hub cannot be reached.
    """
    name = data_set.repository
    if find_spec("datasets") is None:
        kind = "a folder" if data_set.is_local else "not a local file or folder"
        raise ResourceError(
            f"{name} is {kind}; reading data sets needs the package datasets, which is not "
            "installed",
            hint='pip install "adaptermix[datasets]", or name a file',
        )
    import datasets

    datasets.utils.logging.set_verbosity(datasets.logging.CRITICAL)
    if data_set.is_saved:
        return _saved(data_set, on_progress)
    revision, told = (None, "") if data_set.is_local else _revision(data_set)
    with _reading(name):
        configs = datasets.get_dataset_config_names(name, revision=revision)
    config, asked = _config(data_set, configs, pick)
    with _reading(name):
        splits = _streaming(name, config, revision)
    split = _split(data_set, config, asked, list(splits))
    origin = f"{name}:{config}:{split}"
    tell(on_progress, [f"reading {name}, configuration {config}, split {split}{told}"])
    rows = splits[split]
    with _reading(name):
        columns = tuple(rows.column_names or next(iter(rows), {}))
    return Stream(origin, columns, lambda names: _rows(rows, origin, columns, names))


def _streaming(name: str, config: str, revision: str | None) -> Any:
    """Return the splits of a configuration. All cells of CSV are text, as in CSV files."""
    import datasets
    from datasets.packaged_modules.csv.csv import CsvConfig

    builder = datasets.load_dataset_builder(name, config, revision=revision)
    if not isinstance(builder.config, CsvConfig):
        return builder.as_streaming_dataset()
    options: dict[str, Any] = {"na_filter": False}
    if builder.config.sep == "\t":
        options["quoting"] = csv.QUOTE_NONE
    if builder.info.features is None:
        first = next(iter(builder.as_streaming_dataset().values()))
        text = {column: datasets.Value("string") for column in next(iter(first), {})}
        options["features"] = datasets.Features(text)
    return datasets.load_dataset(name, config, revision=revision, streaming=True, **options)


def _saved(data_set: DataSet, on_progress: OnProgress) -> Stream:
    """Open a folder that ``save_to_disk`` wrote: one split, or several by their names."""
    import datasets

    name = data_set.repository
    with _reading(name):
        found = datasets.load_from_disk(name)
    splits = found if isinstance(found, datasets.DatasetDict) else {"train": found}
    parts = [part for part in data_set.parts if part != "default"]
    split = _split(data_set, "default", parts[-1] if parts else "", list(splits))
    rows, origin = splits[split], f"{name}:{split}"
    tell(on_progress, [f"reading {name}, split {split}"])
    columns = tuple(rows.column_names)
    return Stream(origin, columns, lambda names: _rows(rows, origin, columns, names))


def _revision(data_set: DataSet) -> tuple[str, str]:
    """Return the commit and its description, in one request that fails fast without network."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    name = data_set.repository
    with _reading(name):
        try:
            info = HfApi().dataset_info(name, revision=data_set.revision)
        except (GatedRepoError, RepositoryNotFoundError) as error:
            raise ResourceError(
                f"{name} is not a local file, and the Hub has no such data set",
                hint="check the name; if the data set is private or gated, log in: hf auth login",
            ) from error
    known = [tag.partition(":")[2] for tag in info.tags or () if tag.startswith("license:")]
    license_ = ", ".join(known) or "not stated"
    return str(info.sha), f", revision {info.sha}; license: {license_}"


def _config(
    data_set: DataSet, configs: Sequence[str], pick: Callable[[Sequence[str]], str | None]
) -> tuple[str, str]:
    """Return the configuration, and the requested split or an empty string."""
    config, split = (*data_set.parts, "", "")[:2]
    if len(data_set.parts) == 1 and config not in configs:
        config, split = "", config  # a single name is a configuration, or else a split
    if config and config not in configs:
        raise DataError(
            f"{data_set.repository}: no configuration '{config}'", hint=_listed(configs)
        )
    config = config or pick(configs) or ("default" if "default" in configs else "")
    if not config and len(configs) > 1:
        raise DataError(
            f"{data_set.repository}: the data set has {len(configs)} configurations",
            hint=f"name one, as in {data_set.repository}:{configs[0]}; {_listed(configs)}",
        )
    return config or configs[0], split


def _split(data_set: DataSet, config: str, asked: str, splits: Sequence[str]) -> str:
    if asked and asked not in splits:
        raise DataError(
            f"{data_set.repository}: no split '{asked}' in the configuration '{config}'",
            hint=_listed(splits),
        )
    if not asked and "train" not in splits and len(splits) > 1:
        raise DataError(
            f"{data_set.repository}: the configuration '{config}' has several splits",
            hint=f"name one, as in {data_set.repository}:{config}:{splits[0]}; {_listed(splits)}",
        )
    return asked or ("train" if "train" in splits else splits[0])


def _listed(names: Sequence[str]) -> str:
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return "it has " + ", ".join(names[:_SHOWN]) + more


def _rows(
    rows: Any, origin: str, columns: Sequence[str], names: Sequence[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    wanted = [name for name in dict.fromkeys(names) if name in columns]
    with _reading(origin):
        selected = rows.select_columns(wanted)
    yield from enumerate(_read(selected, origin), start=1)


def _read(rows: Any, origin: str) -> Iterator[dict[str, Any]]:
    """Yield rows; only their reading, not what is done with them, is checked for errors."""
    reader = iter(rows)
    while True:
        with _reading(origin):
            try:
                row = next(reader)
            except StopIteration:
                return
            except KeyError as error:  # a later file lacks a column of the first
                raise _different_columns(origin) from error
        yield row


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Convert errors of reading or downloading a data set into adaptermix's own errors."""
    from datasets.exceptions import DatasetsError
    from datasets.table import CastError
    from pyarrow import ArrowException

    hint = "without network access, name a local file, or the folder of a copy"
    try:
        if Path(name.partition(":")[0]).is_dir():
            yield
        else:
            with reaching_hub(
                f"{name} is not a local file, and could not be loaded from the Hub", hint
            ):
                yield
    except CastError as error:
        raise _different_columns(name) from error
    except (ArrowException, DatasetsError, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{name}: no readable data files: {first_line(error)}",
            hint="adaptermix reads CSV, TSV, JSON Lines, JSON, Parquet, and folders of "
            "save_to_disk; name one file to see where it is damaged",
        ) from error
    except StopIteration as error:  # from an empty file
        raise MissingDataError(f"{name}: no records", hint="name a file with rows") from error
    except RuntimeError as error:
        if "script" not in str(error):
            raise
        raise DataError(
            f"{name}: the data set is a script, and adaptermix does not run code from data sets",
            hint="use its revision @refs/convert/parquet, where the Hub keeps Parquet copies, "
            "or another copy with data files",
        ) from error


def _different_columns(name: str) -> DataError:
    return DataError(f"{name}: its data files have different columns", hint="name one of the files")
