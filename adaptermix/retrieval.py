"""Translation retrieval over all layers and pairs: where a model's languages are aligned.

The paper's analysis (section 2, 4.2): mean-pooled hidden states, LASER's ratio margin, accuracy in
both directions of every pair; for the base model and any number of adapters side by side.
"""

import csv
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from adaptermix.adapters.adapter import adapter_hash, read_adapter
from adaptermix.adapters.matching import check_fits, notes_on_base
from adaptermix.adapters.systems import BASE, named_adapters
from adaptermix.correlation import Correlation, pearson, spearman
from adaptermix.data.languages import flores_code
from adaptermix.data.multiway import read_multiway
from adaptermix.errors import ConfigError, DataError
from adaptermix.extraction import (
    Extractor,
    LayerReader,
    OnProgress,
    Text,
    encode_texts,
    layers_and_width,
)
from adaptermix.files.outputs import Report, check_output, whole_output
from adaptermix.files.text import json_value
from adaptermix.models.files import fingerprint, weight_shapes
from adaptermix.models.loading import load_tokenizer, locate_model
from adaptermix.retrieval_scores import normalized, retrieve
from adaptermix.settings.evaluation import RetrievalSettings
from adaptermix.settings.paper import LOW_RESOURCE, PAPER_GROUPS
from adaptermix.version import __version__

ALL = "all"
EVEN, EVERY, MIDDLE, ASKED = "even layers", "all layers", "middle layer", "layers asked for"
_LEAST = 3  # points that a correlation needs


@dataclass(frozen=True)
class PairScores:
    """One system on one ordered pair: a value for every layer."""

    system: str
    source: str
    target: str
    accuracy: list[float]
    mexa: list[float]


@dataclass(frozen=True)
class LanguageScores:
    """One system on one language: means over its pairs, a value for every layer.

    Attributes:
        system: The system.
        lang: The language.
        accuracy: Mean of the two below.
        as_source: Its sentences retrieve those of other languages.
        as_target: Its sentences are retrieved by those of other languages.
        mexa: MEXA's score, which has no direction.
    """

    system: str
    lang: str
    accuracy: list[float]
    as_source: list[float]
    as_target: list[float]
    mexa: list[float]


@dataclass(frozen=True)
class LayerScores:
    """One system on all pairs or a group of languages: a value for every layer.

    Attributes:
        system: The system.
        over: ``all``, or the name of a group.
        accuracy: Mean over all pairs; of a group, the mean of its languages' accuracies.
        mexa: The same of MEXA's score.
        within: Mean over the pairs inside the group; None where it has none.
    """

    system: str
    over: str
    accuracy: list[float]
    mexa: list[float]
    within: list[float] | None


@dataclass(frozen=True)
class Aggregate:
    """The mean of some layers, which ``reading`` names: the paper's is ``even layers``."""

    system: str
    over: str
    reading: str
    layers: list[int]
    accuracy: float
    mexa: float


@dataclass(frozen=True)
class Point:
    """A language with its retrieval accuracy and its task score."""

    lang: str
    accuracy: float
    score: float


@dataclass(frozen=True)
class ScoreCorrelation:
    """How retrieval of one system goes together with the task scores of another, over languages."""

    system: str
    scored: str
    metric: str
    over: str
    reading: str
    points: list[Point]
    pearson: Correlation
    spearman: Correlation


@dataclass(frozen=True)
class RetrievalReport(Report):
    """Retrieval of all systems; lists of values are parallel to ``layers``.

    Attributes:
        depth: Number of the model's blocks, and of its last layer; layer 0 is the embeddings.
        groups: Languages by the name of their group, those that were analyzed.
        extracted: Systems times languages whose representations were computed.
        reused: The same, taken from the cache.
    """

    kind: str
    systems: list[str]
    langs: list[str]
    split: str
    sentences: int
    pooling: str
    pool_skip: int
    neighbors: int
    pivot: str
    depth: int
    layers: list[int]
    groups: dict[str, list[str]]
    pairs: list[PairScores]
    by_language: list[LanguageScores]
    by_layer: list[LayerScores]
    aggregates: list[Aggregate]
    correlations: list[ScoreCorrelation]
    extracted: int
    reused: int
    notes: list[str]
    out: str


@dataclass(frozen=True)
class RetrievalPlan(Report):
    """What an analysis would do.

    Attributes:
        missing: Systems times languages that have to be extracted.
        missing_bytes: What their representations take on disk.
    """

    systems: list[str]
    langs: list[str]
    sentences: int
    layers: list[int]
    pairs: int
    missing: int
    known: int
    missing_bytes: int
    out: str


def analyze(
    settings: RetrievalSettings,
    *,
    force: bool = False,
    on_progress: OnProgress = lambda stage, done, total: None,
) -> RetrievalReport:
    """Extract representations, retrieve translations, and sum up by layer, language and group.

    Writes a new directory: ``retrieval.json``, ``layers.csv``, ``languages.csv``, ``pairs.csv`` and
    ``aggregates.csv``. Memory holds two languages' representations of one layer at a time.

    Raises:
        ConfigError: Two adapters of one name, a pivot that is not among the languages, a layer
            that the model has not, no data folder.
        DataError: A language without data, files that are not parallel, a record that is none.
        ArtifactError: A model or adapter that cannot be used, or an output that exists.
        ResourceError: No room on disk or in memory.
    """
    with tempfile.TemporaryDirectory(prefix="adaptermix-") as scratch:
        job = _prepare(settings, force, Path(scratch))
        paths = job.extractor.extract(job.systems, job.texts, on_progress)
        grid = _retrieve_all(job, LayerReader(paths), settings.neighbors, on_progress)
    base = fingerprint(job.folder)
    report = _summed_up(job, grid, settings, base)
    record = {
        "adaptermix": __version__,
        "settings": settings.model_dump(mode="json"),
        "base_fingerprint": base,
        "adapters": {
            name: {"path": str(adapter.path), "hash": adapter_hash(adapter)}
            for name, adapter in job.extractor.adapters.items()
        },
    }
    _write(report, record)
    return report


def plan(settings: RetrievalSettings, *, force: bool = False) -> RetrievalPlan:
    """Check everything ``analyze`` needs and say what it would do; raises what it raises."""
    with tempfile.TemporaryDirectory(prefix="adaptermix-") as scratch:
        job = _prepare(settings, force, Path(scratch))
        missing = job.extractor.missing(job.systems, job.texts)
        return RetrievalPlan(
            systems=job.systems,
            langs=job.langs,
            sentences=len(job.texts[0].ids),
            layers=job.layers,
            pairs=2 * len(job.pairs),
            missing=len(missing),
            known=len(job.systems) * len(job.texts) - len(missing),
            missing_bytes=sum(job.extractor.size(text) for _, text in missing),
            out=str(settings.out),
        )


@dataclass(frozen=True)
class _Job:
    """Everything an analysis needs, checked before the model is loaded.

    Attributes:
        pairs: Places of two languages; each pair is there once, for both directions.
        scores: Task scores by system and language, where there are any, and their metric.
    """

    folder: Path
    systems: list[str]
    langs: list[str]
    texts: list[Text]
    layers: list[int]
    pairs: list[tuple[int, int]]
    extractor: Extractor
    scores: "TaskScores | None"


def _prepare(settings: RetrievalSettings, force: bool, scratch: Path) -> _Job:
    check_output(settings.out, force)
    if settings.data_dir is None:
        raise ConfigError(
            "retrieval needs the folder of the parallel text",
            hint="--data-dir FOLDER, with one file a language, such as eng_Latn.dev or en.txt",
        )
    langs = list(settings.langs)
    pairs = language_pairs(langs, settings.pivot)
    adapters = named_adapters([read_adapter(Path(path)) for path in settings.adapters])
    texts = read_multiway(langs, settings.split, settings.data_dir)
    scores = None if settings.scores is None else read_scores(settings.scores, langs)
    folder = locate_model(settings)
    shapes = weight_shapes(folder) if adapters else {}
    for adapter in adapters.values():
        check_fits(adapter, shapes, settings.model)
    tokenizer = load_tokenizer(folder, settings)
    encoded = encode_texts(
        {lang: sentences[: settings.limit] for lang, sentences in texts.items()}, tokenizer, folder
    )
    pad_id = int(tokenizer.pad_token_id or 0)
    return _Job(
        folder=folder,
        systems=[*([] if settings.exclude_base else [BASE]), *adapters],
        langs=langs,
        texts=encoded,
        layers=_layers(settings, layers_and_width(folder, settings)[0]),
        pairs=pairs,
        extractor=Extractor(settings, folder, pad_id, adapters, scratch),
        scores=scores,
    )


def language_pairs(langs: Sequence[str], pivot: str) -> list[tuple[int, int]]:
    """Return the places of the two languages of each pair, sorted by the first.

    Raises:
        ConfigError: A pivot that is not among the languages.
    """
    if pivot == ALL:
        return [(a, b) for a in range(len(langs)) for b in range(a + 1, len(langs))]
    codes = [flores_code(lang) for lang in langs]
    if flores_code(pivot) not in codes:
        raise ConfigError(
            f"--pivot {pivot}: not among the languages", hint="add it to --langs, or use all"
        )
    place = codes.index(flores_code(pivot))
    return [(place, other) for other in range(len(langs)) if other != place]


def _layers(settings: RetrievalSettings, count: int) -> list[int]:
    layers = sorted({*(range(count) if settings.layers is None else settings.layers)})
    if layers[-1] >= count:
        raise ConfigError(
            f"--layers {layers[-1]}: {settings.model} has {count - 1} blocks",
            hint="layer 0 is the embeddings, the last one what the final norm gives",
        )
    return layers


@dataclass(frozen=True)
class _Grid:
    """Scores by system, source, target and layer; NaN where there is no such pair."""

    accuracy: Float[np.ndarray, "systems src tgt layers"]
    mexa: Float[np.ndarray, "systems src tgt layers"]


def _retrieve_all(job: _Job, reader: LayerReader, neighbors: int, on_progress: OnProgress) -> _Grid:
    shape = (len(job.systems), len(job.langs), len(job.langs), len(job.layers))
    grid = _Grid(np.full(shape, np.nan), np.full(shape, np.nan))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    total, done = len(job.systems) * len(job.layers) * len(job.pairs), 0
    for at, system in enumerate(job.systems):
        for depth, layer in enumerate(job.layers):
            held, sources = -1, torch.empty(0, 0)
            for a, b in job.pairs:  # sorted by the first
                if a != held:
                    held = a
                    sources = normalized(reader.layer(system, job.langs[a], layer).to(device))
                targets = normalized(reader.layer(system, job.langs[b], layer).to(device))
                found = retrieve(sources, targets, neighbors)
                grid.accuracy[at, a, b, depth] = found.forward_accuracy
                grid.accuracy[at, b, a, depth] = found.backward_accuracy
                grid.mexa[at, [a, b], [b, a], depth] = found.mexa
                done += 1
                on_progress("retrieving", done, total)
    return grid


def _summed_up(job: _Job, grid: _Grid, settings: RetrievalSettings, base: str) -> RetrievalReport:
    groups = _groups(job.langs, settings.groups)
    readings = _readings(job.layers, job.extractor.layers - 1, settings.layers is not None)
    langs = [s for at, name in enumerate(job.systems) for s in _by_language(name, job, grid, at)]
    layers = [
        scores
        for at, name in enumerate(job.systems)
        for scores in _by_layer(name, job.langs, groups, grid.accuracy[at], grid.mexa[at])
    ]
    return RetrievalReport(
        kind="retrieval",
        systems=job.systems,
        langs=job.langs,
        split=settings.split,
        sentences=len(job.texts[0].ids),
        pooling=settings.pooling,
        pool_skip=settings.pool_skip,
        neighbors=settings.neighbors,
        pivot=settings.pivot,
        depth=job.extractor.layers - 1,
        layers=job.layers,
        groups=groups,
        pairs=_pair_scores(job, grid),
        by_language=langs,
        by_layer=layers,
        aggregates=[
            _aggregate(scores, reading, chosen, job.layers)
            for scores in layers
            for reading, chosen in readings.items()
        ],
        correlations=(_correlations(job, job.scores, grid, groups, readings) if job.scores else []),
        extracted=job.extractor.extracted,
        reused=job.extractor.reused,
        notes=[
            *notes_on_base(job.extractor.adapters, settings.model, base),
            *_notes(job, settings.groups),
        ],
        out=str(settings.out),
    )


def _groups(
    langs: Sequence[str], given: Mapping[str, Sequence[str]] | None
) -> dict[str, list[str]]:
    """Return the groups of analyzed languages; one that is empty or has all says nothing."""
    supervised = {flores_code(lang) for lang in PAPER_GROUPS["supervised"]}
    wanted: Mapping[str, Sequence[str]] = given or {
        **PAPER_GROUPS,
        "transfer": [lang for lang in langs if flores_code(lang) not in supervised],
        "low-resource": LOW_RESOURCE,
    }
    found = {}
    for name, members in wanted.items():
        codes = {flores_code(member) for member in members}
        here = [lang for lang in langs if flores_code(lang) in codes]
        if 0 < len(here) < len(langs):
            found[name] = here
    return found


def _readings(layers: Sequence[int], depth: int, is_asked: bool) -> dict[str, list[int]]:
    """Return what an average may be over; a reading needs all of its layers.

    The paper says "averaged over all language pairs and layers" in its table 2, and "at
    even-numbered layers, excluding the input embedding layer" in section 4.2.
    """
    readings = {
        EVEN: list(range(2, depth + 1, 2)),
        EVERY: list(range(1, depth + 1)),
        MIDDLE: [max(1, depth // 2)],
        ASKED: list(layers) if is_asked else [],
    }
    return {name: r for name, r in readings.items() if r and {*r} <= {*layers}}


def _listed(values: Float[np.ndarray, " layers"]) -> list[float]:
    return [round(float(value), 6) for value in values]


def _pair_scores(job: _Job, grid: _Grid) -> list[PairScores]:
    both = {pair for a, b in job.pairs for pair in ((a, b), (b, a))}
    return [
        PairScores(
            system=system,
            source=job.langs[a],
            target=job.langs[b],
            accuracy=_listed(grid.accuracy[at, a, b]),
            mexa=_listed(grid.mexa[at, a, b]),
        )
        for at, system in enumerate(job.systems)
        for a, b in sorted(both)
    ]


def _by_language(system: str, job: _Job, grid: _Grid, at: int) -> list[LanguageScores]:
    as_source = np.nanmean(grid.accuracy[at], axis=1)  # [src layers]
    as_target = np.nanmean(grid.accuracy[at], axis=0)  # [tgt layers]
    mexa = np.nanmean(grid.mexa[at], axis=1)
    return [
        LanguageScores(
            system=system,
            lang=lang,
            accuracy=_listed((as_source[place] + as_target[place]) / 2),
            as_source=_listed(as_source[place]),
            as_target=_listed(as_target[place]),
            mexa=_listed(mexa[place]),
        )
        for place, lang in enumerate(job.langs)
    ]


def _by_layer(
    system: str,
    langs: Sequence[str],
    groups: Mapping[str, Sequence[str]],
    accuracy: Float[np.ndarray, "src tgt layers"],
    mexa: Float[np.ndarray, "src tgt layers"],
) -> list[LayerScores]:
    def mean(of: np.ndarray) -> list[float]:
        return _listed(np.nanmean(of, axis=(0, 1)))

    found = [LayerScores(system, ALL, mean(accuracy), mean(mexa), mean(accuracy))]
    for name, members in groups.items():
        places = [langs.index(member) for member in members]
        inside = accuracy[np.ix_(places, places)]
        found.append(
            LayerScores(
                system=system,
                over=name,
                accuracy=_listed(_of_languages(accuracy)[places].mean(axis=0)),
                mexa=_listed(_of_languages(mexa)[places].mean(axis=0)),
                within=None if np.isnan(inside).all() else mean(inside),
            )
        )
    return found


def _of_languages(values: np.ndarray) -> np.ndarray:
    """From [src tgt ...], return each language's mean as a source and as a target [langs ...]."""
    means: np.ndarray = (np.nanmean(values, axis=1) + np.nanmean(values, axis=0)) / 2
    return means


def _aggregate(
    scores: LayerScores, reading: str, chosen: list[int], layers: Sequence[int]
) -> Aggregate:
    places = [layers.index(layer) for layer in chosen]
    accuracy, mexa = (
        round(float(np.mean([values[place] for place in places])), 6)
        for values in (scores.accuracy, scores.mexa)
    )
    return Aggregate(scores.system, scores.over, reading, chosen, accuracy, mexa)


def _notes(job: _Job, groups: Mapping[str, Sequence[str]] | None) -> list[str]:
    notes = [
        f"{text.truncated:,} sentences in '{text.lang}' were cut to the model's context"
        for text in job.texts
        if text.truncated
    ]
    if job.scores and job.scores.unknown:
        notes.append("scores without retrieval: " + " ".join(job.scores.unknown))
    codes = {flores_code(lang) for lang in job.langs}
    for name, members in (groups or {}).items():
        if absent := [member for member in members if flores_code(member) not in codes]:
            notes.append(f"group {name}: not analyzed: {' '.join(absent)}")
    return notes


@dataclass(frozen=True)
class TaskScores:
    """Task scores that have a retrieval accuracy beside them.

    Attributes:
        metric: Their name.
        values: By system, then by the language as the record has it.
        places: For each such language, the language, or the pair of them, in the analysis.
        unknown: Languages of the record that were not analyzed.
    """

    metric: str
    values: dict[str, dict[str, float]]
    places: dict[str, tuple[int, ...]]
    unknown: list[str]


def read_scores(path: Path, langs: Sequence[str]) -> TaskScores:
    """Read the record of an evaluation, and match its languages with those of the analysis.

    Raises:
        DataError: No record of an evaluation, or too few languages in common.
    """
    file = path / "scores.json" if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"{file}: no such file", hint="--scores is the folder that eval wrote")
    record = json_value(file.read_text(encoding="utf-8"), str(file))
    try:
        cells = [(c["system"], c["lang"], c["score"]) for c in record["cells"]]
        metric = str(cells[0][2]["name"])
        values: dict[str, dict[str, float]] = {}
        for system, lang, score in cells:
            values.setdefault(str(system), {})[str(lang)] = float(score["value"])
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise DataError(f"{file}: not the record of an eval (scores.json)") from error
    seen = list(dict.fromkeys(lang for scores in values.values() for lang in scores))
    places = match_languages(seen, langs, str(file))
    return TaskScores(metric, values, places, [lang for lang in seen if lang not in places])


def match_languages(
    scored: Sequence[str], langs: Sequence[str], source: str
) -> dict[str, tuple[int, ...]]:
    """Return the places, among those analyzed, of the languages that ``source`` has scores of.

    Raises:
        DataError: Too few of them.
    """
    places = {lang: place for lang in scored if (place := _place(lang, langs))}
    if len(places) < _LEAST:
        raise DataError(
            f"{source}: languages analyzed here: {len(places)}; a correlation needs {_LEAST}",
            hint="it has " + " ".join(scored),
        )
    return places


def _place(lang: str, langs: Sequence[str]) -> tuple[int, ...]:
    """Find a language (``cy``), or both of a translation (``de-en``); nothing where one lacks."""
    codes = [flores_code(known) for known in langs]
    for parts in ([lang], lang.split("-")):
        wanted = [flores_code(part) for part in parts]
        if len(wanted) < 3 and all(code in codes for code in wanted):
            return tuple(codes.index(code) for code in wanted)
    return ()


def _correlations(
    job: _Job,
    scores: TaskScores,
    grid: _Grid,
    groups: Mapping[str, Sequence[str]],
    readings: Mapping[str, list[int]],
) -> list[ScoreCorrelation]:
    """Correlate the base model's retrieval with every system's task scores (figure 1b)."""
    found = []
    for reading, chosen in readings.items():
        layers = [job.layers.index(layer) for layer in chosen]
        accuracy = grid.accuracy[job.systems.index(BASE)][..., layers].mean(axis=-1)  # [src tgt]
        for scored, values in scores.values.items():
            points = _points(scores.places, values, accuracy)
            for over, members in {ALL: None, **groups}.items():
                codes = None if members is None else {*map(flores_code, members)}
                mine = [p for p in points if codes is None or flores_code(p.lang) in codes]
                if len(mine) >= _LEAST:
                    sides = [p.accuracy for p in mine], [p.score for p in mine]
                    found.append(
                        ScoreCorrelation(
                            system=BASE,
                            scored=scored,
                            metric=scores.metric,
                            over=over,
                            reading=reading,
                            points=mine,
                            pearson=pearson(*sides),
                            spearman=spearman(*sides),
                        )
                    )
    return found


def _points(
    places: Mapping[str, tuple[int, ...]],
    values: Mapping[str, float],
    accuracy: Float[np.ndarray, "src tgt"],
) -> list[Point]:
    """Put task scores beside retrieval: of the language, or of the pair that is translated."""
    of_languages = _of_languages(accuracy)
    found = []
    for lang, place in places.items():
        x = float(accuracy[place] if len(place) > 1 else of_languages[place])
        if lang in values and not np.isnan(x):  # with a pivot, there are not all pairs
            found.append(Point(lang, round(x, 6), values[lang]))
    return found


def _write(report: RetrievalReport, record: dict[str, Any]) -> None:
    layers = list(enumerate(report.layers))
    with whole_output(Path(report.out)) as partial:
        partial.mkdir()
        text = json.dumps(record | report.as_record(), ensure_ascii=False)
        (partial / "retrieval.json").write_text(text + "\n", encoding="utf-8")
        _write_rows(
            partial / "layers.csv",
            ["system", "over", "layer", "accuracy", "mexa"],
            (
                [s.system, s.over, layer, s.accuracy[at], s.mexa[at]]
                for s in report.by_layer
                for at, layer in layers
            ),
        )
        _write_rows(
            partial / "languages.csv",
            ["system", "lang", "layer", "accuracy", "as_source", "as_target", "mexa"],
            (
                [
                    s.system,
                    s.lang,
                    layer,
                    s.accuracy[at],
                    s.as_source[at],
                    s.as_target[at],
                    s.mexa[at],
                ]
                for s in report.by_language
                for at, layer in layers
            ),
        )
        _write_rows(
            partial / "pairs.csv",
            ["system", "source", "target", "layer", "accuracy", "mexa"],
            (
                [s.system, s.source, s.target, layer, s.accuracy[at], s.mexa[at]]
                for s in report.pairs
                for at, layer in layers
            ),
        )
        _write_rows(
            partial / "aggregates.csv",
            ["system", "over", "reading", "accuracy", "mexa"],
            ([a.system, a.over, a.reading, a.accuracy, a.mexa] for a in report.aggregates),
        )


def _write_rows(path: Path, header: list[str], rows: Iterable[list[Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
