"""Laws of a search that a plausible mistake would break without an error."""

import json
import random
import shutil
from itertools import chain
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
import torch
from helpers.adapters import peft_adapter
from helpers.search import settings_for
from helpers.search_answers import SKILL, make_halving
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from adaptermix.errors import ArtifactError
from adaptermix.merging.plan import open_adapters, plan_merge
from adaptermix.merging.weights import Rule, Weighting
from adaptermix.search import by_language
from adaptermix.search.candidates import Candidate, first_candidates, scalar_candidate
from adaptermix.search.halving import Entry, choose
from adaptermix.search.learn import WeightedMerge, learn_weights
from adaptermix.search.record import result_of
from adaptermix.search.run import _between, _prepare, _run, _try, search
from adaptermix.settings.merging import SearchSettings
from adaptermix.tasks.massive import read_massive
from adaptermix.tasks.metrics.significance import macro_score
from adaptermix.training.batches import AnswerCollator, encode_example

LANGS = ("en", "cy")


@pytest.fixture(scope="module")
def adapters(tmp_path_factory, model_dir):
    folder = tmp_path_factory.mktemp("adapters")
    paths = [folder / name for name in ("task", "align")]
    for seed, path in enumerate(paths):
        peft_adapter(model_dir, path, seed=seed)
    return paths


@pytest.fixture
def prepared(tmp_path, model_dir, corpus_dir, adapters):
    """Return what a search would ask; nothing is decoded."""

    def prepare(**changes):
        given = {"limit": None, **changes}
        model = given.pop("model", model_dir)
        return _prepare(adapters, settings_for(model, corpus_dir, tmp_path / "o", **given), False)

    return prepare


def asked(inputs):
    return {lang: [item.example.id for item in items] for lang, items in inputs.items.items()}


def test_weights_are_searched_on_dev_data(prepared, corpus_dir):
    for lang, ids in asked(prepared()).items():
        assert sorted(ids) == sorted(row.id for row in read_massive(lang, "dev", corpus_dir))


def test_dev_data_is_shuffled_by_the_seed_and_by_language(prepared):
    """A race shows the first part of it: sorted data would be no fair sample."""
    first, again, other = (asked(prepared(seed=seed)) for seed in (1, 1, 2))
    assert first == again
    for lang in LANGS:
        assert first[lang] != sorted(first[lang], key=int)
        assert first[lang] != other[lang]
        assert sorted(first[lang]) == sorted(other[lang])
    assert first["en"] != first["cy"]


def test_what_learns_does_not_judge(prepared):
    inputs = prepared(search="learn")
    learns = {(item.lang, item.example.id) for item in inputs.learning}
    judges = {(lang, id_) for lang, ids in asked(inputs).items() for id_ in ids}
    assert learns and judges and not learns & judges
    everything = {(lang, id_) for lang, ids in asked(prepared()).items() for id_ in ids}
    assert learns | judges == everything


def test_a_search_asks_with_the_prompt_that_it_is_told(prepared, tmp_path, model_dir):
    def prompts(**changes):
        return [item.prompt_ids for items in prepared(**changes).items.values() for item in items]

    model = shutil.copytree(model_dir, tmp_path / "model")
    template = (model / "chat_template.jinja").read_text()
    (model / "chat_template.jinja").write_text(template.replace("<|end|>", "<|eot_id|>"))
    found = [
        *(prompts(prompt=name, system_prompt=None) for name in ("paper", "zero-shot")),
        *(prompts(system_prompt=text) for text in ("one", "other")),
        *(prompts(model=model, turn_newline=on) for on in (False, True)),
    ]
    assert all(one != other for at, one in enumerate(found) for other in found[:at])


@pytest.mark.parametrize(
    ("share", "count", "seen"), [(0.5, 3, 2), (0.25, 5, 2), (0.25, 8, 2), (0.1, 4, 1), (1.0, 7, 7)]
)
def test_a_share_of_the_examples_is_rounded_up(monkeypatch, tmp_path, share, count, seen):
    halving, generator, candidates = make_halving(monkeypatch, tmp_path, SKILL, examples=count)
    entry = halving.enter(candidates[0])
    halving.show([entry], share)
    assert [len(rows) for rows in entry.statistics] == [seen, seen]
    assert len(generator.asked) == halving.needed == 2 * seen


@pytest.mark.parametrize("adapters", [2, 3, 5])
def test_one_weight_leaves_the_rest_to_the_others_in_equal_shares(adapters):
    first, *others = scalar_candidate(0.7, adapters).weighting.weights
    assert first == 0.7
    assert others == pytest.approx([0.3 / (adapters - 1)] * (adapters - 1))


@pytest.mark.parametrize(("best", "sides"), [("0.7", {0.65, 0.75}), ("0.3", {0.25, 0.35})])
def test_the_weights_on_both_sides_of_the_best_merge_are_tried(monkeypatch, tmp_path, best, sides):
    """Also if one adapter alone is better than all merges."""
    skill = SKILL | {"1": 0.95, best: 0.92}
    halving, _, candidates = make_halving(monkeypatch, tmp_path, skill)
    ranked = halving.run(candidates, exhaustive=True)
    assert ranked[0].candidate.name == "1"
    assert {c.weighting.weights[0] for c in _between(ranked)} == sides


@pytest.mark.parametrize(
    ("weights", "alone"),
    [
        ((0.7, 0.3), (0.7, 0.0)),
        ((0.4, -0.8), (0.0, -0.8)),
        ((-1.0, 0.5, 0.6), (-1.0, 0.0, 0.0)),
        ((1.0, 0.0), None),
    ],
)
def test_the_control_is_the_adapter_of_the_largest_share_at_its_weight(weights, alone):
    names = ["a", "b", "c"][: len(weights)]
    merge = Candidate("merge", Weighting(weights))
    control = merge.without_others(names)
    assert (control and control.weighting.weights) == alone
    if len(weights) == 2 and alone:  # the second was trained for alignment
        assert merge.without_others(names, {"b"}).weighting.weights == (weights[0], 0.0)
    if control:
        at = next(at for at, weight in enumerate(alone) if weight)
        assert control.name == f"{names[at]} alone at {alone[at]:g}"


def test_finer_steps_drop_no_candidate_that_has_answered_everything(monkeypatch, tmp_path):
    """Scores on a few easy examples are higher than scores on all examples."""
    skill = {f"{at / 20:g}": 0.8 - abs(at / 20 - 0.7) for at in range(21)}
    halving, *_ = make_halving(monkeypatch, tmp_path, skill, examples=40)
    halving.plan = lambda weighting: f"{weighting.weights[0]:g}"
    for items in halving.items.values():
        items.sort(key=lambda item: random.Random(item.prompt_ids[0]).random())
    settings = SearchSettings(search="auto", prefer="best")
    candidates = first_candidates(["task", "align"], settings)
    inputs = SimpleNamespace(candidates=candidates, adapters=[None] * 2)
    finalists = _run(halving, inputs, settings)
    whole = [entry for entry in halving.entries.values() if entry.answered == 80]
    assert {e.candidate.name for e in finalists} == {e.candidate.name for e in whole}
    assert {"0.55", "0.65"} <= {entry.candidate.name for entry in finalists}
    assert 4 <= len(whole) < len(halving.entries)


def test_every_round_keeps_half_of_what_began(monkeypatch, tmp_path):
    weights = [at / 16 for at in range(1, 16)] + [1.0]
    skill = {f"{weight:g}": 0.05 + 0.9 * weight for weight in weights}
    halving, *_, candidates = make_halving(monkeypatch, tmp_path, skill, 64, weights)
    assert len(candidates) == 16
    halving.run(candidates, exhaustive=False)
    rounds = [entry.dropped for entry in halving.entries.values()]
    assert [rounds.count(number) for number in (1, 2, 3, None)] == [8, 4, 2, 2]
    halving = make_halving(monkeypatch, tmp_path, skill, 64, weights)[0]
    halving.show([halving.enter(candidate) for candidate in candidates], 0.25)  # trials
    halving.run(candidates, exhaustive=False)
    seen = sorted(entry.answered for entry in halving.entries.values())
    assert seen == [32] * 8 + [64] * 4 + [128] * 4  # more in every round


def test_answers_in_two_rounds_are_those_of_one(monkeypatch, tmp_path):
    """In the order of the examples, by which candidates are compared."""
    found = []
    for shares in ((0.25, 1.0), (1.0,)):
        halving, _, candidates = make_halving(monkeypatch, tmp_path, SKILL, examples=40)
        entry = halving.enter(candidates[2])
        for share in shares:
            halving.show([entry], share)
        found.append(np.concatenate(entry.statistics))
    np.testing.assert_array_equal(*found)


def test_a_candidate_that_has_answered_everything_does_not_end_the_race(monkeypatch, tmp_path):
    found = []
    for is_known in (True, False):
        halving, _, candidates = make_halving(monkeypatch, tmp_path, SKILL)
        if is_known:
            halving.show([halving.enter(candidates[0])], 1.0)
        halving.run(candidates, exhaustive=False)
        others = {candidate.name: halving.entries[candidate.name] for candidate in candidates[1:]}
        found.append({name: entry.answered for name, entry in others.items()})
    assert found[0] == found[1]
    assert len({*found[0].values()}) > 1


def test_candidates_are_compared_on_the_examples_that_both_have_seen(monkeypatch, tmp_path):
    halving, _, candidates = make_halving(monkeypatch, tmp_path, SKILL, examples=40)
    half, whole, other = (halving.enter(candidate) for candidate in candidates[:3])
    halving.show([half, other], 0.5)
    halving.show([whole], 1.0)
    seen = [rows[:20] for rows in whole.statistics]
    expected = halving.score(half) - macro_score(seen, halving.task.value)
    for found in (halving.compare(half, whole), halving.compare(whole, half)):
        assert abs(found.interval.value) == pytest.approx(abs(expected))
    assert halving.compare(half, whole).interval.value == pytest.approx(expected)


def test_of_equally_good_merges_that_with_fewer_mixtures_is_chosen(monkeypatch, tmp_path):
    halving, *_ = make_halving(monkeypatch, tmp_path, {"0.7": 0.6, "rules": 0.6}, examples=30)
    plain = Candidate("0.7", Weighting((0.7, 0.3)))
    rule = Rule((0.6, 0.4), layers=frozenset({0}))
    ruled = Candidate("rules", Weighting((0.7, 0.3), (rule,)))
    entries = [halving.enter(candidate, tmp_path / candidate.name) for candidate in (ruled, plain)]
    halving.show(entries, 1.0)
    for order in (entries, entries[::-1]):
        assert choose(halving, order, "simpler")[0].candidate is plain


@pytest.mark.parametrize(("is_exhaustive", "answered"), [(False, 20), (True, 80)])
def test_trials_answer_a_quarter_or_all_of_the_examples(
    monkeypatch, tmp_path, is_exhaustive, answered
):
    halving, _, candidates = make_halving(monkeypatch, tmp_path, {"0.7": 0.6}, examples=40)
    halving.plan = lambda weighting: "0.7"
    groups = [frozenset({0}), frozenset({1})]
    monkeypatch.setattr("adaptermix.search.run.layer_groups", lambda plan, count: groups)
    inputs = SimpleNamespace(plan=lambda weights: None, candidates=candidates, adapters=[None] * 2)
    settings = SearchSettings(search="auto", trials=3, exhaustive=is_exhaustive)
    tried = _try(halving, inputs, settings)
    assert [entry.answered for entry in halving.entries.values()] == [answered] * 4
    assert len(tried) == (4 if is_exhaustive else 1)  # of one candidate that began
    halving.run([*candidates, *tried], exhaustive=is_exhaustive)
    finalists = {candidate.name for candidate in (*candidates, *tried)}
    assert {name: e.dropped for name, e in halving.entries.items()} == {
        name: None if name in finalists else 0 for name in halving.entries
    }


def test_a_result_is_the_candidates_minus_the_winners_score(monkeypatch, tmp_path):
    halving, _, candidates = make_halving(monkeypatch, tmp_path, SKILL, examples=40)
    entries = halving.run(candidates, exhaustive=True)
    winner = halving.score(entries[0])
    for entry in entries:
        difference = result_of(halving, entry, entries[0]).difference.interval
        assert difference.value == pytest.approx(halving.score(entry) - winner)
        assert difference.low <= difference.value <= difference.high
    assert difference.value < 0


@pytest.fixture
def studies(monkeypatch):
    """The studies that Optuna makes while a test runs."""
    made, create = [], optuna.create_study

    def keep(**options):
        made.append(create(**options))
        return made[-1]

    monkeypatch.setattr(optuna, "create_study", keep)
    return made


def test_trials_follow_sampler_and_seed_and_the_highest_score_is_the_best(
    tmp_path, model_dir, corpus_dir, adapters, studies
):
    tried = {}
    for sampler, seed in (("tpe", 1), ("tpe", 2), ("cma", 1)):
        changes = {"search": "auto", "trials": 3, "limit": 2, "layer_groups": 2, "seed": seed}
        out = tmp_path / f"{sampler}{seed}"
        search(adapters, settings_for(model_dir, corpus_dir, out, **changes, sampler=sampler))
        proposed = [tuple(trial.params.values()) for trial in studies[-1].trials]
        tried[sampler, seed] = tuple(proposed[-3:])
    assert len(set(tried.values())) == 3
    assert [type(study.sampler).__name__ for study in studies] == [
        *["TPESampler"] * 2,
        "CmaEsSampler",
    ]
    assert {study.direction for study in studies} == {optuna.study.StudyDirection.MAXIMIZE}


def merged_for(model_dir, adapters, **changes):
    settings = SearchSettings(search="learn", **changes)
    plan = plan_merge(open_adapters(adapters, settings), Weighting((0.5, 0.5)), settings)
    return WeightedMerge(AutoModelForCausalLM.from_pretrained(model_dir), plan, settings), plan


@pytest.mark.parametrize("penalty", [0.0, 0.5, 3.0])
def test_the_pull_is_the_penalty_times_the_mean_squared_distance_from_the_start(
    model_dir, adapters, penalty
):
    merged, _ = merged_for(model_dir, adapters, learn_penalty=penalty)
    merged.at(Weighting((0.7, 0.3)))
    ids = torch.tensor([[0, 20, 30, 40]])
    with torch.no_grad():
        merged.weights[0, 0] += 0.5
        merged.weights[1, 1] -= 0.25
        drift = (0.5**2 + 0.25**2) / merged.weights.numel()
        plain = merged.model(input_ids=ids, labels=ids).loss
        found = merged(input_ids=ids, labels=ids)["loss"]
    assert float(found - plain) == pytest.approx(penalty * drift, abs=1e-5)


def learned(model_dir, corpus_dir, prepared, starts, **changes):
    inputs = prepared(search="learn", limit=8, learn_steps=changes.pop("learn_steps", 1), **changes)
    encoder, task = inputs.asked.encoder, inputs.asked.task
    rows = [
        encode_example(item.prompt_ids, encoder.answer_ids(task.answer(item.example)), 4096)
        for item in inputs.learning
    ]
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    merged = WeightedMerge(model, inputs.plan(starts[0]), inputs.settings)
    done = learn_weights(merged, starts, rows, AnswerCollator(2), lambda event: None)
    losses = [merged.at(start).mean_loss(rows, AnswerCollator(2)) for start in starts]
    return done, losses


def test_learning_starts_from_the_merge_of_the_lowest_loss(model_dir, corpus_dir, prepared):
    starts = [Weighting((w, 1 - w)) for w in (0.2, 0.4, 0.6, 0.9)]
    for order in (starts, starts[::-1], starts[2:] + starts[:2]):
        done, losses = learned(model_dir, corpus_dir, prepared, order)
        assert len(set(losses)) == 4
        assert done.start == order[losses.index(min(losses))]
        assert done.start_loss == pytest.approx(min(losses), rel=1e-5)
        for rule in done.weighting.rules:  # one step of the learning rate away
            assert rule.weights == pytest.approx(done.start.weights, abs=0.021)


@pytest.mark.slow
def test_steps_rate_and_penalty_decide_how_far_weights_go(model_dir, corpus_dir, prepared):
    start = Weighting((0.5, 0.5))

    def distance(**changes):
        done, _ = learned(model_dir, corpus_dir, prepared, [start], **changes)
        return sum(abs(w - 0.5) for rule in done.weighting.rules for w in rule.weights)

    free = distance(learn_steps=15, learn_lr=0.1, learn_penalty=0.0)
    assert distance(learn_steps=15, learn_lr=0.1, learn_penalty=1e3) < 0.5 * free
    assert distance(learn_steps=15, learn_lr=0.01, learn_penalty=0.0) < 0.5 * free
    assert distance(learn_steps=3, learn_lr=0.1, learn_penalty=0.0) < 0.7 * free


@pytest.mark.parametrize("what", ["base", "engine", "template"])
def test_an_ended_search_is_of_its_base_and_engine(
    tmp_path, model_dir, corpus_dir, adapters, monkeypatch, what
):
    model = shutil.copytree(model_dir, tmp_path / "model")
    settings = settings_for(model, corpus_dir, tmp_path / "merged", limit=2)
    search(adapters, settings)
    assert search(adapters, settings).notes[-1].startswith("this search was already complete")
    if what == "base":
        tensors = load_file(model / "model.safetensors")
        moved = {name: tensor + 1 for name, tensor in tensors.items()}
        save_file(moved, model / "model.safetensors", {"format": "pt"})
    elif what == "engine":
        monkeypatch.setattr("adaptermix.generation.cached.installed_version", lambda engine: "0.0")
    else:
        template = (model / "chat_template.jinja").read_text()
        (model / "chat_template.jinja").write_text(template + " ")
    with pytest.raises(ArtifactError, match="merged exists"):
        search(adapters, settings)


@pytest.mark.slow
@pytest.mark.parametrize("search", ["learn", "per language"])
def test_an_ended_search_is_known_only_as_long_as_nothing_changes(
    tmp_path, model_dir, corpus_dir, search
):
    """Its key depends on the base model, every adapter, every dev example and the settings."""
    model, data = shutil.copytree(model_dir, tmp_path / "m"), tmp_path / "data"
    shutil.copytree(corpus_dir, data)
    paths = [tmp_path / "task", tmp_path / "align"]
    for seed, path in enumerate(paths):
        peft_adapter(model, path, seed=seed)
    is_family = search == "per language"
    given = {"search": "0.7", "per_language": True} if is_family else {"search": search}
    prepare = by_language._prepare if is_family else _prepare

    def inputs(**changes):
        settings = settings_for(model, data, tmp_path / "family", limit=None, **given | changes)
        return prepare(paths, settings, False)

    first = inputs()
    learning = getattr(first, "learning", [])
    assert bool(learning) == (search == "learn")
    keys = [first.key, inputs(seed=2).key, inputs(prefer="best").key]
    for item in chain([group[0] for group in first.items.values()], learning[:1]):
        (path,) = data.glob(f"massive/{item.lang}-*.jsonl")
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        (row,) = (row for row in rows if row["id"] == item.example.id)
        row["annot_utt"] = row["annot_utt"].replace("color_type", "other_type")
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        keys.append(inputs().key)
    for seed, path in enumerate(paths, start=7):
        peft_adapter(model, path, seed=seed)
        keys.append(inputs().key)
    weights = load_file(model / "model.safetensors")
    save_file({name: w + 1 for name, w in weights.items()}, model / "model.safetensors")
    keys.append(inputs().key)
    assert len({*keys}) == len(keys)
    assert inputs().key == keys[-1]


def test_of_equal_scores_the_simpler_candidate_stays_and_the_best_is_first(monkeypatch, tmp_path):
    """A race may drop either; the adapter alone needs no merge."""
    skill = {"0.9": 0.6, "0.7": 0.6, "1": 0.6}
    halving, _, candidates = make_halving(monkeypatch, tmp_path, skill, examples=30)
    for order in (candidates, candidates[::-1]):
        ranked = halving.run(order, exhaustive=True)
        assert len({halving.score(entry) for entry in ranked}) == 1
        assert ranked[0].candidate.name == "1"


def test_scores_that_differ_by_rounding_are_equal(monkeypatch, tmp_path):
    """0.1 + 0.2 + 0.3 is not 0.3 + 0.2 + 0.1; languages that cancel leave 1e-17."""
    halving, _, candidates = make_halving(monkeypatch, tmp_path, {"0.9": 0.6, "1": 0.6})
    by_name = {candidate.name: candidate for candidate in candidates}
    f1 = [np.array([row]) for row in ([1, 18, 2], [1, 8, 2], [3, 14, 6])]
    alone = Entry(by_name["1"], tmp_path, f1[::-1])
    merge = Entry(by_name["0.9"], tmp_path, f1)
    values = [halving.task.value(rows.sum(axis=0)) for rows in f1]
    assert sum(values) != sum(values[::-1])
    assert halving.score(alone) == halving.score(merge)
    winner, tied, _ = choose(halving, [alone, merge], "best")
    assert (winner, tied) == (alone, [merge])


def test_of_equally_simple_candidates_that_with_the_best_score_is_chosen(monkeypatch, tmp_path):
    skill = {"0.9": 0.61, "0.7": 0.6, "0.5": 0.1}
    halving, _, candidates = make_halving(monkeypatch, tmp_path, skill)
    ranked = halving.run(candidates, exhaustive=True)
    for order in (ranked, ranked[::-1]):
        winner, tied, verdict = choose(halving, order, "simpler")
        assert winner.candidate.name == "0.9"
        assert [entry.candidate.name for entry in tied] == ["0.7"]
        assert verdict.endswith("it is not significantly different from 0.7")


def test_the_interval_of_a_score_covers_all_languages(monkeypatch, tmp_path):
    halving, _, candidates = make_halving(monkeypatch, tmp_path, SKILL, examples=40)
    (entry, *_) = halving.run(candidates, exhaustive=True)
    whole = halving.score_interval(entry)
    for at, rows in enumerate(entry.statistics):
        entry.statistics[at] = rows[:1].repeat(40, axis=0)  # examples that are all alike
        others = halving.score_interval(entry)
        entry.statistics[at] = rows
        assert 0 < others.high - others.low < whole.high - whole.low


def test_messages_name_each_candidate_by_its_adapter(monkeypatch, tmp_path):
    halving, generator, candidates = make_halving(monkeypatch, tmp_path, SKILL, examples=4)
    halving.run(candidates, exhaustive=True)
    named = {path.name: name for path, name in generator.names.items()}
    assert named == {c.name: f"candidate {c.name}" for c in candidates}


def test_a_candidate_that_comes_back_and_ends_the_race_was_not_dropped(monkeypatch, tmp_path):
    halving, _, candidates = make_halving(monkeypatch, tmp_path, SKILL, examples=40)
    halving.run(candidates, exhaustive=False)
    dropped = [e.candidate for e in halving.entries.values() if e.dropped is not None]
    assert len(dropped) > 2
    for entry in halving.run(dropped[:2], exhaustive=False):
        assert (entry.dropped, entry.answered) == (None, 80)


def test_a_candidate_that_is_listed_twice_races_once(monkeypatch, tmp_path):
    """Otherwise its answers count twice, and no other candidate has as many."""
    halving, _, candidates = make_halving(monkeypatch, tmp_path, SKILL, examples=40)
    alone = make_halving(monkeypatch, tmp_path, SKILL, examples=40)[0]
    for is_exhaustive in (False, True):
        expected, found = (
            [(entry.candidate.name, entry.answered) for entry in race]
            for race in (
                alone.run(candidates, exhaustive=is_exhaustive),
                halving.run([*candidates, *candidates], exhaustive=is_exhaustive),
            )
        )
        assert found == expected
    assert halving.needed == 7 * 80


GRIDS = {
    "grid": {"search": "0.5,0.6,0.7,0.8,0.9"},
    "auto": {"search": "auto"},
    "trials": {"search": "auto", "layer_groups": 2, "trials": 3},
    "learn": {"search": "learn", "learn_steps": 1},
}


@pytest.mark.parametrize(
    ("kind", "is_exhaustive"), [*((kind, True) for kind in GRIDS), ("grid", False)]
)
def test_an_exhaustive_search_asks_everything_of_everyone(
    tmp_path, model_dir, corpus_dir, adapters, kind, is_exhaustive
):
    changes = {"limit": 4, "exhaustive": is_exhaustive, **GRIDS[kind]}
    report = search(adapters, settings_for(model_dir, corpus_dir, tmp_path / "out", **changes))
    answered = {candidate.examples for candidate in report.candidates}
    assert (len(answered) == 1) == is_exhaustive
    assert (report.decoded == report.exhaustive) == is_exhaustive
    assert sum(c.examples for c in report.candidates) == report.decoded
    assert max(answered) * len(report.candidates) == report.exhaustive
    assert report.candidates[0].name == report.winner
    others = [(-c.examples, -c.score.value) for c in report.candidates[1:]]
    assert others == sorted(others), "a score of few examples is not ranked above one of all"


def test_the_best_of_all_trials_go_on_as_many_as_began(monkeypatch, tmp_path):
    halving, _, candidates = make_halving(monkeypatch, tmp_path, {"0.7": 0.6, "1": 0.4})
    scores = iter([0.3, 0.1, 0.2, 0.9, 0.5, 0.0, 0.4])
    drawn = []
    monkeypatch.setattr(halving, "score", lambda entry: drawn.append(next(scores)) or drawn[-1])
    halving.plan = lambda weighting: "0.7"
    groups = [frozenset({0}), frozenset({1})]
    monkeypatch.setattr("adaptermix.search.run.layer_groups", lambda plan, count: groups)
    inputs = SimpleNamespace(plan=lambda weights: None, candidates=candidates, adapters=[None] * 2)
    tried = _try(halving, inputs, SearchSettings(search="auto", trials=5))
    assert len(drawn) == 2 + 5
    names = list(halving.entries)
    assert [names.index(candidate.name) for candidate in tried] == [3, 4]
