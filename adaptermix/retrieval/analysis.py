"""Translation retrieval over all layers and pairs: where a model's languages are aligned.

The paper's analysis (sections 2 and 4.2): mean-pooled hidden states, LASER's ratio margin, and
accuracy in both directions of every pair, for the base model and any number of adapters.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adaptermix.adapters.systems import read_systems
from adaptermix.data.languages import are_same_text, members_of, notes_on_groups
from adaptermix.data.multiway import read_multiway
from adaptermix.errors import ConfigError
from adaptermix.files.hub import path_of
from adaptermix.files.outputs import check_output, whole_output
from adaptermix.models.loading import check_quantization
from adaptermix.models.systems import open_systems
from adaptermix.progress import OnProgress, Progress, ignore
from adaptermix.retrieval.report import RetrievalPlan, RetrievalReport, files_of
from adaptermix.retrieval.summary import (
    ALL,
    Grid,
    RetrievalInputs,
    aggregate,
    groups_of_pairs,
    layer_sets,
    pair_scores,
    scores_by_language,
    scores_by_layer,
)
from adaptermix.retrieval.task_scores import LEAST, correlations_of, read_scores
from adaptermix.settings.evaluation import RetrievalSettings
from adaptermix.tables import number_of
from adaptermix.version import __version__


def analyze(
    settings: RetrievalSettings,
    *,
    force: bool = False,
    on_progress: OnProgress = ignore,
) -> RetrievalReport:
    """Extract representations, retrieve translations, and summarize by layer, language and group.

    Writes a new directory with ``retrieval.json``, ``layers.csv``, ``languages.csv``, ``pairs.csv``
    and ``aggregates.csv``. Memory holds the representations of one layer at a time.

    Raises:
        ConfigError: An adapter is given twice, the pivot is not among the languages, the model
            does not have a layer, or no data folder is given.
        DataError: A language has no data, files are not parallel, or the scores are not an
            evaluation record.
        ArtifactError: A model or adapter cannot be used, or the output exists.
        ResourceError: Disk space or memory is insufficient.
    """
    with tempfile.TemporaryDirectory(prefix="adaptermix-") as scratch:
        inputs = _prepare(settings, force, Path(scratch))
        paths = inputs.extractor.extract(inputs.systems, inputs.texts, on_progress)
        grid = _retrieve_all(inputs, paths, settings.neighbors, on_progress)
    report = _summed_up(inputs, grid, settings)
    record = {
        "adaptermix": __version__,
        "settings": settings.model_dump(mode="json"),
        **inputs.opened.record(),
    }
    _write(report, record)
    return report


def plan(settings: RetrievalSettings, *, force: bool = False) -> RetrievalPlan:
    """Check the inputs of ``analyze`` and return what it would do. Raises the same errors."""
    with tempfile.TemporaryDirectory(prefix="adaptermix-") as scratch:
        inputs = _prepare(settings, force, Path(scratch))
        missing = inputs.extractor.missing(inputs.systems, inputs.texts)
        return RetrievalPlan(
            systems=inputs.systems,
            langs=inputs.langs,
            sentences=len(inputs.texts[0].ids),
            layers=inputs.layers,
            pairs=2 * len(inputs.pairs),
            missing=len(missing),
            known=len(inputs.systems) * len(inputs.texts) - len(missing),
            missing_bytes=sum(inputs.extractor.size(text) for _, text in missing),
            out=str(settings.out),
        )


def _prepare(settings: RetrievalSettings, force: bool, scratch: Path) -> RetrievalInputs:
    from adaptermix.retrieval.representations import Extractor, encode_texts, layers_and_width

    check_output(settings.out, force, settings.inputs())
    if settings.data_dir is None:
        raise ConfigError(
            "retrieval needs a folder with parallel text",
            hint="use --data-dir FOLDER, with one file per language, such as eng_Latn.dev or "
            "en.txt",
        )
    langs = list(settings.langs)
    pairs = language_pairs(langs, settings.pivot)
    adapters = read_systems(map(path_of, settings.adapters))
    texts = read_multiway(langs, settings.split, settings.data_dir)
    scores = None if settings.scores is None else read_scores(settings.scores, langs)
    opened = open_systems(settings, adapters, has_base=not settings.exclude_base)
    folder, tokenizer = opened.folder, opened.tokenizer
    check_quantization(folder, settings)
    texts = {lang: sentences[: settings.limit] for lang, sentences in texts.items()}
    pad_id = int(tokenizer.pad_token_id or 0)
    return RetrievalInputs(
        opened=opened,
        langs=langs,
        texts=encode_texts(texts, tokenizer, folder),
        layers=_layers(settings, layers_and_width(folder, settings)[0]),
        pairs=pairs,
        extractor=Extractor(settings, folder, pad_id, opened.adapters, scratch),
        scores=scores,
    )


def language_pairs(langs: Sequence[str], pivot: str) -> list[tuple[int, int]]:
    """Return the indices of the two languages of each pair.

    Raises:
        ConfigError: The pivot is not among the languages.
    """
    if pivot == ALL:
        return [(a, b) for a in range(len(langs)) for b in range(a + 1, len(langs))]
    same = members_of([pivot], langs, are_same_text)
    if not same:
        raise ConfigError(
            f"--pivot {pivot}: not one of the languages",
            hint="add it to --langs, or use --pivot all",
        )
    index = langs.index(same[0])
    return [(index, other) for other in range(len(langs)) if other != index]


def _layers(settings: RetrievalSettings, count: int) -> list[int]:
    layers = sorted({*(range(count) if settings.layers is None else settings.layers)})
    if layers[-1] >= count:
        raise ConfigError(
            f"--layers {layers[-1]}: {settings.model} has {number_of(count - 1, 'block')}",
            hint="layer 0 is the embeddings, and the last layer is the output of the final norm",
        )
    return layers


def _retrieve_all(
    inputs: RetrievalInputs,
    paths: Mapping[tuple[str, str], Path],
    neighbors: int,
    on_progress: OnProgress,
) -> Grid:
    import torch

    from adaptermix.retrieval.margin import normalized, retrieve
    from adaptermix.retrieval.representations import read_layer

    shape = (len(inputs.systems), len(inputs.langs), len(inputs.langs), len(inputs.layers))
    grid = Grid(np.full(shape, np.nan), np.full(shape, np.nan))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    total, done = len(inputs.systems) * len(inputs.layers) * len(inputs.pairs), 0
    for at, system in enumerate(inputs.systems):
        files = [paths[system, lang] for lang in inputs.langs]
        for depth, layer in enumerate(inputs.layers):
            sides = [normalized(read_layer(file, layer).to(device)) for file in files]
            for a, b in inputs.pairs:
                found = retrieve(sides[a], sides[b], neighbors)
                grid.accuracy[at, a, b, depth] = found.forward_accuracy
                grid.accuracy[at, b, a, depth] = found.backward_accuracy
                grid.mexa[at, [a, b], [b, a], depth] = found.mexa
                done += 1
                on_progress(Progress("retrieving", done, total))
    return grid


def _summed_up(inputs: RetrievalInputs, grid: Grid, settings: RetrievalSettings) -> RetrievalReport:
    groups = groups_of_pairs(inputs.langs, settings.groups)
    sets = layer_sets(inputs.layers, inputs.extractor.layers - 1, settings.layers is not None)
    langs = [
        s
        for at, name in enumerate(inputs.systems)
        for s in scores_by_language(name, inputs, grid, at)
    ]
    layers = [
        scores
        for at, name in enumerate(inputs.systems)
        for scores in scores_by_layer(name, inputs.langs, groups, grid.accuracy[at], grid.mexa[at])
    ]
    return RetrievalReport(
        systems=inputs.systems,
        langs=inputs.langs,
        split=settings.split,
        sentences=len(inputs.texts[0].ids),
        pooling=settings.pooling,
        pool_skip=settings.pool_skip,
        neighbors=settings.neighbors,
        pivot=settings.pivot,
        depth=inputs.extractor.layers - 1,
        layers=inputs.layers,
        groups=groups,
        pairs=pair_scores(inputs, grid),
        by_language=langs,
        by_layer=layers,
        aggregates=[
            aggregate(scores, name, chosen, inputs.layers)
            for scores in layers
            for name, chosen in sets.items()
        ],
        correlations=(
            correlations_of(inputs, inputs.scores, grid, groups, sets) if inputs.scores else []
        ),
        extracted=inputs.extractor.extracted,
        reused=inputs.extractor.reused,
        notes=[
            *inputs.opened.notes(),
            *_notes(inputs, settings.groups),
        ],
        out=str(settings.out),
    )


def _notes(inputs: RetrievalInputs, groups: Mapping[str, Sequence[str]] | None) -> list[str]:
    notes = [
        f"cut {number_of(text.truncated, 'sentence')} in '{text.lang}' to the model's context"
        for text in inputs.texts
        if text.truncated
    ]
    if inputs.scores and inputs.scores.unknown:
        notes.append("languages with scores but no retrieval: " + " ".join(inputs.scores.unknown))
    notes += notes_on_groups(groups or {}, inputs.langs, are_same_text)
    if inputs.scores is not None and len(inputs.scores.indices) < LEAST:
        notes.append(
            f"no correlation with task scores: it needs at least {LEAST} languages with both; "
            f"this run has {len(inputs.scores.indices)}"
        )
    return notes


def _write(report: RetrievalReport, record: dict[str, Any]) -> None:
    with whole_output(Path(report.out)) as partial:
        partial.mkdir()
        text = json.dumps(record | report.as_record(), ensure_ascii=False)
        (partial / "retrieval.json").write_text(text + "\n", encoding="utf-8")
        for table in files_of(report):
            table.write(partial, "csv")
