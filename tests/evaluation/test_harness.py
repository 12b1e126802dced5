import numpy as np
import pytest
from pydantic import ValidationError

from adaptermix.evaluation.harness import HarnessOutcome, HarnessScores, MeanMetric
from adaptermix.settings.evaluation import EvalSettings
from adaptermix.settings.merging import SearchSettings
from adaptermix.settings.shared import harness_tasks


def test_names_of_tasks_follow_a_prefix():
    assert harness_tasks("lm-eval:a, b,a") == ("a", "b")
    assert harness_tasks("lm-eval:") == harness_tasks("massive") == harness_tasks(None) == ()


def test_tasks_stand_as_languages_on_one_engine():
    settings = EvalSettings(task="lm-eval:a,b", max_new_tokens=9)
    assert settings.langs == ("a", "b")
    assert settings.engine == "transformers"
    assert str(settings.out) == "eval-lm-eval"
    assert "batch_size" not in settings.model_fields_set


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("langs", "cy", "--langs does not apply"),
        ("data_dir", "data", "--data-dir does not apply"),
        ("chat-template", "t.jinja", "--chat-template does not apply"),
        ("scorer", "paper", "--scorer does not apply"),
        ("server", "http://a:1", "--server: lm-eval tasks run only on the transformers engine"),
        ("max_lora_rank", 8, "--max-lora-rank: lm-eval tasks run only on the transformers"),
        ("engine", "vllm", "--engine vllm: lm-eval tasks run only on the transformers engine"),
    ],
)
def test_what_has_no_meaning_for_them_is_refused(key, value, words):
    for kind, given in ((EvalSettings, {}), (SearchSettings, {"search": "0.5,0.7"})):
        with pytest.raises(ValidationError, match=words):
            kind(**{"task": "lm-eval:a", key: value, **given})


def test_a_folder_of_tasks_is_for_lm_eval_alone():
    with pytest.raises(ValidationError, match="--lm-eval-path needs --task lm-eval:NAME"):
        EvalSettings(lm_eval_path="tasks")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"search": "learn"}, "--search learn trains on correct answers"),
        ({"search": "0.5", "per_language": True, "out": "f"}, "have no language"),
    ],
)
def test_searches_that_need_more_than_scores_are_refused(given, words):
    assert SearchSettings(task="lm-eval:a", search="auto").langs == ("a",)
    with pytest.raises(ValidationError, match=words):
        SearchSettings(task="lm-eval:a", **given)


def test_a_score_is_the_mean_over_examples_that_count():
    metric = MeanMetric("score", {"a": "acc,none", "b": "exact_match,first"}, {"b": "as it was"})
    scores = HarnessScores((metric,))
    values = [{"exact_match,first": 1.0, "acc,none": 0.0}, {"exact_match,first": 0.5}, {}]
    outcomes = [HarnessOutcome("x", "y", lang="b", values=each) for each in values]
    assert scores.statistics(outcomes).tolist() == [[1, 1], [0.5, 1], [0, 0]]
    found = scores.scores(outcomes)["score"]
    assert (found.value, found.signature) == (0.75, "as it was")
    assert found.segments == (1.0, 0.5, 0.0)
    assert scores.value(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist() == [0.75, 0.0]
    assert outcomes[0].as_record() == {"predicted": "x", "expected": "y", "malformed": 0}
