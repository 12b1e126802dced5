"""One sentence per system: better, worse or not significantly different, and where."""

import pytest

from adaptermix.evaluation.comparison import ALL, Comparison
from adaptermix.evaluation.verdict import verdicts

LANGS = ["cy", "de", "sw"]


def compared(over, difference, p, system="merged", langs=None):
    return Comparison(
        system=system,
        baseline="task",
        over=over,
        langs=langs or [over],
        score=0.5 + difference,
        baseline_score=0.5,
        difference=difference,
        low=difference - 0.01,
        high=difference + 0.02,
        p_value=p,
        excludes_zero=p < 0.05,
        p_holm=None if langs else p,
    )


def everywhere(mean, *single, langs=LANGS):
    alone = [compared(lang, *one) for lang, one in zip(langs, single, strict=True)]
    return [*alone, compared(ALL, *mean, langs=langs)]


@pytest.mark.parametrize(
    ("mean", "single", "sentence"),
    [
        (
            (0.03, 0.01),
            [(0.1, 0.01), (-0.05, 0.02), (0.0, 0.9)],
            "merged is better than task: +3.0 [+2.0, +5.0] points of slot F1 on average over 3 "
            "languages; better in cy, worse in de",
        ),
        (
            (-0.03, 0.01),
            [(0.1, 0.2), (-0.05, 0.3), (0.0, 0.9)],
            "merged is worse than task: -3.0 [-4.0, -1.0] points of slot F1 on average over 3 "
            "languages; no single language differs significantly",
        ),
        (
            (0.01, 0.2),
            [(0.1, 0.01), (0.05, 0.02), (0.0, 0.9)],
            "merged is not significantly different from task: +1.0 [+0.0, +3.0] points of slot F1 "
            "on average over 3 languages; better in cy, de",
        ),
    ],
)
def test_a_sentence_has_the_outcome_the_interval_and_the_languages(mean, single, sentence):
    assert verdicts(everywhere(mean, *single), "slot_f1") == [sentence]


def test_the_correction_decides_which_languages_are_named():
    alone = compared("cy", 0.1, 0.01)
    almost = Comparison(**{**vars(alone), "p_holm": 0.06})
    (sentence,) = verdicts([almost, compared(ALL, 0.01, 0.2, langs=LANGS)], "slot_f1")
    assert sentence.endswith("no single language differs significantly")


def test_up_to_six_languages_are_named():
    langs = [f"l{number}" for number in range(8)]
    found = everywhere((0.1, 0.01), *[(0.1, 0.01)] * 6, *[(0.0, 0.9)] * 2, langs=langs)
    (sentence,) = verdicts(found, "slot_f1")
    assert sentence.endswith("; better in l0, l1, l2, l3, l4, l5")


def test_a_system_is_judged_by_its_own_languages():
    """Another system is better and worse in others."""
    gains = {
        "one": ((0.1, 0.01), (0.0, 0.9), (-0.1, 0.01)),
        "two": ((0.0, 0.9), (-0.1, 0.01), (0.1, 0.01)),
    }
    found = [
        compared(over, *gain, system, langs)
        for system, alone in gains.items()
        for over, gain, langs in [
            *((lang, one, None) for lang, one in zip(LANGS, alone, strict=True)),
            (ALL, (0.01, 0.2), LANGS),
        ]
    ]
    assert [sentence.partition("; ")[2] for sentence in verdicts(found, "slot_f1")] == [
        "better in cy, worse in sw",
        "better in sw, worse in de",
    ]


def test_many_languages_are_counted():
    langs = [f"l{number}" for number in range(9)]
    found = everywhere((0.1, 0.01), *[(0.1, 0.01)] * 7, (-0.1, 0.01), (0.0, 0.9), langs=langs)
    (sentence,) = verdicts(found, "slot_f1")
    assert sentence.endswith("; better in 7 of 9 languages, worse in l7")


def test_of_one_language_nothing_is_averaged():
    found = [compared("cy", 0.1, 0.01), compared(ALL, 0.1, 0.01, langs=["cy"])]
    assert verdicts(found, "bleu") == [
        "merged is better than task: +0.1 [+0.1, +0.1] points of BLEU"
    ]


def test_every_system_but_the_base_model_has_a_sentence():
    means = [compared(ALL, 0.1, 0.01, name, LANGS) for name in ("base", "align", "merged")]
    assert [sentence.split()[0] for sentence in verdicts(means, "f1")] == ["align", "merged"]
