"""What the settings of alignment do: layer, pooling, temperatures, preservation."""

import re
from dataclasses import replace

import pytest
import torch
from helpers.cards import write
from helpers.models import make_tokenizer
from helpers.training import ALL_KINDS, PAIRS, align_settings, factors, randomize
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, GPT2Config

from adaptermix.adapters.adapter import read_adapter
from adaptermix.cli import console
from adaptermix.commands.settings_file import load_settings
from adaptermix.commands.training import TRAIN_ALIGN, TRAIN_JOINT, TRAIN_TASK
from adaptermix.errors import ArtifactError, ConfigError, DataError
from adaptermix.models.blocks import load_lower_blocks
from adaptermix.models.loading import load_tokenizer
from adaptermix.models.lora import with_lora
from adaptermix.settings.training import TrainAlignSettings, TrainJointSettings, TrainTaskSettings
from adaptermix.training.align import (
    _with_anchor_text,
    align_data,
    train_align,
)
from adaptermix.training.alignment import Alignment, AlignmentObjective, PairVectors
from adaptermix.training.batches import PairCollator, encode_pairs, with_anchor_text
from adaptermix.training.contrastive import ContrastiveStep, Loss, Sentences
from adaptermix.training.report import TrainReport
from adaptermix.training.sweep import train_best

LINES = ["wake me at five", "hello there", "play jazz"]


def settings_from(tmp_path, text, flags=None):
    path = tmp_path / "adaptermix.toml"
    path.write_text(f"[train-align]\n{text}\n")
    return load_settings(TrainAlignSettings, flags or {}, path)


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("layer = 16", "layer", "16"),
        ("layer = 0.5", "layer", "0.5"),
        ('layer = "top"', "layer", "top"),
        ("temperature = 0.2", "temperature", (0.2,)),
        ("temperature = 1", "temperature", (1.0,)),
        ("temperature = [0.1, 1.5]", "temperature", (0.1, 1.5)),
    ],
)
def test_a_setting_in_the_file_is_read_as_it_is_written(tmp_path, text, name, value):
    assert getattr(settings_from(tmp_path, text), name) == value


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"layer": "0"}, "--layer: expected the number of a block .from 1.* not '0'"),
        ({"layer": "centre"}, "--layer: expected the number of a block.* not 'centre'"),
        ({"layer": "1.5"}, "--layer: .* fraction of the depth such as 0.5, not '1.5'"),
        ({"layer": "-3"}, "--layer: "),
        ({"temperature": "0.1,0"}, "--temperature: must be greater than 0, not '0'"),
        ({"temperature": "0.1,hot"}, "--temperature: must be a number, not 'hot'"),
        ({"temperature": "1.0,1"}, "--temperature: '1.0' is listed twice"),
        ({"temperature": ""}, "--temperature: expected at least 1"),
        ({"pool_skip": "-1"}, "--pool-skip: "),
        ({"pooling": "max"}, "--pooling: .*'mean', 'weighted' or 'last'"),
        ({"preserve": "-1"}, "--preserve: "),
        ({"preserve_text": ["a.txt"]}, "has no effect without --preserve WEIGHT"),
    ],
)
def test_a_slip_on_the_command_line_is_named(tmp_path, flags, message):
    with pytest.raises(ConfigError, match=message):
        settings_from(tmp_path, "", flags)


def test_anchor_text_in_the_file_lies_beside_the_file(tmp_path):
    settings = settings_from(tmp_path, 'preserve = 1\npreserve-text = ["en.txt", "de.txt"]')
    assert settings.preserve_text == (tmp_path / "en.txt", tmp_path / "de.txt")


def test_the_defaults_are_the_papers():
    settings = TrainAlignSettings()
    assert (settings.pooling, settings.pool_skip, settings.directions) == ("mean", 0, "one")
    assert (settings.layer, settings.temperature, settings.preserve) == ("middle", (0.1,), 0)
    assert not settings.stop_gradient
    assert not settings.mask_duplicates


@pytest.fixture(scope="module")
def adapted(model_dir):
    """The lower blocks in float64 with a LoRA that does something, and a batch with anchor text.

    Two sentences at a time go through the model, so that gradients come in parts.
    """
    settings = align_settings(model_dir, None, "x", layer=2, dropout=0.0)
    tokenizer = load_tokenizer(model_dir, settings)
    model = with_lora(load_lower_blocks(model_dir, settings, "2"), settings, None)
    randomize(model.double())
    pairs = with_anchor_text(encode_pairs(PAIRS, tokenizer, 64), LINES, tokenizer, 64)
    return model, ContrastiveStep(model, 2), PairCollator(2)(pairs), tokenizer


def loss_and_gradients(model, step, batch, settings):
    model.zero_grad()
    objective = AlignmentObjective(settings, model, step, batch)
    whole = Loss(objective, objective.token_loss)
    loss = step.backpropagate(model, objective.sentences, whole, torch.Tensor.backward)
    torch.testing.assert_close(Alignment(settings, model, step).loss(batch), loss)
    return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if "lora_" in n}


def test_preservation_equals_a_plain_computation_on_the_whole_model(adapted, model_dir):
    """Against stock transformers: one sentence at a time, two models, plain sums."""
    model, step, batch, tokenizer = adapted
    settings = align_settings(model_dir, None, "x", preserve=3.0, temperature=(0.5,))
    loss, gradients = loss_and_gradients(model, step, batch, settings)

    base = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float64)
    whole = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float64)
    config = LoraConfig(r=8, lora_alpha=16, target_modules=list(settings.target_modules))
    whole = get_peft_model(whole, config, autocast_adapter_dtype=False)
    of_whole = dict(whole.named_parameters())
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            full_name = name.replace("base_model.model.", "base_model.model.model.")
            of_whole[full_name].data.copy_(parameter.data)

    def states(of, text):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        return of(ids, output_hidden_states=True).hidden_states[2][0]

    expected, distances = 0.0, []
    with torch.no_grad():
        targets = [states(base, pair.target).mean(dim=0) for pair in PAIRS]
    for at, pair in enumerate(PAIRS):
        source = states(whole, pair.source).mean(dim=0)
        cosines = torch.stack([torch.cosine_similarity(source, t, dim=0) for t in targets])
        expected = expected - torch.log_softmax(cosines / 0.5, dim=0)[at] / len(PAIRS)
    for text in [*(pair.target for pair in PAIRS), *LINES]:
        for moved, old in zip(states(whole, text), states(base, text).detach(), strict=True):
            distances.append((moved - old).square().sum() / old.square().sum())
    expected = expected + 3.0 * sum(distances) / len(distances)
    expected.backward()

    assert loss == pytest.approx(expected.item(), rel=1e-9)
    for name, gradient in gradients.items():
        full_name = name.replace("base_model.model.", "base_model.model.model.")
        assert gradient.abs().sum() > 0
        torch.testing.assert_close(gradient, of_whole[full_name].grad)


@pytest.mark.parametrize(
    "changes",
    [
        {"pooling": "last"},
        {"pooling": "weighted"},
        {"pool_skip": 1},
        {"directions": "both"},
        {"stop_gradient": True},
        {"temperature": (1.5,)},
        {"preserve": 1.0},
    ],
    ids=str,
)
def test_every_setting_reaches_the_loss(adapted, model_dir, changes):
    model, step, batch, _ = adapted
    _, plain = loss_and_gradients(model, step, batch, align_settings(model_dir, None, "x"))
    _, other = loss_and_gradients(
        model, step, batch, align_settings(model_dir, None, "x", **changes)
    )
    assert any(not torch.allclose(plain[name], other[name]) for name in plain)


@pytest.mark.parametrize(
    "other",
    [
        PAIRS[0],
        replace(PAIRS[0], source="cyfarchion"),
        replace(PAIRS[0], target="greetings"),
    ],
    ids=["both sides", "the target", "the source"],
)
def test_sentences_that_are_the_same_are_no_negatives(adapted, model_dir, other):
    model, step, _, tokenizer = adapted
    collator = PairCollator(2)
    pairs = encode_pairs([*PAIRS, other], tokenizer, 64)
    plain = align_settings(model_dir, None, "x")
    masked = align_settings(model_dir, None, "x", mask_duplicates=True)
    either = [Alignment(settings, model, step) for settings in (plain, masked)]
    without = [alignment.loss(collator(pairs)) for alignment in either]
    distinct = [alignment.loss(collator(pairs[:3])) for alignment in either]
    assert without[1] < without[0]
    assert distinct[1] == distinct[0]


def test_anchor_text_is_repeated_and_takes_no_part_in_the_contrast(adapted, model_dir):
    model, step, batch, tokenizer = adapted
    pairs = encode_pairs(PAIRS, tokenizer, 64)
    held = with_anchor_text(pairs, LINES[:2], tokenizer, 64)
    assert held[2].anchor_ids == held[0].anchor_ids == tokenizer(LINES[0])["input_ids"]
    assert len(batch["input_ids"]) == 3 * len(PAIRS)
    with torch.no_grad():
        mine = step.vectors(model, Sentences.of(batch))[: 2 * len(PAIRS)]
        plain = step.vectors(model, Sentences.of(PairCollator(2)(pairs)))
    torch.testing.assert_close(mine, plain)


def moved(model_dir, adapter, tokenizer):
    """Return how far an adapter takes the states of the held lines, relative to their norm."""
    settings = align_settings(model_dir, None, "x")
    base = load_lower_blocks(model_dir, settings)
    other = load_lower_blocks(model_dir, settings)
    with torch.no_grad():
        for module, update in read_adapter(adapter).updates():
            weight = other.get_submodule(module.removeprefix("model.")).weight
            weight.add_(torch.from_numpy(update.delta_weight()))
        total = 0.0
        for line in LINES:
            ids = torch.tensor([tokenizer(line)["input_ids"]])
            old, new = base(ids).last_hidden_state, other(ids).last_hidden_state
            total += ((new - old).norm() / old.norm()).item()
    return total / len(LINES)


@pytest.mark.slow
def test_a_preserving_adapter_moves_ordinary_text_less(tmp_path, model_dir, corpus_dir, adapted):
    text = tmp_path / "en.txt"
    text.write_text("\n".join(LINES * 5) + "\n\n")
    changes = {"lr": 1e-2, "dropout": 0.0, "max_steps": 10, "eval_steps": 10}
    distance = {}
    for name, more in {"plain": {}, "held": {"preserve": 20, "preserve_text": (text,)}}.items():
        out = tmp_path / f"{name}.safetensors"
        report = train_align(align_settings(model_dir, corpus_dir, out, **changes, **more))
        distance[name] = moved(model_dir, out, adapted[-1])
    assert distance["held"] < 0.5 * distance["plain"]
    assert report.dev["retrieval_accuracy"] >= report.dev["retrieval_accuracy_of_base"]
    assert -1 <= report.dev["random_cosine"] <= 1
    assert report.dev["random_cosine"] != report.dev["random_cosine_of_base"]


def test_no_anchor_text_is_both_trained_on_and_judged_by(tmp_path, model_dir, corpus_dir):
    """Every line of every file is one of the two, and files have equal shares."""
    paths = [tmp_path / "en.txt", tmp_path / "de.txt"]
    for size, path in zip((40, 20), paths, strict=True):
        path.write_text("".join(f"{path.stem} line {n}\n" for n in range(size)))
    settings = align_settings(model_dir, corpus_dir, "x", preserve=1, preserve_text=tuple(paths))
    tokenizer = load_tokenizer(model_dir, settings)
    data = _with_anchor_text(align_data(settings, tokenizer), settings, tokenizer)
    trained, judged = (
        [tokenizer.decode(row.anchor_ids, skip_special_tokens=True) for row in rows]
        for rows in (data.train, data.dev)
    )
    assert not {*trained} & {*judged}
    assert {*trained} | {*judged} <= {f"{p.stem} line {n}" for p in paths for n in range(40)}
    assert len({*judged}) == 4 + 2
    english = sum(line.startswith("en") for line in trained)
    assert english == pytest.approx(len(trained) / 2, rel=0.15)


def test_anchor_text_is_cut_at_the_maximum_length(tmp_path, model_dir, corpus_dir):
    path = tmp_path / "en.txt"
    path.write_text("".join(f"line {n} " * 30 + "\n" for n in range(20)))
    changes = {"preserve": 1, "preserve_text": (path,), "max_length": 40}
    settings = align_settings(model_dir, corpus_dir, "x", **changes)
    tokenizer = load_tokenizer(model_dir, settings)
    data = _with_anchor_text(align_data(settings, tokenizer), settings, tokenizer)
    assert {len(row.anchor_ids) for row in (*data.train, *data.dev)} == {40}


def odd_pairs(folder):
    """Write pairs of which each kind is dropped by another setting, and fewer of Swahili."""
    rows = [f"rho'r lamp {n} ymlaen\tturn on lamp {n}" for n in range(40)]
    rows += [f"Helo bawb. Sut wyt ti {n}?\tHello all. How are you {n}?" for n in range(20)]
    rows += [f"\u043f\u0440\u0438\u0432\u0435\u0442 {n}\thello {n} friends" for n in range(30)]
    (folder / "cy-en.tsv").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    rows = [f"washa taa {n}\tturn on lamp {n}\n" for n in range(20)]
    (folder / "sw-en.tsv").write_text("".join(rows), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("changes", "used", "trained"),
    [
        ({}, {"cy-en": 36, "sw-en": 18}, 36 + 36),
        ({"several_sentences": True}, {"cy-en": 54, "sw-en": 18}, 54 + 54),
        ({"check_script": False}, {"cy-en": 63, "sw-en": 18}, 63 + 63),
        ({"resample": 1.0}, {"cy-en": 36, "sw-en": 18}, 36 + 18),
        ({"dev_pairs": 1}, {"cy-en": 39, "sw-en": 19}, 39 + 39),
        ({"limit": 30}, {"cy-en": 27, "sw-en": 18}, 27 + 27),
    ],
    ids=str,
)
def test_pairs_are_chosen_and_repeated_as_the_settings_say(
    tmp_path, model_dir, changes, used, trained
):
    changes = {"pairs": ("cy-en", "sw-en"), "pairs_dir": odd_pairs(tmp_path), **changes}
    settings = align_settings(model_dir, None, "x", **changes)
    data = align_data(settings, load_tokenizer(model_dir, settings))
    assert data.examples == used
    assert len(data.train) == trained
    assert len({row.name for row in data.train}) == sum(used.values())
    assert len(data.dev) == sum(data.dev_examples.values())


@pytest.mark.parametrize("side", ["source_ids", "target_ids"])
def test_pairs_are_used_whole_or_dropped_with_a_count(tmp_path, model_dir, side):
    """A pair as long as the maximum is used; one of a token more, on either side, is not."""
    long, short = "lamp " * 9, "bach"
    for name, count in ((long, 5), (long + "lamp ", 3), ("lamp", 40)):
        pair = (name, short) if side == "source_ids" else (short, name)
        with (tmp_path / "cy-en.tsv").open("a") as file:
            file.writelines("\t".join(f"{text} {n}" for text in pair) + "\n" for n in range(count))
    settings = align_settings(model_dir, None, "x", pairs_dir=tmp_path)
    tokenizer = load_tokenizer(model_dir, settings)
    most = max(len(ids) for ids in tokenizer([f"{long} {n}" for n in range(5)])["input_ids"])
    data = align_data(settings.model_copy(update={"max_length": most}), tokenizer)
    rows = [*data.train, *data.dev]
    assert len(rows) == 45
    assert data.dropped == {"cy-en": {"too long": 3}}
    texts = {tokenizer.decode(list(getattr(row, side)), skip_special_tokens=True) for row in rows}
    assert {f"{long} {n}" for n in range(5)} < texts


@pytest.mark.parametrize("name", ["align", "joint"])
def test_dev_pairs_are_judged_in_contrastive_batches(
    tmp_path, model_dir, corpus_dir, monkeypatch, name
):
    """The loss grows with the number of pairs that are compared. All pairs count alike."""
    train, settings_for = ALL_KINDS[name]
    sizes, losses = [], []
    loss_of = Alignment.loss

    def watched(self, batch):
        sizes.append(len(batch["source_keys"]))
        losses.append(loss_of(self, batch))
        return losses[-1]

    by_language, counts = PairVectors.by_language, []
    monkeypatch.setattr(Alignment, "loss", watched)
    monkeypatch.setattr(
        PairVectors, "by_language", lambda *given: counts.append([*given[1]]) or by_language(*given)
    )
    changes = {"max_steps": 1, "eval_steps": 1, "batch_size": 8, "contrastive_batch": 4}
    changes |= {"pairs": ("cy-en", "sw-en"), "dev_pairs": 5}
    report = train(settings_for(model_dir, corpus_dir, tmp_path / "a", **changes))
    assert report.dev_examples["cy-en"] == report.dev_examples["sw-en"] == 5
    assert {*map(tuple, counts)} == {(5, 5)}, "retrieval is within a language pair"
    assert sizes[:3] == [4, 4, 2]
    assert {*map(tuple, zip(*[iter(sizes)] * 3, strict=True))} == {(4, 4, 2)}
    mean = sum(loss * size for loss, size in zip(losses[:3], sizes, strict=False)) / 10
    assert report.dev["loss" if name == "align" else "align_loss"] == pytest.approx(mean.item())


@pytest.mark.parametrize(
    ("pooling", "skip"), [("mean", 0), ("mean", 3), ("last", 0), ("weighted", 1)]
)
def test_dev_vectors_are_pooled_as_those_of_the_loss(adapted, model_dir, pooling, skip):
    model, step, batch, _ = adapted
    changes = {"pooling": pooling, "pool_skip": skip}
    alignment = Alignment(align_settings(model_dir, None, "x", **changes), model, step)
    sides = alignment.dev_vectors([batch, batch])[:2]
    with torch.no_grad():
        sentences = Sentences.of(batch, 0, pooling, skip)
        expected = step.vectors(model, sentences)[: 2 * len(PAIRS)].chunk(2)
    for found, side in zip(sides, expected, strict=True):
        torch.testing.assert_close(found, torch.cat([side, side]))


def test_anchor_text_without_lines_is_refused(tmp_path, model_dir, corpus_dir):
    text = tmp_path / "en.txt"
    text.write_text("one line\n\n")
    settings = align_settings(
        model_dir, corpus_dir, tmp_path / "a", preserve=1, preserve_text=(text,)
    )
    with pytest.raises(DataError, match=r"en.txt: --preserve-text needs at least two lines"):
        train_align(settings)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["align", "joint"])
@pytest.mark.parametrize(
    "changes", [{}, {"pooling": "last"}, {"pool_skip": 3}, {"pooling": "weighted"}], ids=str
)
def test_dev_numbers_are_those_of_the_written_adapter(
    tmp_path, model_dir, corpus_dir, name, changes
):
    """Against stock transformers and PEFT: a sentence at a time, no dropout, plain sums."""
    train, settings_for = ALL_KINDS[name]
    changes = {"max_steps": 2, "eval_steps": 2, "dropout": 0.5, "lr": 0.01, **changes}
    batches = {"batch_size": 16, "contrastive_batch": 16, "layer": 2}
    settings = settings_for(model_dir, corpus_dir, tmp_path / "a", **batches, **changes)
    dev = train(settings).dev
    tokenizer = load_tokenizer(model_dir, settings)
    pairs = align_data(settings, tokenizer).dev
    assert 5 < len(pairs) <= 16, "one contrastive batch"
    base = AutoModelForCausalLM.from_pretrained(model_dir)
    model = PeftModel.from_pretrained(base, str(tmp_path / "a")).eval()
    skip = settings.pool_skip

    @torch.no_grad()
    def vector(ids):
        kept = model(torch.tensor([list(ids)]), output_hidden_states=True).hidden_states[2][
            0, skip:
        ]
        if settings.pooling == "last":
            return kept[-1]
        counts = torch.arange(1.0, len(kept) + 1) if settings.pooling == "weighted" else None
        shares = torch.ones(len(kept)) if counts is None else counts
        return (shares[:, None] * kept).sum(0) / shares.sum()

    def cosines():
        sides = ([vector(p.source_ids) for p in pairs], [vector(p.target_ids) for p in pairs])
        sources, targets = map(torch.stack, sides)
        return torch.cosine_similarity(sources[:, None], targets[None], dim=-1)

    found = cosines()
    own = torch.arange(len(pairs))
    loss = torch.nn.functional.cross_entropy(found / 0.1, own).item()
    assert dev["loss" if name == "align" else "align_loss"] == pytest.approx(loss, rel=1e-4)
    accuracy = (found.argmax(1) == own).float().mean().item()
    assert dev["retrieval_accuracy"] == pytest.approx(accuracy)
    with model.disable_adapter():
        of_base = cosines()
    accuracy = (of_base.argmax(1) == own).float().mean().item()
    assert dev["retrieval_accuracy_of_base"] == pytest.approx(accuracy)
    if name == "align":
        others = ~torch.eye(len(pairs), dtype=torch.bool)
        for key, values in (("random_cosine", found), ("random_cosine_of_base", of_base)):
            assert dev[key] == pytest.approx(values[others].mean().item(), rel=1e-4)


SEARCH = {"temperature": (0.05, 5.0), "max_steps": 6, "eval_steps": 3, "lr": 5e-3}


@pytest.fixture(scope="module")
def searched(tmp_path_factory, model_dir, corpus_dir):
    out = tmp_path_factory.mktemp("searched") / "a.safetensors"
    return train_align(align_settings(model_dir, corpus_dir, out, **SEARCH)), out


def test_a_note_is_sent_once_and_not_for_every_temperature(tmp_path, model_dir, corpus_dir):
    changes = SEARCH | {"max_steps": 1, "eval_steps": 1, "layer": "auto"}
    seen = []
    settings = align_settings(model_dir, corpus_dir, tmp_path / "a", **changes)
    train_align(settings, on_progress=seen.append)
    notes = [progress.note for progress in seen if progress.note]
    assert sum("--layer auto" in note for note in notes) == 1
    assert len(notes) == len(set(notes))


@pytest.mark.slow
def test_the_temperature_of_the_best_retrieval_is_kept(
    tmp_path, model_dir, corpus_dir, searched, capsys
):
    report, out = searched
    accuracies = {name: dev["retrieval_accuracy"] for name, dev in report.candidates.items()}
    assert list(accuracies) == ["0.05", "5"]
    assert report.kept == max(accuracies, key=accuracies.get)
    assert report.dev == report.candidates[report.kept]
    left = sorted(path.name for path in out.parent.iterdir())
    assert left == ["a.README.md", "a.log.jsonl", "a.safetensors"]
    record = read_adapter(out).record
    assert record["kept"] == report.kept
    assert record["candidates"] == report.candidates
    assert record["settings"]["temperature"] == [0.05, 5.0]
    alone = SEARCH | {"temperature": (float(report.kept),)}
    train_align(align_settings(model_dir, corpus_dir, tmp_path / "b", **alone))
    mine, single = factors(out), factors(tmp_path / "b")
    assert all(torch.equal(mine[key], single[key]) for key in mine)
    console.show(report)
    shown = capsys.readouterr().out
    assert f"temperature {report.kept} (kept)" in shown
    assert f"retrieval accuracy {report.dev['retrieval_accuracy']:.1%}" in shown


@pytest.mark.parametrize(("cosine", "is_told"), [(0.99, True), (0.5, False)])
def test_one_state_that_hides_all_else_is_told(searched, capsys, cosine, is_told):
    dev = searched[0].dev | {"random_cosine_of_base": cosine}
    console.show(replace(searched[0], dev=dev))
    assert ("--pool-skip" in capsys.readouterr().out) == is_told


@pytest.mark.slow
def test_finished_candidates_are_not_trained_again(
    tmp_path, model_dir, corpus_dir, searched, monkeypatch
):
    out = tmp_path / "a.safetensors"
    settings = align_settings(model_dir, corpus_dir, out, **SEARCH)
    steps = []

    def note(progress):
        if progress.stage == "align":
            steps.append(progress.done)

    def stop_in_the_second(progress):
        note(progress)
        if len(steps) == 6 + 4:  # a checkpoint of the second lies there
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_align(settings, on_progress=stop_in_the_second)
    with pytest.raises(ArtifactError, match="candidates of an unfinished run"):
        train_align(settings)
    again = settings.model_copy(update={"resume": True})
    with pytest.raises(ConfigError, match="made with different settings"):
        train_align(again.model_copy(update={"lr": 1e-3}))
    steps.clear()
    report = train_align(again, on_progress=note)
    assert steps == [4, 5, 6]
    mine, whole = factors(out), factors(searched[1])
    assert all(torch.equal(mine[key], whole[key]) for key in mine)
    assert report.candidates == searched[0].candidates
    for record in (records := [read_adapter(path).record for path in (out, searched[1])]):
        del record["out"], record["log"], record["settings"]["out"]
    assert records[0] == records[1]  # so that the same run gives the same file


def test_a_sweep_takes_the_time_of_all_its_trainings_and_keeps_the_first_of_equals(tmp_path):
    settings = TrainAlignSettings(out=tmp_path / "a.safetensors", temperature=(1, 2, 3))
    seconds, accuracies = (1.5, 20.25, 300.0), (0.5, 0.75, 0.75)
    made = {}

    def train(variant):
        (value,) = variant.temperature
        at = int(value) - 1
        dev = {"retrieval_accuracy": accuracies[at]}
        known = {"out": str(variant.out), "command": "train-align", "log": None, "written": True}
        counts = {"examples": {}, "dev_examples": {}, "truncated": 0, "steps": at}
        counts |= {"planned_steps": at, "trainable_parameters": 0}
        made[at] = TrainReport(**known, **counts, dev=dev, seconds=seconds[at])
        write(variant.out, {"command": "train-align"}, seed=at)
        variant.out.with_name(f"{variant.out.stem}.log.jsonl").write_text(f"{value}")
        return made[at]

    variants = {name: settings.model_copy(update={"temperature": (float(name),)}) for name in "123"}
    report = train_best(settings, variants, train)
    assert report.seconds == pytest.approx(sum(seconds), abs=0.06)
    assert (report.kept, report.steps, report.dev) == ("2", 1, made[1].dev)
    assert report.candidates == {str(at + 1): each.dev for at, each in made.items()}
    assert (tmp_path / "a.log.jsonl").read_text() == "2.0"
    assert "seconds" not in read_adapter(settings.out).record, "the same run gives the same file"


def test_leftovers_are_dropped_by_force(tmp_path, model_dir, corpus_dir):
    work = tmp_path / ".a.safetensors.candidates"
    work.mkdir()
    (work / "0.05.safetensors").write_text("no adapter")
    out = tmp_path / "a.safetensors"
    changes = SEARCH | {"max_steps": 1, "temperature": (0.05, 0.1)}
    train_align(align_settings(model_dir, corpus_dir, out, **changes), force=True)
    assert out.is_file()
    assert not work.exists()


def test_a_sweep_that_failed_early_leaves_nothing_to_resume(tmp_path, model_dir, corpus_dir):
    """The layer of a run that did not start must not be that of the next one."""
    settings = align_settings(
        model_dir, corpus_dir, tmp_path / "a", **SEARCH, target_modules=("typo",)
    )
    for _ in range(2):
        with pytest.raises(ConfigError, match="no linear layer 'typo'"):
            train_align(settings)
    assert not list(tmp_path.glob(".*/layers.json"))


def test_a_plan_counts_the_steps_of_all_temperatures(tmp_path, model_dir, corpus_dir):
    out = tmp_path / "a.safetensors"
    report = train_align(align_settings(model_dir, corpus_dir, out, **SEARCH), dry_run=True)
    assert report.planned_steps == 2 * 6
    one = align_settings(model_dir, corpus_dir, out, **SEARCH | {"temperature": (0.05,)})
    assert report.tokens == 2 * train_align(one, dry_run=True).tokens
    assert list(tmp_path.iterdir()) == []


def test_what_looks_like_a_slip_in_a_training_is_noted(tmp_path):
    def told(**settings):
        return TRAIN_ALIGN.remark(TrainAlignSettings(out=tmp_path / "out", **settings))

    assert told() is None
    assert told(lr=0.01) is None
    assert "the learning rate 0.02 is high" in told(lr=0.02)
    assert "en-cy pulls English toward the other language" in told(pairs="en-cy,sw-en")
    assert "cy-en does the reverse" in told(pairs="en-cy,sw-en")
    both = told(pairs="sw-en,en-cy,en-ja")
    assert "cy-en does the reverse" in both and "ja-en does the reverse" in both
    assert "the training starts from the beginning" in told(resume=True)
    (tmp_path / "out").touch()
    assert told(resume=True) is None, "it has ended"
    own = TrainTaskSettings(task="my.toml", out=tmp_path / "new")
    assert "languages of massive, ar en es ru zh" in TRAIN_TASK.remark(own)
    assert TRAIN_TASK.remark(own.model_copy(update={"task": "massive"})) is None
    named = TrainTaskSettings(task="my.toml", langs="en", out=tmp_path / "new")
    assert TRAIN_TASK.remark(named) is None
    assert "--pool-skip has no effect with --pooling last" in told(pooling="last", pool_skip=2)
    assert "--stop-gradient has no effect with" in told(preserve=1, stop_gradient=True)
    assert told(pooling="last") is told(preserve=1) is told(pool_skip=2) is None
    chat = {"chat": "c.jsonl", "out": tmp_path / "new"}
    own = TRAIN_TASK.remark(TrainTaskSettings(task="uner", prompt="paper", langs="en", **chat))
    assert re.findall("--[a-z]+", own) == "--prompt --chat --task --chat --langs --chat".split()
    assert TRAIN_TASK.remark(TrainTaskSettings(system_prompt="Be brief.", **chat)) is None
    uner = TrainTaskSettings(task="uner", prompt="paper", langs="en", out=tmp_path / "new")
    assert TRAIN_TASK.remark(uner) == "note: --prompt has no effect with --task uner"
    joint = {"max_new_tokens": 9, "out": tmp_path / "new"}
    assert "without --stop-on score" in TRAIN_JOINT.remark(TrainJointSettings(**joint))
    assert TRAIN_JOINT.remark(TrainJointSettings(stop_on="score", **joint)) is None


def test_states_to_preserve_are_those_without_the_base_models_dropout(tmp_path, corpus_dir):
    tokenizer = make_tokenizer()
    config = GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=256, vocab_size=len(tokenizer))
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    settings = align_settings(tmp_path, corpus_dir, "x", preserve=1.0, dropout=0.0)
    model = with_lora(load_lower_blocks(tmp_path, settings, 1), settings, None).train()
    step, batch = ContrastiveStep(model, 8), PairCollator(2)(encode_pairs(PAIRS, tokenizer, 64))
    one, other = (AlignmentObjective(settings, model, step, batch) for _ in range(2))
    assert torch.equal(one.base_states, other.base_states)
    assert torch.equal(one.base_vectors, other.base_vectors)
    assert all(module.training for module in model.modules())


def test_the_names_of_an_alignment_are_those_of_the_class_with_a_head(tmp_path, corpus_dir):
    """GPT-2's decoder is ``transformer`` there, not ``model``."""
    tokenizer = make_tokenizer()
    config = GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=256, vocab_size=len(tokenizer))
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    out, changes = tmp_path / "align", {"max_steps": 1, "layer": 1}
    train_align(align_settings(tmp_path / "base", corpus_dir, out, **changes))
    modules = read_adapter(out).modules
    assert {module.rsplit(".", 2)[0] for module in modules} == {"transformer.h.0"}
