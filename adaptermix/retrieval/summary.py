"""Retrieval accuracy and MEXA scores, summarized by layer, language, pair and group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from adaptermix.data.languages import are_same_text, flores_code, members_of
from adaptermix.settings.paper import LOW_RESOURCE, PAPER_GROUPS

if TYPE_CHECKING:
    from jaxtyping import Float

    from adaptermix.models.systems import Systems
    from adaptermix.retrieval.representations import Extractor, Text

ALL = "all"
EVEN, EVERY, MIDDLE, ASKED = "even layers", "all layers", "middle layer", "layers asked for"


@dataclass(frozen=True)
class PairScores:
    """One system's scores on one ordered pair, with one value per layer."""

    system: str
    source: str
    target: str
    accuracy: list[float]
    mexa: list[float]


@dataclass(frozen=True)
class LanguageScores:
    """One system's scores on one language: means over its pairs, with one value per layer.

    Attributes:
        system: The system.
        lang: The language.
        accuracy: Mean of ``as_source`` and ``as_target``.
        as_source: Accuracy with the language as source, retrieving other languages' sentences.
        as_target: Accuracy with the language as target, retrieved by other languages' sentences.
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
    """One system's scores on all pairs or a group of languages, with one value per layer.

    Attributes:
        system: The system.
        over: ``all``, or the name of a group.
        accuracy: Mean over all pairs; for a group, the mean of its languages' accuracies.
        mexa: The same mean of MEXA's score.
        within: Mean accuracy over the pairs inside the group; None if there are none.
    """

    system: str
    over: str
    accuracy: list[float]
    mexa: list[float]
    within: list[float] | None


@dataclass(frozen=True)
class Aggregate:
    """The mean over a layer set, which ``reading`` names; the paper's is ``even layers``."""

    system: str
    over: str
    reading: str
    layers: list[int]
    accuracy: float
    mexa: float


@dataclass(frozen=True)
class RetrievalInputs:
    """The inputs of an analysis, checked before the model is loaded.

    Attributes:
        pairs: Indices of two languages; each pair occurs once and stands for both directions.
        scores: Task scores to correlate with, if there are any.
    """

    opened: Systems
    langs: list[str]
    texts: list[Text]
    layers: list[int]
    pairs: list[tuple[int, int]]
    extractor: Extractor
    scores: TaskScores | None

    @property
    def systems(self) -> list[str]:
        """Names of the analyzed systems."""
        return self.opened.names


@dataclass(frozen=True)
class Grid:
    """Scores by system, source, target and layer; NaN for pairs that were not analyzed."""

    accuracy: Float[np.ndarray, "systems src tgt layers"]
    mexa: Float[np.ndarray, "systems src tgt layers"]


def groups_of_pairs(
    langs: Sequence[str], given: Mapping[str, Sequence[str]] | None
) -> dict[str, list[str]]:
    """Return the groups of analyzed languages, without those that are empty or contain all."""
    supervised = {flores_code(lang) for lang in PAPER_GROUPS["supervised"]}
    wanted: Mapping[str, Sequence[str]] = given or {
        **PAPER_GROUPS,
        "transfer": [lang for lang in langs if flores_code(lang) not in supervised],
        "low-resource": LOW_RESOURCE,
    }
    found = {}
    for name, members in wanted.items():
        here = members_of(members, langs, are_same_text)
        if 0 < len(here) < len(langs):
            found[name] = here
    return found


def layer_sets(layers: Sequence[int], depth: int, is_asked: bool) -> dict[str, list[int]]:
    """Return the layer sets for averages whose layers were all analyzed.

    The paper says "averaged over all language pairs and layers" in its table 2, and "at
    even-numbered layers, excluding the input embedding layer" in section 4.2.
    """
    sets = {
        EVEN: list(range(2, depth + 1, 2)),
        EVERY: list(range(1, depth + 1)),
        MIDDLE: [max(1, depth // 2)],
        ASKED: list(layers) if is_asked else [],
    }
    return {name: chosen for name, chosen in sets.items() if chosen and {*chosen} <= {*layers}}


def _listed(values: Float[np.ndarray, " layers"]) -> list[float]:
    return [round(float(value), 6) for value in values]


def pair_scores(inputs: RetrievalInputs, grid: Grid) -> list[PairScores]:
    """Return the scores of every system, pair and direction."""
    both = {pair for a, b in inputs.pairs for pair in ((a, b), (b, a))}
    return [
        PairScores(
            system=system,
            source=inputs.langs[a],
            target=inputs.langs[b],
            accuracy=_listed(grid.accuracy[at, a, b]),
            mexa=_listed(grid.mexa[at, a, b]),
        )
        for at, system in enumerate(inputs.systems)
        for a, b in sorted(both)
    ]


def scores_by_language(
    system: str, inputs: RetrievalInputs, grid: Grid, at: int
) -> list[LanguageScores]:
    """Return one system's scores of every language."""
    as_source = np.nanmean(grid.accuracy[at], axis=1)  # [src layers]
    as_target = np.nanmean(grid.accuracy[at], axis=0)  # [tgt layers]
    mexa = np.nanmean(grid.mexa[at], axis=1)
    return [
        LanguageScores(
            system=system,
            lang=lang,
            accuracy=_listed((as_source[index] + as_target[index]) / 2),
            as_source=_listed(as_source[index]),
            as_target=_listed(as_target[index]),
            mexa=_listed(mexa[index]),
        )
        for index, lang in enumerate(inputs.langs)
    ]


def scores_by_layer(
    system: str,
    langs: Sequence[str],
    groups: Mapping[str, Sequence[str]],
    accuracy: Float[np.ndarray, "src tgt layers"],
    mexa: Float[np.ndarray, "src tgt layers"],
) -> list[LayerScores]:
    """Return one system's scores over all pairs and over each group."""

    def mean(of: np.ndarray) -> list[float]:
        return _listed(np.nanmean(of, axis=(0, 1)))

    found = [LayerScores(system, ALL, mean(accuracy), mean(mexa), mean(accuracy))]
    for name, members in groups.items():
        indices = [langs.index(member) for member in members]
        inside = accuracy[np.ix_(indices, indices)]
        found.append(
            LayerScores(
                system=system,
                over=name,
                accuracy=_listed(scores_of_languages(accuracy)[indices].mean(axis=0)),
                mexa=_listed(scores_of_languages(mexa)[indices].mean(axis=0)),
                within=None if np.isnan(inside).all() else mean(inside),
            )
        )
    return found


def scores_of_languages(values: np.ndarray) -> np.ndarray:
    """Return each language's mean as source and target [langs ...] from values [src tgt ...]."""
    means: np.ndarray = (np.nanmean(values, axis=1) + np.nanmean(values, axis=0)) / 2
    return means


def aggregate(
    scores: LayerScores, name: str, chosen: list[int], layers: Sequence[int]
) -> Aggregate:
    """Return the mean scores of a layer set."""
    indices = [layers.index(layer) for layer in chosen]
    accuracy, mexa = (
        round(float(np.mean([values[index] for index in indices])), 6)
        for values in (scores.accuracy, scores.mexa)
    )
    return Aggregate(scores.system, scores.over, name, chosen, accuracy, mexa)


@dataclass(frozen=True)
class TaskScores:
    """Task scores of languages that have a retrieval accuracy.

    Attributes:
        metric: Name of the metric.
        values: Scores by system, then by language as named in the record.
        indices: For each such language, the index of the language, or the two of the pair, in the
            analysis.
        unknown: Languages of the record that were not analyzed.
    """

    metric: str
    values: dict[str, dict[str, float]]
    indices: dict[str, tuple[int, ...]]
    unknown: list[str]
