"""Which block is aligned: the measurement against plain transformers, and the rule on curves."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from helpers.training import align_settings, assert_same, joint_settings
from transformers import AutoModelForCausalLM

from adaptermix.adapters.adapter import read_adapter
from adaptermix.models.blocks import load_lower_blocks
from adaptermix.models.files import layer_index
from adaptermix.models.loading import load_model, load_tokenizer
from adaptermix.models.pooling import pool, pooling_weights, retrieval_accuracy
from adaptermix.settings.training import TrainAlignSettings
from adaptermix.training.align import align_data, train_align
from adaptermix.training.batches import PairCollator
from adaptermix.training.checkpoints import work_folder
from adaptermix.training.joint import train_joint
from adaptermix.training.layers import (
    Curve,
    LayerChoice,
    _hits,
    choose,
    choose_block,
    known_choice,
    measure,
    write_choice,
)
from adaptermix.training.report import TrainReport

AUTO = {"layer": "auto", "pool_skip": "auto", "dev_pairs": 20}


def curve(accuracies, pairs=1000, first_token=1.0):
    """Hits of pairs that are found after blocks independently of each other."""
    torch.manual_seed(1)
    hits = torch.stack([(torch.rand(pairs) < accuracy).double() for accuracy in accuracies])
    return Curve(hits, hits, [first_token] * len(accuracies))


def rising(middle, top, depth):
    """Accuracy that rises to the middle block and falls behind it."""
    return [top - (top - 0.1) * abs(at - middle) / middle for at in range(1, depth + 1)]


GEMMA = [0.05, 0.05, 0.07, 0.14, 0.11, 0.14, 0.12, 0.12, 0.09, 0.18, 0.22, 0.18]
GEMMA += [0.18, 0.18, 0.15, 0.16, 0.16, 0.12]
TWO_PEAKS = [0.05, 0.1, 0.2, 0.24, 0.15, 0.1, 0.08, 0.09, 0.1, 0.15, 0.2, 0.22]
TWO_PEAKS += [0.25, 0.24, 0.24, 0.25, 0.2, 0.15]


@pytest.mark.parametrize(
    ("accuracies", "pairs", "blocks", "is_flat"),
    [
        (rising(16, 0.5, 32), 1000, {15, 16}, False),  # as in the paper's figure 1a
        (TWO_PEAKS, 1000, {11, 12, 13}, False),  # a valley in the middle, and a peak at the bottom
        (GEMMA, 1000, {10, 11}, False),
        ([0.02] * 18, 500, {9}, True),
        (TWO_PEAKS, 20, {9}, True),  # too few pairs to tell
        (
            [0.5, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05],
            1000,
            {4},
            True,
        ),  # the bottom does not count
        ([0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.9], 1000, {8}, False),
        ([0.3], 100, {1}, True),
        ([0.1, 0.9], 100, {2}, False),
    ],
)
def test_the_block_is_the_nearest_to_the_middle_of_the_good_ones(
    accuracies, pairs, blocks, is_flat
):
    middle = max(1, len(accuracies) // 2)
    block, best = choose_block(curve(accuracies, pairs).hits, middle)
    assert block in blocks
    assert (best is None) == is_flat


def test_a_flat_curve_seldom_leaves_the_middle():
    """Each block is compared with the best of them, which is best by chance."""
    torch.manual_seed(1)
    chosen = [choose_block((torch.rand(16, 300) < 0.1).double(), 8)[0] for _ in range(200)]
    assert sum(block == 8 for block in chosen) > 180


def test_of_two_as_near_the_upper_is_taken():
    assert choose_block(curve([0.1, 0.1, 0.9, 0.1, 0.9, 0.1, 0.1, 0.1]).hits, 4)[0] == 5


@pytest.mark.parametrize("depth", [4, 8, 16, 33])
def test_the_bottom_block_is_never_chosen(depth):
    """Aligning it was worse than any other choice; those above it are chosen by retrieval."""
    bottom, middle = layer_index("bottom", depth), layer_index("middle", depth)
    peak = [0.9 if at == bottom else 0.1 for at in range(1, depth + 1)]
    assert choose_block(curve(peak).hits, middle) == (middle, None)
    above = [0.9 if at == bottom + 1 else 0.1 for at in range(1, depth + 1)]
    assert choose_block(curve(above).hits, middle)[0] == bottom + 1


@pytest.mark.parametrize("packing", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("is_whole", [True, False], ids=["whole", "lower"])
def test_the_curve_is_that_of_plain_transformers(layout_dir, corpus_dir, is_whole, packing):
    settings = align_settings(
        layout_dir,
        corpus_dir,
        "x",
        packing=packing,
        pairs=("cy-en", "sw-en"),
        dev_pairs=9,
        **{"pool_skip": "auto"},
    )
    tokenizer = load_tokenizer(layout_dir, settings)
    data = align_data(settings, tokenizer)
    if is_whole:
        model, blocks = load_model(layout_dir, settings), 4
    else:
        model, blocks = load_lower_blocks(layout_dir, settings, "2"), 2
    found = measure(model, settings, data, PairCollator(2), lambda progress: None)

    plain = AutoModelForCausalLM.from_pretrained(layout_dir, attn_implementation="eager").eval()
    last = {}
    plain.model.norm.register_forward_pre_hook(lambda module, args: last.update(states=args[0]))

    def states(ids):
        with torch.no_grad():
            hidden = plain(torch.tensor([list(ids)]), output_hidden_states=True).hidden_states
        return torch.stack([*hidden[1:-1], last["states"]])[:blocks, 0]  # [blocks tokens hidden]

    ratios = []
    for skip, hits in ((0, found.hits), (1, found.hits_without_first)):
        for start in range(0, len(data.dev), 9):
            group = data.dev[start : start + 9]
            sides = [
                [states(row.source_ids) for row in group],
                [states(r.target_ids) for r in group],
            ]
            vectors = [torch.stack([s[:, skip:].mean(1) for s in side], 1) for side in sides]
            expected = [
                (retrieval_accuracy(one, two) + retrieval_accuracy(two, one)) / 2
                for one, two in zip(*vectors, strict=True)
            ]
            assert hits[:, start : start + 9].mean(1).tolist() == pytest.approx(expected)
            norms = [s.norm(dim=-1) for side in sides for s in side]
            ratios += [n[:, 0] / n[:, 1:].median(1).values for n in norms]
    expected = torch.stack(ratios).median(0).values
    torch.testing.assert_close(torch.tensor(found.first_token), expected, rtol=1e-4, atol=1e-4)


def test_of_equal_sentences_each_is_retrieved():
    vectors = torch.eye(4)[[0, 0, 1, 2]].repeat(1, 2, 1, 1)
    apart, equal = torch.arange(4), torch.tensor([7, 7, 8, 9])
    for keys, hits in (((apart, apart), 0), ((equal, apart), 0.5), ((equal, equal), 1)):
        assert _hits(vectors, torch.stack(keys)).tolist() == [[1, hits, 1, 1]]


@pytest.mark.parametrize(("pooling", "skip"), [("weighted", 0), ("last", 0), ("mean", 4)])
def test_the_curve_is_pooled_as_the_settings_say(model_dir, corpus_dir, pooling, skip):
    changes = {"pooling": pooling, "pool_skip": skip, "pairs": ("cy-en", "sw-en"), "dev_pairs": 9}
    settings = align_settings(model_dir, corpus_dir, "x", **changes)
    data = align_data(settings, load_tokenizer(model_dir, settings))
    model = load_lower_blocks(model_dir, settings, "2").eval()
    seen = []
    found = measure(model, settings, data, PairCollator(2), lambda progress: seen.append(progress))

    def vector(ids, how, left_out):
        with torch.no_grad():
            states = model(torch.tensor([list(ids)])).last_hidden_state
        weights = pooling_weights(torch.ones(1, len(ids), dtype=torch.long), how, left_out)
        return pool(states, weights)[0]

    def accuracies(how, left_out):
        of_groups = []
        for group in (data.dev[:9], data.dev[9:]):
            sides = (
                torch.stack([vector(ids, how, left_out) for ids in side])
                for side in ([p.source_ids for p in group], [p.target_ids for p in group])
            )
            one, two = sides
            both = retrieval_accuracy(one, two), retrieval_accuracy(two, one)
            of_groups.append(sum(both) / 2)
        return of_groups

    hits = [found.hits[1, part].mean().item() for part in (slice(9), slice(9, 18))]
    assert hits == pytest.approx(accuracies(pooling, skip))
    assert hits != pytest.approx(accuracies("mean", 0))
    assert [progress.detail for progress in seen] == [
        f"{count} of 18 pairs" for count in (8, 9, 17, 18)
    ]


def told(settings, found, depth):
    return choose(TrainAlignSettings(**settings), found, depth)


def test_the_first_token_is_left_out_where_it_is_a_sink():
    sink = curve([0.3] * 8, first_token=15.0)
    chosen = told({"pool_skip": "auto"}, sink, 8)
    assert (chosen.layer, chosen.pool_skip) == ("middle", 1)
    assert chosen.notes == [
        "--pool-skip auto: the first token is left out: "
        "after block 4, its norm is 15.0 times the norm of the other tokens"
    ]
    assert told({"pool_skip": "auto"}, curve([0.3] * 8), 8).pool_skip == 0
    papers = told({}, sink, 8)
    assert papers.pool_skip == 0
    assert "after block 4, its norm is 15.0 times" in papers.notes[0]
    assert "try --pool-skip auto" in papers.notes[0]
    assert told({"pool_skip": 2}, sink, 8).pool_skip == 2
    assert told({"pool_skip": 2}, sink, 8).notes == []


@pytest.mark.parametrize("layer", ["1", "2", "3", "4", "middle", "top"])
def test_the_first_token_is_judged_block_by_block(layer):
    """By its norm after the aligned block; the accuracies are those of the chosen pooling."""
    hits, without = (curve(accuracies).hits for accuracies in ([0.2] * 4, [0.6] * 4))
    found = Curve(hits, without, [1.0, 15.0, 1.0, 15.0])
    chosen = told({"layer": layer, "pool_skip": "auto"}, found, 4)
    block = {"middle": 2, "top": 4}.get(layer) or int(layer)
    assert chosen.pool_skip == (block % 2 == 0)
    assert [accuracy > 0.4 for accuracy in chosen.accuracy] == [False, True, False, True]
    kept = told({"layer": layer, "pool_skip": 0}, found, 4)
    assert max(kept.accuracy) < 0.4
    assert len(kept.notes) == (block % 2 == 0)


def test_a_middle_block_that_is_clearly_worse_is_noted():
    accuracies = [0.05, 0.1, 0.3, 0.05]  # the upper four were not loaded
    assert "32.3% after block 3" in told({}, curve(accuracies), 8).notes[0]
    assert told({"layer": "4"}, curve(accuracies), 8).notes == []
    assert told({}, curve([0.3, 0.1, 0.1, 0.1]), 8).notes == []  # bottom ones do not count
    assert told({}, curve([0.1, 0.1, 0.1, 0.1, 0.1, 0.9, 0.1, 0.1]), 8).notes != []


def test_the_choice_says_why():
    flat = told({"layer": "auto"}, curve([0.1] * 8), 8)
    assert "retrieval of dev pairs is flat" in flat.notes[0]
    assert flat.pairs == 1000
    other = told({"layer": "auto"}, curve([0.1] * 5 + [0.9, 0.1, 0.1]), 8)
    assert other.layer == "6"
    assert "chose block 6 (88.1%)" in other.notes[0]
    assert "the middle, block 4" in other.notes[0]


@pytest.fixture(scope="module")
def sunk_dir(tmp_path_factory, model_dir):
    """A model whose first token has a huge state, as an attention sink has."""
    folder = tmp_path_factory.mktemp("sunk") / "model"
    shutil.copytree(model_dir, folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.model.embed_tokens.weight[0] *= 300  # BOS
    model.save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("run", "make"), [(train_align, align_settings), (train_joint, joint_settings)]
)
def test_a_run_keeps_log_record_and_card_of_its_choice(tmp_path, sunk_dir, corpus_dir, run, make):
    out = tmp_path / "auto.safetensors"
    notes = []
    report = run(
        make(sunk_dir, corpus_dir, out, **AUTO), on_progress=lambda p: notes.append(p.note)
    )
    layers = read_adapter(out).record["layers"]
    assert layers == report.layers
    assert layers["pool_skip"] == 1
    assert len(layers["accuracy"]) == len(layers["first_token"]) == 4
    assert min(layers["first_token"]) > 2
    first = json.loads((tmp_path / "auto.log.jsonl").read_text().splitlines()[0])
    assert first == {"step": 0, **layers}
    card = (tmp_path / "auto.README.md").read_text()
    assert "Retrieval by layer before training" in card
    assert f"{layers['layer']} (aligned)" in card
    assert len([note for note in notes if "auto: " in note]) == 2
    assert report.notes[-2:] == [note for note in notes if note]

    named = tmp_path / "named.safetensors"
    run(make(sunk_dir, corpus_dir, named, layer=layers["layer"], pool_skip=1, dev_pairs=20))
    assert_same(out, named)
    assert "layers" not in read_adapter(named).record
    if run is train_align:
        assert len({m.split(".")[2] for m in read_adapter(out).modules}) == int(layers["layer"])


def test_what_was_measured_is_not_advised_after_the_training():
    """Sentences that look alike: --layer auto is advised to those who did not have it."""
    known = {"out": "", "command": "train-align", "examples": {}, "dev_examples": {}, "log": None}
    counts = dict.fromkeys(("truncated", "steps", "planned_steps", "trainable_parameters"), 1)
    dev = {"random_cosine_of_base": 0.95}
    report = TrainReport(**known, **counts, dev=dev, seconds=1, written=True)
    assert str(report.view()).count("look alike") == 1
    assert "try --layer auto and --pool-skip auto" in str(report.view())
    measured = replace(report, layers={"layer": "2", "pool_skip": 0, "accuracy": [0.1, 0.2]})
    assert str(measured.view()).count("look alike") == 1
    assert "--layer auto" not in str(measured.view())


def stop_at(step):
    def stop(progress):
        if progress.stage == "align" and progress.done >= step:
            raise KeyboardInterrupt

    return stop


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [(0.1,), (0.1, 0.5)], ids=["one", "two"])
def test_a_killed_run_does_not_measure_twice(tmp_path, model_dir, corpus_dir, temperature):
    once = tmp_path / "once.safetensors"
    changes = {**AUTO, "max_steps": 6, "eval_steps": 2, "temperature": temperature}
    train_align(align_settings(model_dir, corpus_dir, once, **changes))
    killed = align_settings(model_dir, corpus_dir, tmp_path / "killed.safetensors", **changes)
    with pytest.raises(KeyboardInterrupt):
        train_align(killed, on_progress=stop_at(5))
    stages = set()
    resumed = killed.model_copy(update={"resume": True})
    train_align(resumed, on_progress=lambda progress: stages.add(progress.stage))
    assert "measuring layers" not in stages
    assert "align" in stages
    assert_same(once, killed.out)
    records = [read_adapter(path).record for path in (once, killed.out)]
    assert records[0]["layers"] == records[1]["layers"]
    assert records[0]["notes"] == records[1]["notes"]
    logs = [path.with_suffix(".log.jsonl").read_text() for path in (once, killed.out)]
    assert [json.loads(log.splitlines()[0]) for log in logs] == [
        {"step": 0, **records[0]["layers"]}
    ] * 2


def test_only_a_resumed_run_knows_a_choice(tmp_path):
    """One that is started over measures again; the runs of a sweep share what was measured."""
    choice = LayerChoice("3", 1, [0.1, 0.2, 0.3], [1.0, 5.0, 2.0], 20, ["a note"])
    settings = TrainAlignSettings(out=tmp_path / "a", layer="auto")
    write_choice(work_folder(settings.out), choice)
    assert known_choice(settings) is None
    assert known_choice(settings.model_copy(update={"resume": True})) == choice
    assert known_choice(settings, tmp_path / "shared") is None
    write_choice(tmp_path / "shared", choice)
    assert known_choice(settings, tmp_path / "shared") == choice


def test_a_plan_with_an_open_layer_counts_the_whole_model(tmp_path, model_dir, corpus_dir):
    plans = [
        train_align(
            align_settings(model_dir, corpus_dir, tmp_path / "o", layer=layer), dry_run=True
        )
        for layer in ("auto", "top", "middle")
    ]
    assert plans[0].held_parameters == plans[1].held_parameters > plans[2].held_parameters
    settings = joint_settings(model_dir, corpus_dir, tmp_path / "o", **AUTO)
    assert train_joint(settings, dry_run=True).memory_bytes > 0


@pytest.mark.parametrize(("given", "value"), [("auto", "auto"), ("2", 2), (0, 0)], ids=str)
def test_tokens_to_skip_are_a_number_or_auto(given, value):
    assert TrainAlignSettings(pool_skip=given).pool_skip == value
    with pytest.raises(ValueError, match="a number from 0, or auto"):
        TrainAlignSettings(pool_skip="some")
