from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU, CHRF
from seqeval.metrics import f1_score
from seqeval.metrics.sequence_labeling import get_entities

from adaptermix.errors import ConfigError, ResourceError
from adaptermix.tasks.metrics import text
from adaptermix.tasks.metrics.comet import CometScores
from adaptermix.tasks.metrics.f1 import SLOT_F1, SpanF1, slot_key, span_statistics
from adaptermix.tasks.metrics.metric import Outcome, chosen, score
from adaptermix.tasks.metrics.text import Comet, ExactMatch, SacreMetric
from adaptermix.tasks.slots import Slot


def slot_f1(predicted, expected):
    return score(SLOT_F1, list(map(Outcome, predicted, expected)))


SLOT = st.builds(Slot, st.sampled_from(["time", "date"]), st.sampled_from(["five", "Five", "six"]))
EXAMPLES = st.lists(st.tuples(st.lists(SLOT, max_size=4), st.lists(SLOT, max_size=4)), max_size=5)


def plain_f1(predicted, expected):
    """Cross off expected slots one by one."""
    correct = 0
    for guesses, golds in zip(predicted, expected, strict=True):
        left = [(slot.type, slot.value.lower()) for slot in golds]
        for guess in guesses:
            if (guess.type, guess.value.lower()) in left:
                left.remove((guess.type, guess.value.lower()))
                correct += 1
    total = sum(map(len, predicted)) + sum(map(len, expected))
    return 2 * correct / total if total else 1.0


@given(EXAMPLES)
def test_f1_equals_crossing_off_slots(examples):
    predicted, expected = [p for p, _ in examples], [e for _, e in examples]
    assert slot_f1(predicted, expected).value == pytest.approx(plain_f1(predicted, expected))


@given(EXAMPLES)
def test_gold_slots_score_one(examples):
    expected = [e for _, e in examples]
    assert slot_f1(expected, expected).value == 1.0


def test_counts_and_a_value_worked_out_by_hand():
    # Two of three predictions are right, two of four expected slots are found: F1 = 4 / 7.
    predicted = [[Slot("time", "Five  AM"), Slot("date", "today")], [Slot("time", "six")]]
    expected = [[Slot("time", "five am"), Slot("date", "monday")], [Slot("time", "six"), *[]]]
    expected[1].append(Slot("person", "ann"))
    result = slot_f1(predicted, expected)
    assert result.counts == {"correct": 2, "predicted": 3, "expected": 4}
    assert result.value == pytest.approx(4 / 7)
    assert result.segments == pytest.approx((2 / 4, 2 / 3))


def test_a_value_said_twice_counts_once_where_it_is_expected_once():
    five = Slot("time", "five")
    assert slot_f1([[five, five]], [[five]]).value == pytest.approx(2 / 3)


def test_the_signature_says_how_slots_are_compared():
    assert "match:type+value" in slot_f1([], []).signature


TAGS = st.sampled_from(["O", "B-x", "I-x", "B-y", "I-y", "B-a-b", "I-a-b"])
TAGGED = st.lists(
    st.integers(0, 6).flatmap(
        lambda size: st.tuples(*[st.lists(TAGS, min_size=size, max_size=size)] * 2)
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=300)
@given(TAGGED)
@pytest.mark.filterwarnings("ignore::seqeval.metrics.v1.UndefinedMetricWarning")
def test_span_f1_equals_seqeval(sentences):
    predicted, expected = [list(p) for p, _ in sentences], [list(e) for _, e in sentences]
    result = score(SpanF1(), list(map(Outcome, predicted, expected)))
    if any(expected) or any(predicted):
        assert result.value == f1_score(expected, predicted)
    for side, tags in (("predicted", predicted), ("expected", expected)):
        assert result.counts[side] == sum(len(get_entities(row)) for row in tags)


@given(TAGGED)
def test_spans_are_counted_sentence_by_sentence(sentences):
    predicted, expected = [list(p) for p, _ in sentences], [list(e) for _, e in sentences]
    together = span_statistics(predicted, expected)
    apart = [span_statistics([p], [e])[0] for p, e in zip(predicted, expected, strict=True)]
    assert together.dtype == float
    assert together.tolist() == [row.tolist() for row in apart]


def test_tags_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="^predicted and expected tags differ in length$"):
        span_statistics([["O"]], [["O", "O"]])


@pytest.mark.parametrize("metric", [SLOT_F1, SpanF1()])
def test_no_metric_divides_by_zero(metric):
    with np.errstate(all="raise"):
        nothing, wrong = metric.value(np.array([[0.0, 0, 0], [0, 1, 1]]))
    assert (nothing, wrong) == (1.0 if metric is SLOT_F1 else 0.0, 0.0)


TEXTS = ["the cat sat on the mat", "a", "", "the the the cat", "Ein Hund!", "one two three four"]
SEGMENTS = st.lists(
    st.tuples(st.sampled_from(TEXTS), st.sampled_from(TEXTS[:2]), st.sampled_from(TEXTS[3:])),
    min_size=1,
    max_size=6,
)


@given(SEGMENTS, st.sampled_from(["bleu", "chrf"]))
def test_text_scores_equal_sacrebleu(segments, name):
    hypotheses = [hypothesis for hypothesis, *_ in segments]
    references = list(zip(*(refs for _, *refs in segments), strict=True))
    own = score(SacreMetric(name), [Outcome(h, refs, lang="de") for h, *refs in segments])
    reference = {"bleu": BLEU(), "chrf": CHRF()}[name]
    assert own.value == reference.corpus_score(hypotheses, references).score
    assert own.signature == reference.get_signature().format()
    sentences = {"bleu": BLEU(effective_order=True), "chrf": CHRF()}[name]
    alone = [sentences.sentence_score(h, refs).score for h, *refs in segments]
    assert own.segments == pytest.approx(alone)


def test_a_tokenizer_whose_model_cannot_be_loaded_is_named_with_the_reason(tmp_path, monkeypatch):
    """Before anything is scored: its model is downloaded when it is first used."""

    def refuse(url):
        raise URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("sacrebleu.tokenizers.tokenizer_spm.SACREBLEU_DIR", str(tmp_path))
    bleu = SacreMetric("bleu", "flores200")
    with pytest.raises(ResourceError, match="flores200 cannot be downloaded: .*no route") as raised:
        bleu.check([Outcome("a", ["a"], lang="de")])
    assert raised.value.hint.endswith("choose another --tokenize")
    (tmp_path / "models" / "flores200sacrebleuspm").write_bytes(b"")
    with pytest.raises(
        ResourceError, match="models/flores200sacrebleuspm: .* is damaged"
    ) as raised:
        bleu.check([Outcome("a", ["a"], lang="de")])
    assert "delete the file" in raised.value.hint


def test_comet_is_asked_once_for_all_segments(monkeypatch):
    asked = []

    def segment_scores_many(systems, *, model, python):
        asked.append((systems, model, python))
        return CometScores([[0.5, 0.75]], "comet|model:x")

    monkeypatch.setattr(text, "segment_scores_many", segment_scores_many)
    outcomes = [Outcome("h1", ["r1", "x"], source="s1"), Outcome("h2", ["r2"], source="s2")]
    metric = Comet("model.ckpt", Path("python"))
    result = score(metric, outcomes)
    assert (result.value, result.signature) == (0.625, "comet|model:x")
    assert result.segments == (0.5, 0.75)
    assert metric.statistics(outcomes).tolist() == [[0.5, 1], [0.75, 1]]
    (only,) = asked
    assert only == ([(("s1", "s2"), ("h1", "h2"), ("r1", "r2"))], "model.ckpt", Path("python"))
    for other in (Comet("other.ckpt", Path("python")), Comet("model.ckpt", Path("other"))):
        score(other, outcomes)
        assert asked[-1][1:] == (other.model, other.python), "scores of another model are others"


def test_exact_match_ignores_white_space_only():
    outcomes = [Outcome(text, ["a b"]) for text in ("a b", " a\nb ", "A b", "")]
    assert score(ExactMatch(), outcomes).value == 0.5


def test_a_metric_that_a_task_has_not_is_refused():
    with pytest.raises(ConfigError, match="the task t has no metric 'rouge'"):
        chosen([SLOT_F1], ("rouge",), "t")


def test_slot_values_are_compared_by_case_folding_and_white_space():
    assert slot_key(Slot("time", " STRASSE  7 ")) == slot_key(Slot("time", "stra\u00dfe 7"))
    assert slot_key(Slot("time", "five am")) != slot_key(Slot("date", "five am"))
