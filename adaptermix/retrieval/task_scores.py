"""Read task scores, match them with retrieval accuracy, and correlate the two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from adaptermix.adapters.systems import BASE
from adaptermix.data.languages import are_same_text, members_of, sides_of
from adaptermix.errors import DataError
from adaptermix.files.text import json_value
from adaptermix.retrieval.correlation import Correlation, pearson, spearman
from adaptermix.retrieval.summary import ALL, Grid, RetrievalInputs, TaskScores, scores_of_languages

if TYPE_CHECKING:
    from jaxtyping import Float

LEAST = 8  # languages; with fewer, a correlation of 0.7 may be chance


@dataclass(frozen=True)
class Point:
    """A language with its retrieval accuracy and its task score."""

    lang: str
    accuracy: float
    score: float


@dataclass(frozen=True)
class ScoreCorrelation:
    """Correlation of one system's retrieval with another one's task scores, over languages."""

    system: str
    scored: str
    metric: str
    over: str
    reading: str
    points: list[Point]
    pearson: Correlation
    spearman: Correlation


def read_scores(path: Path, langs: Sequence[str]) -> TaskScores:
    """Read the record of an evaluation, and match its languages with those of the analysis.

    Raises:
        DataError: The file is not the record of an evaluation, or no language is in common.
    """
    file = path / "scores.json" if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"{file}: no such file", hint="--scores takes an output folder of eval")
    record = json_value(file.read_text(encoding="utf-8"), str(file))
    try:
        cells = [(c["system"], c["lang"], c["score"]) for c in record["cells"]]
        metric = str(cells[0][2]["name"])
        values: dict[str, dict[str, float]] = {}
        for system, lang, score in cells:
            values.setdefault(str(system), {})[str(lang)] = float(score["value"])
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise DataError(f"{file}: not a record of eval (scores.json)") from error
    seen = list(dict.fromkeys(lang for scores in values.values() for lang in scores))
    indices = match_languages(seen, langs, str(file))
    return TaskScores(metric, values, indices, [lang for lang in seen if lang not in indices])


def match_languages(
    scored: Sequence[str], langs: Sequence[str], source: str
) -> dict[str, tuple[int, ...]]:
    """Return the indices, among the analyzed languages, of those that ``source`` has scores for.

    Raises:
        DataError: None of them is analyzed.
    """
    indices = {lang: index for lang in scored if (index := _indices(lang, langs))}
    if not indices:
        raise DataError(
            f"{source}: none of its languages is analyzed in this run",
            hint="its languages are " + " ".join(scored),
        )
    return indices


def _indices(lang: str, langs: Sequence[str]) -> tuple[int, ...]:
    """Find a language (``cy``), or both of a pair (``de-en``); return nothing if one is missing."""
    for parts in ([lang], sides_of(lang)):
        found = [members_of([part], langs, are_same_text) for part in parts]
        if found and all(found):
            return tuple(langs.index(same[0]) for same in found)
    return ()


def correlations_of(
    inputs: RetrievalInputs,
    scores: TaskScores,
    grid: Grid,
    groups: Mapping[str, Sequence[str]],
    sets: Mapping[str, list[int]],
) -> list[ScoreCorrelation]:
    """Correlate the base model's retrieval with every system's task scores (figure 1b)."""
    found = []
    for name, chosen in sets.items():
        layers = [inputs.layers.index(layer) for layer in chosen]
        accuracy = grid.accuracy[inputs.systems.index(BASE)][..., layers].mean(axis=-1)  # [src tgt]
        for scored, values in scores.values.items():
            points = _points(scores.indices, values, accuracy)
            for over, members in {ALL: None, **groups}.items():
                mine = [
                    point
                    for point in points
                    if members is None or members_of(members, [point.lang], are_same_text)
                ]
                if len(mine) >= LEAST:
                    sides = [p.accuracy for p in mine], [p.score for p in mine]
                    found.append(
                        ScoreCorrelation(
                            system=BASE,
                            scored=scored,
                            metric=scores.metric,
                            over=over,
                            reading=name,
                            points=mine,
                            pearson=pearson(*sides),
                            spearman=spearman(*sides),
                        )
                    )
    return found


def _points(
    indices: Mapping[str, tuple[int, ...]],
    values: Mapping[str, float],
    accuracy: Float[np.ndarray, "src tgt"],
) -> list[Point]:
    """Match task scores with the retrieval accuracy of the language or translation pair."""
    of_languages = scores_of_languages(accuracy)
    found = []
    for lang, index in indices.items():
        x = float(accuracy[index] if len(index) > 1 else of_languages[index])
        if lang in values and not np.isnan(x):  # with a pivot, some pairs are missing
            found.append(Point(lang, round(x, 6), values[lang]))
    return found
