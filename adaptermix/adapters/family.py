"""A family: a folder of adapters, with a route from each language to one of them.

``routes.toml`` has one table per language, which may also contain the evidence for the choice::

    default = "task"

    [routes.cy]
    adapter = "align-0.7"

A language without a table uses the default adapter.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import tomli_w
from blake3 import blake3
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from adaptermix.adapters.adapter import Adapter, adapter_hash, read_adapter
from adaptermix.adapters.base_names import is_one_base
from adaptermix.adapters.format import CONFIG_FILE, ROUTES_FILE
from adaptermix.adapters.matching import first_pairs, share_a_base
from adaptermix.errors import ArtifactError, ConfigError
from adaptermix.files.toml import hint_of_keys, line_of, read_toml
from adaptermix.settings.shared import complaint
from adaptermix.tables import RULE, Cell, Row, Table, printable, shown

_STRICT = ConfigDict(extra="forbid")
_UNKNOWN = "unexpected_keyword_argument"  # pydantic's error type
_ONE_BASE = "all adapters of a family need the same base model"
COLUMNS = (
    "n: dev examples. task: score of the task adapter. merge: score of the best merge, with "
    "its difference from the task adapter, the 95% interval, and p after Holm's correction over "
    "languages and merges."
)


@checked(frozen=True, config=_STRICT)
class Route:
    """The adapter of a language, and the comparison of a merge with the task adapter.

    Attributes:
        adapter: Name of the adapter's folder.
        examples: Number of dev examples.
        task_score: Score of the task adapter on them.
        merge: The chosen merge; if none was chosen, the merge with the best score.
        merge_score: Score of the merge.
        difference: The merge's score minus the task adapter's.
        low: Lower bound of the difference's 95% interval.
        high: Upper bound of the interval.
        p: Two-sided p-value of the difference, not corrected.
        p_holm: The p-value after Holm's correction over languages and merges.
    """

    adapter: str
    examples: int = 0
    task_score: float | None = None
    merge: str | None = None
    merge_score: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None


@checked(frozen=True, config=_STRICT)
class Routes:
    """The content of ``routes.toml``.

    Attributes:
        default: Name of the adapter of all languages without a route.
        routes: The route of each language.
        base: Base model of the adapters.
        base_fingerprint: Hash of the base model that the routes were chosen on.
        task: The task whose dev data the routes were chosen on.
        metric: Name of its metric.
        prefer: Rule of the choice: ``simpler`` or ``best``.
        adaptermix: Version of adaptermix that wrote the file.
    """

    default: str
    routes: dict[str, Route]
    base: str | None = None
    base_fingerprint: str | None = None
    task: str | None = None
    metric: str | None = None
    prefer: str | None = None
    adaptermix: str | None = None

    @property
    def names(self) -> list[str]:
        """Names of the adapters, default first."""
        return list(dict.fromkeys([self.default, *(r.adapter for r in self.routes.values())]))

    def name_for(self, lang: str) -> str:
        """Return the name of a language's adapter."""
        return self.routes[lang].adapter if lang in self.routes else self.default

    def as_toml(self) -> str:
        """Return the text of the file."""
        known = _as_keys(asdict(self))
        routes = {lang: _as_keys(asdict(route)) for lang, route in self.routes.items()}
        return tomli_w.dumps(known | {"routes": routes})

    def table(self, name: str, title: str) -> Table:
        """Return the routes and their evidence as a table."""
        rows: list[Row] = [[printable(lang), *self._evidence(r)] for lang, r in self.routes.items()]
        rows += [RULE, ["others", printable(self.default), *[""] * 5]]
        columns = ["language", "adapter", "n", "task", "merge", "difference", "p, Holm"]
        return Table(name, title, columns, rows, COLUMNS, align="llrrrrr")

    def _evidence(self, route: Route) -> list[str | Cell]:
        ends = [self._shown(end, "+") for end in (route.difference, route.low, route.high)]
        return [
            Cell(printable(route.adapter), look="strong" if route.adapter != self.default else ""),
            f"{route.examples:,}",
            self._shown(route.task_score),
            self._shown(route.merge_score),
            "-" if route.difference is None else f"{ends[0]} [{ends[1]}, {ends[2]}]",
            "-" if route.p_holm is None else f"{route.p_holm:.4f}",
        ]

    def _shown(self, value: float | None, sign: str = "") -> str:
        return "-" if value is None else shown(self.metric or "score", value, sign)


@dataclass(frozen=True)
class Family:
    """A family read from disk, with its adapters.

    Attributes:
        path: The folder.
        content: The routes.
        adapters: Adapters by name, default first.
    """

    path: Path
    content: Routes
    adapters: dict[str, Adapter]

    @property
    def default(self) -> Adapter:
        """The adapter of languages without a route: the task adapter."""
        return self.adapters[self.content.default]

    def adapter_for(self, lang: str) -> Adapter:
        """Return the adapter of a language."""
        return self.adapters[self.content.name_for(lang)]

    def check_base(self, base: str, fingerprint: str) -> None:
        """Check that the base model is the one that the routes were chosen on.

        Args:
            base: Name of the base model in use.
            fingerprint: Its fingerprint.

        Raises:
            ArtifactError: The base model differs.
        """
        if self.content.base_fingerprint not in (None, fingerprint):
            raise ArtifactError(
                f"{_at(self.path, 'base_fingerprint')}: the routes were chosen with "
                f"{self.content.base or 'another base model'}, whose weights differ from those "
                f"of {base}",
                hint="use that base model as --model, or delete the line base-fingerprint",
            )

    def notes_on(self, langs: Iterable[str]) -> list[str]:
        """Return a note on languages without a route."""
        others = [lang for lang in langs if lang not in self.content.routes]
        if not others:
            return []
        return [
            f"{self.path} has no route for {', '.join(others)}; using the default, "
            f"{self.content.default}"
        ]


def is_family(path: Path) -> bool:
    """Whether a path is a family's folder."""
    return (path / ROUTES_FILE).is_file()


def read_family(path: Path) -> Family:
    """Read a family and its adapters, and check that they have the same base model.

    Raises:
        ArtifactError: ``routes.toml`` or an adapter is damaged, a route's adapter does not exist,
            or adapters have another base model. Errors of ``routes.toml`` name file and line.
    """
    content = _read_routes(path)
    adapters = {name: _read_member(path, content, name) for name in content.names}
    for name, adapter in adapters.items():
        _check_base(path, content, name, adapter)
    if odd := first_pairs(list(adapters.values()), _have_other_bases):
        one, other = odd[0]
        raise ArtifactError(
            f"{path / ROUTES_FILE}: {other.path} was trained on {other.base}, but {one.path} on "
            f"{one.base}",
            hint=_ONE_BASE,
        )
    return Family(path, content, adapters)


def family_hash(family: Family) -> str:
    """Return a hash of everything that defines the family: its routes and adapters."""
    hashes = {name: adapter_hash(adapter) for name, adapter in family.adapters.items()}
    routes = {lang: hashes[route.adapter] for lang, route in family.content.routes.items()}
    does = json.dumps([hashes[family.content.default], routes], sort_keys=True)
    return blake3(does.encode()).hexdigest()


def _read_routes(path: Path) -> Routes:
    file = path / ROUTES_FILE
    try:
        table = read_toml(file)
    except ConfigError as error:  # routes.toml is an artifact, not a settings file
        raise ArtifactError(error.message, hint=error.hint) from error
    try:
        content: Routes = TypeAdapter(Routes).validate_python(_as_names(table))
    except ValidationError as error:
        unknown_first = sorted(error.errors(), key=lambda found: found["type"] != _UNKNOWN)
        raise _damaged(path, unknown_first[0]) from error
    if not content.routes:
        raise ArtifactError(f"{file}:1: no routes", hint='add [routes.LANG] with adapter = "NAME"')
    return content


def _read_member(path: Path, content: Routes, name: str) -> Adapter:
    lang = next((lang for lang, route in content.routes.items() if route.adapter == name), None)
    place = ("default",) if name == content.default else ("routes", str(lang), "adapter")
    what = "the default" if name == content.default else f"the route of {lang}"
    if not name or name in (".", "..") or Path(name).name != name:
        raise ArtifactError(
            f"{_at(path, *place)}: {what} must be the name of a folder in {path}, not {name!r}"
        )
    if not (path / name).is_dir():
        there = sorted(config.parent.name for config in path.glob(f"*/{CONFIG_FILE}"))
        raise ArtifactError(
            f"{_at(path, *place)}: {what}: no adapter '{name}' in {path}",
            hint=f"adapters in this folder: {', '.join(there) or 'none'}",
        )
    return read_adapter(path / name)


def _check_base(path: Path, content: Routes, name: str, adapter: Adapter) -> None:
    base = content.base
    if base and adapter.base and is_one_base(base, adapter.base) is False:
        raise ArtifactError(
            f"{_at(path, 'base')}: base is {base}, but {path / name} was trained on {adapter.base}",
            hint=_ONE_BASE,
        )


def _have_other_bases(one: Adapter, other: Adapter) -> bool:
    return share_a_base(one, other) is False


def _damaged(path: Path, details: Mapping[str, Any]) -> ArtifactError:
    """Convert a pydantic error into one that names file, line and key."""
    place = [str(part) for part in details["loc"]]
    key = place[-1].replace("_", "-")
    where = ".".join([*place[:-1], key])
    if details["type"] == _UNKNOWN:
        known = fields(Routes if len(place) == 1 else Route)
        hint = hint_of_keys(key, [field.name.replace("_", "-") for field in known])
        return ArtifactError(f"{_at(path, *place)}: unknown key '{where}'", hint=hint)
    is_no_table = details["type"] in ("dataclass_type", "dataclass_exact_type")
    why = "expected a table" if is_no_table else complaint(details)
    return ArtifactError(f"{_at(path, *place)}: {where}: {why}")


def _at(path: Path, *place: str) -> str:
    """Return the file with the line of a key, at the top level or in a language's route."""
    file, key = path / ROUTES_FILE, place[-1].replace("_", "-")
    if len(place) == 1:
        return f"{file}:{line_of(file, None, key)}"
    lang = place[1]
    lines = [line_of(file, "routes", lang)]
    for section in (f"routes.{lang}", f'routes."{lang}'):  # line_of strips quotes in this way
        lines += [line_of(file, section, None), line_of(file, section, key)]
    return f"{file}:{max(lines)}"


def _as_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the known values by their keys in the file."""
    return {name.replace("_", "-"): value for name, value in values.items() if value is not None}


def _as_names(table: Mapping[str, Any]) -> dict[str, Any]:
    named = {key.replace("-", "_"): value for key, value in table.items()}
    routes = named.get("routes")
    if isinstance(routes, dict):
        named["routes"] = {
            lang: {key.replace("-", "_"): value for key, value in route.items()}
            if isinstance(route, dict)
            else route
            for lang, route in routes.items()
        }
    return named
