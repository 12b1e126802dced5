"""Text metrics: exact match, sacreBLEU's BLEU and chrF, and COMET."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from adaptermix.data.languages import LANGUAGE_NAMES, known_code, target_of
from adaptermix.errors import DataError, ResourceError, first_line
from adaptermix.settings.shared import ScorerSettings
from adaptermix.tasks.metrics.comet import (
    DEFAULT_MODEL,
    CometScores,
    Translations,
    check_comet,
    segment_scores_many,
)
from adaptermix.tasks.metrics.comet_environment import INSTALL_HINT, status
from adaptermix.tasks.metrics.equality import is_one_of
from adaptermix.tasks.metrics.metric import Metric, Outcome, S, Statistics, mean_of
from adaptermix.version import __version__

# sacreBLEU's recommended tokenizers for languages in which 13a does not find words.
_TOKENIZERS = {"zh": "zh", "yue": "zh", "ja": "ja-mecab", "ko": "ko-mecab"}
_UNSPACED = ("th", "km", "lo", "my", "bo", "dz")  # sacreBLEU has no tokenizer for their words
_PACKAGES = {"ja-mecab": "sacrebleu[ja]", "ko-mecab": "sacrebleu[ko]", "flores200": "sentencepiece"}


def bleu_tokenizer(lang: str) -> str:
    """Return sacreBLEU's tokenizer for a target language: zh, ja-mecab, ko-mecab, else 13a.

    Korean uses 13a if its tokenizer is not installed; the signature and a note say so.

    Raises:
        DataError: The language is unknown, or not named.
    """
    tokenizer = _TOKENIZERS.get(_code_of(lang), "13a")
    return "13a" if tokenizer == "ko-mecab" and not _has_korean() else tokenizer


def _code_of(lang: str) -> str:
    """Return the plain code of the language of the answers, which decides on the tokenizer."""
    code = known_code(lang)
    second = known_code(target_of(lang.replace("_", "-")))  # en_zh may be a pair
    if code is not None and _TOKENIZERS.get(second or code) == _TOKENIZERS.get(code):
        return code
    what = "may be a pair" if code else "is an unknown language" if lang else "names no language"
    raise DataError(
        f"'{lang}' {what}, for which BLEU's tokenizer is not known",
        hint="name the tokenizer, such as --tokenize 13a, or the language of the answers: "
        "target-lang in the task's file, --target-lang in score",
    )


def _has_korean() -> bool:
    return find_spec("mecab_ko") is not None


def notes_on_tokenizers(metrics: Sequence[Metric], outcomes: Iterable[Outcome]) -> list[str]:
    """Return notes on languages for which BLEU tokenizes differently than users may expect."""
    bleu = next((metric for metric in metrics if metric.name == "bleu"), None)
    if not isinstance(bleu, SacreMetric) or bleu.tokenize != "auto":
        return []
    langs = {_code_of(lang) for lang in {outcome.lang for outcome in outcomes}}
    notes = [
        f"{LANGUAGE_NAMES[lang]} has no spaces between words, so BLEU with 13a compares whole "
        "phrases; use --tokenize flores200 (spBLEU), or chrF"
        for lang in _UNSPACED
        if lang in langs
    ]
    if "ko" in langs and not _has_korean():
        hint = f'pip install "{_PACKAGES["ko-mecab"]}"'
        notes.append(
            f"BLEU for Korean uses 13a, because sacreBLEU's ko-mecab is not installed: {hint}"
        )
    return notes


def notes_on_reasoning(answers: Mapping[str, Sequence[str]]) -> list[str]:
    """Return notes on answers, by the name of their system, that contain reasoning."""
    counts = {name: sum("</think>" in a for a in given) for name, given in answers.items()}
    return [
        f"{count} of {len(answers[name])} answers of {name} contain '</think>'; reasoning is "
        "scored as a part of the answer"
        for name, count in counts.items()
        if count
    ]


@dataclass(frozen=True)
class ExactMatch:
    """Share of outputs that equal an expected text after whitespace normalization."""

    name: str = "exact_match"
    counted = ("correct", "total")

    def statistics(self, outcomes: Sequence[Outcome]) -> Statistics:
        """Return (1 or 0 for a match, 1) per example."""
        rows = [(is_one_of(o.predicted, o.expected), 1) for o in outcomes]
        return np.array(rows, dtype=float).reshape(-1, 2)

    def value(self, sums: Float[np.ndarray, "*batch 2"]) -> Float[np.ndarray, "*batch"]:
        """Return the mean."""
        return mean_of(sums)

    def signature(self, outcomes: Sequence[Outcome]) -> str:
        """Return what is compared, and how."""
        return f"{self.name}|case:mixed|space:norm|version:{__version__}"


@dataclass(frozen=True)
class SacreMetric:
    """BLEU or chrF, computed by sacreBLEU.

    Attributes:
        name: ``bleu`` or ``chrf``.
        tokenize: sacreBLEU's name of BLEU's tokenizer, or ``auto`` to choose it by language.
    """

    name: str
    tokenize: str = "auto"

    def _scorer(self, outcomes: Sequence[Outcome]) -> Any:
        tokenizer = self.tokenize
        if tokenizer == "auto" and self.name == "bleu":
            tokenizer = bleu_tokenizer(outcomes[0].lang) if outcomes else "13a"
        return _sacrebleu(self.name, tokenizer)

    def check(self, outcomes: Sequence[Outcome]) -> None:
        """Raise what scoring outcomes of this language would raise, such as a missing tokenizer."""
        self._scorer(outcomes)

    def statistics(self, outcomes: Sequence[Outcome]) -> Statistics:
        """Return sacreBLEU's statistics of every segment.

        All outcomes must be in one language and have equally many references.
        """
        scorer = self._scorer(outcomes)
        width = scorer.order * 3 if self.name == "chrf" else 2 + 2 * scorer.max_ngram_order
        if not outcomes:
            return np.zeros((0, width))
        references = list(zip(*(o.expected for o in outcomes), strict=True))
        hypotheses = [o.predicted for o in outcomes]
        return np.array(scorer._extract_corpus_statistics(hypotheses, references), dtype=float)

    def value(self, sums: Float[np.ndarray, "*batch stats"]) -> Float[np.ndarray, "*batch"]:
        """Return sacreBLEU's score of each sum, 0 to 100."""
        return _sacre_values(_sacrebleu(self.name, "none"), sums)

    def segments(self, rows: Statistics) -> Float[np.ndarray, " examples"]:
        """Return sacreBLEU's sentence scores, with effective order for BLEU, as in sacreBLEU."""
        return _sacre_values(_sacrebleu(self.name, "none", effective_order=True), rows)

    def signature(self, outcomes: Sequence[Outcome]) -> str:
        """Return sacreBLEU's own signature."""
        scorer = self._scorer(outcomes)
        scorer.num_refs = len(outcomes[0].expected) if outcomes else 0
        return str(scorer.get_signature().format())


def _sacre_values(
    scorer: Any, sums: Float[np.ndarray, "*batch stats"]
) -> Float[np.ndarray, "*batch"]:
    rows = sums.reshape(-1, sums.shape[-1]).tolist()
    scores = [scorer._compute_score_from_stats(row).score for row in rows]
    return np.array(scores).reshape(sums.shape[:-1])


@cache
def _sacrebleu(name: str, tokenizer: str, *, effective_order: bool = False) -> Any:
    from sacrebleu.metrics import BLEU, CHRF
    from sacrebleu.tokenizers import tokenizer_spm

    if name == "chrf":
        return CHRF()
    try:  # some tokenizers need extra packages, or a model that is downloaded
        return BLEU(tokenize=tokenizer, force=True, effective_order=effective_order)
    except (OSError, SystemExit) as error:  # sacreBLEU exits if a certificate is not accepted
        why = first_line(error) if isinstance(error, OSError) else "no secure connection"
        raise ResourceError(
            f"the model of BLEU's tokenizer {tokenizer} cannot be downloaded: {why}",
            hint="run the command once with network access, or choose another --tokenize",
        ) from error
    except (ImportError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and (spm := tokenizer_spm.SPM_MODELS.get(tokenizer)):
            path = Path(tokenizer_spm.SACREBLEU_DIR, "models", Path(spm["url"]).name)
            raise ResourceError(
                f"{path}: the model of BLEU's tokenizer {tokenizer} is damaged",
                hint="delete the file, so that it is downloaded again",
            ) from error
        raise ResourceError(
            f"BLEU's tokenizer {tokenizer} is not installed",
            hint=f'pip install "{_PACKAGES.get(tokenizer, "sacrebleu[ja,ko]")}"',
        ) from error


@dataclass(frozen=True)
class Comet:
    """COMET: the mean segment score of a learned metric, against the first reference."""

    model: str = DEFAULT_MODEL
    python: Path | None = None
    name: str = "comet"

    def statistics(self, outcomes: Sequence[Outcome]) -> Statistics:
        """Return (score, 1) per segment."""
        if not outcomes:
            return np.zeros((0, 2))
        scores = self._scored(outcomes).segments[0]
        return np.array([(value, 1) for value in scores], dtype=float)

    def value(self, sums: Float[np.ndarray, "*batch 2"]) -> Float[np.ndarray, "*batch"]:
        """Return the mean."""
        return mean_of(sums)

    def signature(self, outcomes: Sequence[Outcome]) -> str:
        """Return COMET's model and package versions."""
        return self._scored(outcomes).signature

    def prepare(self, groups: Iterable[Sequence[Outcome]]) -> None:
        """Score the outcomes of several systems and languages in one process, and keep the scores.

        Each group is scored alone, as without this function.
        """
        asked = dict.fromkeys(self._key(outcomes) for outcomes in groups if outcomes)
        new = [key for key in asked if key not in _comet_scores]
        if not new:
            return
        if len(_comet_scores) + len(new) > _COMET_KEPT:
            _comet_scores.clear()
            new = [*asked]
        systems = [Translations(*zip(*key.segments, strict=True)) for key in new]
        scores = segment_scores_many(systems, model=self.model, python=self.python)
        _comet_scores.update(
            (key, CometScores([part], scores.signature))
            for key, part in zip(new, scores.segments, strict=True)
        )

    def _scored(self, outcomes: Sequence[Outcome]) -> CometScores:
        self.prepare([outcomes])
        return _comet_scores[self._key(outcomes)]

    def _key(self, outcomes: Sequence[Outcome]) -> "_CometKey":
        segments = tuple((o.source, o.predicted, o.expected[0]) for o in outcomes)
        return _CometKey(segments, self.model, self.python)


class _CometKey(NamedTuple):
    segments: tuple[tuple[str, str, str], ...]
    model: str
    python: Path | None


_COMET_KEPT = 256
_comet_scores: dict[_CometKey, CometScores] = {}  # scores, signatures and comparisons need the same


def without_missing_comet(settings: S) -> tuple[S, list[str]]:
    """Drop COMET from the metrics if it is not installed and other metrics are requested.

    Returns:
        The settings, and notes for the user.

    Raises:
        ResourceError: COMET is the only requested metric, and it is not installed.
    """
    others = tuple(metric for metric in settings.metrics if metric != "comet")
    if others == settings.metrics or settings.comet_python or status().installed:
        return settings, []
    if not others:
        raise ResourceError("COMET is not installed", hint=INSTALL_HINT)
    note = f"COMET is not installed, so it is not computed: {INSTALL_HINT}"
    return settings.model_copy(update={"metrics": others}), [note]


def require_comet(metric: Metric) -> None:
    """Check that COMET and its model can be used if a metric is COMET, before anything is decoded.

    Raises:
        ArtifactError: The model does not exist or is not a COMET checkpoint.
        ResourceError: COMET is not installed.
    """
    if isinstance(metric, Comet):
        check_comet(metric.model, metric.python)


def text_metrics(options: ScorerSettings) -> list[Metric]:
    """Return the metrics for translations and other texts."""
    return [
        SacreMetric("bleu", options.tokenize),
        SacreMetric("chrf"),
        Comet(options.comet_model, options.comet_python),
    ]
