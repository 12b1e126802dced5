"""How merge weights are learned: what is trained, how, and what becomes of it."""

import re
import weakref

import pytest
import torch
from helpers.adapters import peft_adapter
from helpers.search import settings_for
from transformers import AutoModelForCausalLM

from adaptermix.errors import ArtifactError
from adaptermix.merging.plan import open_adapters, plan_merge
from adaptermix.merging.weights import Weighting
from adaptermix.search.by_language import plan_by_language
from adaptermix.search.learn import BATCH, WeightedMerge, _arguments, learn_weights
from adaptermix.search.run import plan_search, search
from adaptermix.settings.merging import SearchSettings
from adaptermix.training.batches import AnswerCollator, encode_example

START = Weighting((0.5, 0.5))


@pytest.fixture(scope="module")
def adapters(tmp_path_factory, model_dir):
    folder = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(("task", "align")):
        peft_adapter(model_dir, folder / name, seed=seed)
    return [folder / "task", folder / "align"]


def merged_for(model_dir, adapters, **changes):
    settings = SearchSettings(search="learn", **changes)
    plan = plan_merge(open_adapters(adapters, settings), START, settings)
    return WeightedMerge(AutoModelForCausalLM.from_pretrained(model_dir), plan, settings)


EXAMPLES = [encode_example([5, 6, 7, 8 + at], [9, 10 + at], 100) for at in range(6)]


def learn(merged, on_progress=lambda event: None):
    return learn_weights(merged, [START], EXAMPLES, AnswerCollator(0), on_progress)


def test_only_the_weights_are_trained(model_dir, adapters):
    merged = merged_for(model_dir, adapters, learn_steps=2, learn_lr=0.5)
    before = {name: weight.clone() for name, weight in merged.model.state_dict().items()}
    assert [name for name, p in merged.named_parameters() if p.requires_grad] == ["weights"]
    learn(merged)
    assert all(torch.equal(w, before[name]) for name, w in merged.model.state_dict().items())
    assert not torch.equal(merged.weights, merged.start)
    model = weakref.ref(merged.model)
    del merged
    assert model() is None  # the engine needs its memory


def test_every_step_has_the_full_rate_and_is_reported(model_dir, adapters):
    merged = merged_for(model_dir, adapters, learn_steps=3, learn_lr=0.03, seed=7)
    found = _arguments(merged.settings, "work")
    assert (found.max_steps, found.learning_rate, found.seed) == (3, 0.03, 7)
    assert (found.lr_scheduler_type, found.warmup_steps, found.weight_decay) == ("constant", 0, 0)
    assert found.per_device_train_batch_size == BATCH == 16
    seen, modes = [], []
    learn(merged, lambda event: (seen.append(event), modes.append(merged.model.training)))
    assert [(event.done, event.total) for event in seen] == [(1, 3), (2, 3), (3, 3)]
    assert not any([*modes, merged.model.training])  # without the dropout of the base model


@pytest.mark.parametrize("per", ["layer", "module"])
def test_learned_weights_are_rules_each_for_its_own_modules(model_dir, adapters, per):
    merged = merged_for(model_dir, adapters, learn_per=per)
    rows = len(merged.groups)
    values = torch.arange(2 * rows).reshape(rows, 2) / 100
    merged.weights.data.copy_(values)
    weighting = merged.weighting()
    for modules, row in zip(merged.groups.values(), values.tolist(), strict=True):
        for module in modules:
            assert weighting.of(module) == pytest.approx(tuple(row), abs=1e-6)
    mean = [sum(column) / rows for column in zip(*values.tolist(), strict=True)]
    assert weighting.weights == pytest.approx(mean, abs=1e-4)
    if per == "module":  # a rule is of one module, not of those whose names are longer or alike
        for rule in weighting.rules:
            (own,) = (m for ms in merged.groups.values() for m in ms if rule.matches(m))
            assert not rule.matches(f"{own}_2")
            assert not rule.matches(f"tower.{own}")
            assert not rule.matches(re.sub(r"\.(\d)\.", r"x\1x", own))


def test_whole_weights_are_refused_before_anything_is_learned(tmp_path, model_dir, corpus_dir):
    """They need weights that add up to 1, and learned weights have any sum."""
    paths = [tmp_path / "task", tmp_path / "align"]
    for path in paths:
        peft_adapter(model_dir, path, modules_to_save=["lm_head"])
    settings = settings_for(model_dir, corpus_dir, tmp_path / "out", search="learn", limit=2)
    with pytest.raises(ArtifactError, match="the adapters contain whole weights"):
        plan_search(paths, settings)
    grid = settings.model_copy(update={"search": "0.5,0.7"})
    assert plan_search(paths, grid)
    peft_adapter(model_dir, tmp_path / "plain")
    for plan in (plan_search, plan_by_language):  # only one has them: no grid can merge them
        with pytest.raises(ArtifactError, match="lm_head"):
            plan([paths[0], tmp_path / "plain"], grid)


def test_learning_starts_from_a_merge_and_says_on_how_many_examples_it_learned(
    tmp_path, model_dir, corpus_dir, adapters
):
    """Each language has seven dev examples; three of them judge."""
    changes = {"search": "learn", "learn_steps": 1, "limit": 7}
    report = search(adapters, settings_for(model_dir, corpus_dir, tmp_path / "out", **changes))
    (note,) = [note for note in report.notes if note.startswith("learned from")]
    start, count = re.match(r"learned from \((.*)\) on (\d+) dev examples", note).groups()
    assert count == "8"
    assert max(c.examples for c in report.candidates) == 6
    assert all(0 < float(weight) < 1 for weight in start.split(", "))
