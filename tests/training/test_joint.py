"""Joint training: what alternates, what each loss trains, what stops it."""

import json
from functools import wraps
from types import SimpleNamespace

import pytest
import torch
from helpers.evaluation import eval_settings, read_predictions
from helpers.training import PAIRS, factors, joint_settings, randomize, write_own_task
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaForCausalLM

from adaptermix.adapters.adapter import read_adapter
from adaptermix.adapters.format import layer_of
from adaptermix.commands.settings_file import load_settings
from adaptermix.errors import ArtifactError, ConfigError, ResourceError
from adaptermix.evaluation.evaluate import evaluate
from adaptermix.generation.prompts import PromptEncoder
from adaptermix.models.blocks import lower_blocks_only
from adaptermix.models.loading import load_model, load_tokenizer
from adaptermix.models.lora import with_lora
from adaptermix.settings.training import TrainJointSettings
from adaptermix.tasks.catalog import make_task
from adaptermix.training.align import align_data
from adaptermix.training.batches import PairCollator, encode_pairs, token_count
from adaptermix.training.dev_score import DevScore
from adaptermix.training.joint import (
    Alternation,
    JointTrainer,
    _joined,
    _lower_forward,
    train_joint,
)
from adaptermix.training.report import TrainingData
from adaptermix.training.task import task_data


def log_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@given(
    tasks=st.integers(1, 40),
    pairs=st.integers(1, 40),
    size=st.integers(1, 9),
    turn=st.integers(1, 4),
    count=st.integers(0, 30),
)
def test_kinds_alternate_in_full_batches_and_every_row_comes_as_often(
    tasks, pairs, size, turn, count
):
    batches = list(Alternation(sizes=(tasks, pairs), micro=size, turn=turn, count=count, seed=3))
    assert len(batches) == count
    seen = {True: [], False: []}
    for number, batch in enumerate(batches):
        is_task = number // turn % 2 == 0
        assert len(batch) == size
        assert all((row < tasks) == is_task for row in batch)
        seen[is_task] += batch
    for is_task, rows in ((True, range(tasks)), (False, range(tasks, tasks + pairs))):
        counts = [seen[is_task].count(row) for row in rows]
        assert max(counts) - min(counts) <= 1


def test_the_seed_decides_the_order_of_each_kind():
    def orders(seed):
        batches = Alternation(sizes=(24, 24), micro=4, turn=1, count=12, seed=seed)
        rows = [row for batch in batches for row in batch]
        return [[row % 24 for row in rows if (row < 24) == is_task] for is_task in (True, False)]

    (tasks, pairs), (others, _) = orders(3), orders(4)
    assert orders(3) == [tasks, pairs]
    assert sorted(tasks) == sorted(others) == [*range(24)]
    assert tasks != others
    assert tasks != pairs


@pytest.fixture
def passes(monkeypatch):
    """What the model is run on: task or pairs, and through how many blocks."""
    seen = []
    forward = LlamaForCausalLM.forward

    def watched(self, *args, **options):
        if self.training:
            kind = "task" if options.get("labels") is not None else "align"
            sentences = sum(group.sentences for group in options.get("groups", ()))
            rows = sentences or options["input_ids"].shape[0]
            seen.append((kind, len(self.model.layers), rows))
        return forward(self, *args, **options)

    monkeypatch.setattr(LlamaForCausalLM, "forward", watched)
    return seen


TASK, ALIGN = ("task", 4, 4), ("align", 2, 8)  # both sides of four pairs in one pass


@pytest.mark.parametrize(
    ("alternate", "order"),
    [("paper-code", [TASK, ALIGN] * 4), ("steps", [TASK] * 4 + [ALIGN] * 4)],
)
def test_the_order_of_passes(tmp_path, model_dir, corpus_dir, passes, alternate, order):
    settings = joint_settings(
        model_dir, corpus_dir, tmp_path / "a", alternate=alternate, max_steps=2, layer=2
    )
    train_joint(settings)
    assert passes == order


@pytest.mark.parametrize("layer", [1, 4])
def test_the_short_pass_of_a_whole_model_gives_its_hidden_states(layout_dir, layer):
    """Whatever the layout: those of the stock model, before the final norm, and no logits."""
    settings = joint_settings(layout_dir, None, "x")
    model = with_lora(load_model(layout_dir, settings), settings, "CAUSAL_LM").eval()
    randomize(model)
    tokenizer = load_tokenizer(layout_dir, settings)
    batch = PairCollator(2)(encode_pairs(PAIRS, tokenizer, 64))
    expected = []
    block = model.get_base_model().model.layers[layer - 1]
    hook = block.register_forward_hook(lambda module, inputs, output: expected.append(output))
    whole = model(**batch, output_hidden_states=True)
    hook.remove()
    with lower_blocks_only(model.get_base_model(), layer):
        short = model(
            **batch,
            output_hidden_states=True,
            use_cache=False,
            logits_to_keep=batch["input_ids"].new_empty(0),
        )
    assert short.logits.shape[1] == 0
    assert len(short.hidden_states) == layer + 1
    found = expected[0][0] if isinstance(expected[0], tuple) else expected[0]
    torch.testing.assert_close(short.hidden_states[-1], found)
    again = model(**batch, output_hidden_states=True)  # the model is whole again
    torch.testing.assert_close(again.logits, whole.logits)


def test_the_normed_top_is_the_last_state_of_the_whole_model(model_dir):
    settings = joint_settings(model_dir, None, "x", layer="top-normed")
    model = with_lora(load_model(model_dir, settings), settings, "CAUSAL_LM").eval()
    with torch.no_grad():
        model.get_base_model().model.norm.weight.uniform_(0.5, 2)
    ids = torch.tensor([[0, 20, 30, 40]])
    whole = model(ids, output_hidden_states=True).hidden_states[-1]
    found = _lower_forward(model, settings, 4)(model, input_ids=ids)
    torch.testing.assert_close(found, whole)
    raw = _lower_forward(model, settings.model_copy(update={"layer": "top"}), 4)
    assert not torch.allclose(raw(model, input_ids=ids), whole)


@pytest.mark.slow
def test_both_losses_fall_and_are_logged_apart(tmp_path, model_dir, corpus_dir):
    report = train_joint(
        joint_settings(
            *(model_dir, corpus_dir, tmp_path / "a.safetensors"),
            **{"max_steps": 40, "eval_steps": 10, "lr": 5e-3, "align_weight": 3.0},
        )
    )
    log = log_of(tmp_path / "a.log.jsonl")
    trained = [row for row in log if "loss" in row]
    for name in ("task_loss", "align_loss"):
        assert trained[-1][name] < trained[0][name]
    for row in trained:
        mean = (row["task_loss"] + 3 * row["align_loss"]) / 2
        assert row["loss"] == pytest.approx(mean, rel=1e-3)
    tested = [row for row in log if "eval_sum" in row]
    for row in tested:
        weighted = 3 * row["eval_align_loss"]
        assert row["eval_sum"] == pytest.approx(row["eval_task_loss"] + weighted)
    assert report.dev["sum"] == pytest.approx(min(row["eval_sum"] for row in tested), rel=1e-4)
    assert report.examples == {"en": 60, "cy-en": 108}
    adapter = read_adapter(tmp_path / "a.safetensors")
    assert {layer_of(module) for module in adapter.modules} == {0, 1, 2, 3}


def test_a_step_is_the_mean_of_its_micro_batches(tmp_path, model_dir, corpus_dir, monkeypatch):
    """(T1 + A1 + T2 + A2) / 4 against the gradients of plain losses, one after another."""
    taken = []
    step = torch.optim.AdamW.step

    def watched(self, *args, **options):
        taken.append([p.grad.clone() for group in self.param_groups for p in group["params"]])
        return step(self, *args, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    plain = []
    backpropagate = JointTrainer.backpropagate

    def watched_batch(self, model, inputs, *args, **options):
        model.eval()
        batch = {n: inputs[n] for n in ("input_ids", "attention_mask")}
        output = model(**batch, output_hidden_states=True)
        if "labels" in inputs:
            logits, labels = output.logits[:, :-1].float(), inputs["labels"][:, 1:]
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        else:
            mask = inputs["attention_mask"][..., None]
            pooled = (output.hidden_states[2] * mask).sum(1) / mask.sum(1)
            sources, targets = pooled.chunk(2)
            cosines = torch.cosine_similarity(sources[:, None], targets[None], dim=-1)
            loss = -3.0 * (cosines / 0.1).log_softmax(1).diagonal().mean()
        parameters = [p for p in model.parameters() if p.requires_grad]
        plain.append(torch.autograd.grad(loss, parameters, allow_unused=True))
        return backpropagate(self, model, inputs, *args, **options)

    monkeypatch.setattr(JointTrainer, "backpropagate", watched_batch)
    settings = joint_settings(
        model_dir, corpus_dir, tmp_path / "a", max_steps=1, dropout=0.0, align_weight=3.0
    )
    train_joint(settings)
    rows = log_of(tmp_path / "a.log.jsonl")
    trained = next(row for row in rows if "loss" in row)
    mean = (trained["task_loss"] + 3.0 * trained["align_loss"]) / 2
    assert trained["loss"] == pytest.approx(mean, rel=1e-4)
    judged = next(row for row in rows if "eval_sum" in row)
    weighted = judged["eval_task_loss"] + 3.0 * judged["eval_align_loss"]
    assert judged["eval_sum"] == pytest.approx(weighted, rel=1e-4)
    assert len(plain) == 4
    sums = [
        sum(g if g is not None else 0 for g in gradients) / 4
        for gradients in zip(*plain, strict=True)
    ]
    norm = sum(float((g * g).sum()) for g in sums if torch.is_tensor(g)) ** 0.5
    scale = min(1.0, 1.0 / (norm + 1e-6))  # Trainer clips
    for found, expected in zip(taken[0], sums, strict=True):
        torch.testing.assert_close(found, expected * scale, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stop_on", "name", "best"),
    [
        ("loss", "task_loss", min),
        ("sum", "sum", min),
        ("retrieval", "retrieval_accuracy", max),
        ("score", "score", max),
    ],
)
def test_the_best_adapter_is_the_one_asked_for(
    tmp_path, model_dir, corpus_dir, stop_on, name, best
):
    changes = {"pairs_dir": corpus_dir, **write_own_task(tmp_path)}
    settings = joint_settings(
        model_dir,
        corpus_dir,
        tmp_path / "a.safetensors",
        **{"stop_on": stop_on, "max_steps": 8, "eval_steps": 1, "patience": 8},
        **{"lr": 0.1, "schedule": "constant_with_warmup", "warmup_ratio": 0.0},  # up and down
        **{"max_new_tokens": 8, **changes},
    )
    report = train_joint(settings)
    values = [row[f"eval_{name}"] for row in log_of(tmp_path / "a.log.jsonl") if "eval_sum" in row]
    assert len(values) == 8
    assert best(values) != values[-1]
    assert report.dev[name] == pytest.approx(best(values), rel=1e-5)


def test_a_score_is_the_mean_over_languages_of_answers_to_dev_prompts(
    tmp_path, model_dir, monkeypatch
):
    """Answers that are right in one of two languages; others, as if each were asked alone."""
    own = write_own_task(tmp_path)
    settings = joint_settings(
        model_dir, None, "x", langs=("en", "cy"), dev_limit=3, max_new_tokens=5, **own
    )
    encoder = PromptEncoder(load_tokenizer(model_dir, settings))
    judge = DevScore(settings, encoder, [1])
    dev = judge.task.read("en", "dev", tmp_path)
    assert judge.examples["en"] == dev[:3]
    model = load_model(model_dir, settings).eval()
    prompts = [encoder.prompt_ids([{"role": "user", "content": "a " * n}]) for n in (3, 1, 9, 5, 2)]
    alone = [answer for prompt in prompts for answer in judge._answers(model, [prompt])]
    assert len(set(alone)) > 1
    assert judge._answers(model, prompts) == alone
    forward = LlamaForCausalLM.forward

    @wraps(forward)  # generation reads its signature
    def limited(self, input_ids, **options):
        if len(input_ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return forward(self, input_ids, **options)

    monkeypatch.setattr(LlamaForCausalLM, "forward", limited)
    assert judge._answers(model, prompts) == alone, "in smaller batches, if memory lacks"
    right = {id(judge.prompts["en"]): [example.expected for example in dev[:3]]}
    monkeypatch.setattr(judge, "_answers", lambda _, of: right.get(id(of), [""] * len(of)))
    assert judge(model) == pytest.approx(right_score(judge) / 2)


def test_a_dev_score_is_what_an_evaluation_of_the_kept_adapter_gives(
    tmp_path, model_dir, corpus_dir
):
    """Answers that end where an evaluation ends them, to the same prompts."""
    chosen = {"langs": ("en",), "max_new_tokens": 24, **write_own_task(tmp_path)}
    out = tmp_path / "a.safetensors"
    changes = {"stop_on": "score", "lr": 0.05, "max_steps": 8, "eval_steps": 8, **chosen}
    settings = joint_settings(model_dir, None, out, pairs_dir=corpus_dir, **changes)
    report = train_joint(settings)
    where = {"adapters": (str(out),), "cache": False, **chosen}
    del where["data_dir"]
    tested = evaluate(eval_settings(model_dir, tmp_path, tmp_path / "out", **where))
    (score,) = (cell.score.value for cell in tested.cells if cell.system != "base")
    assert report.dev["score"] == pytest.approx(score)
    answers = [row["output"] for row in read_predictions(tmp_path / "out", "a", "en")]
    assert any(0 < len(answer) < 30 for answer in answers), "an answer that ended by itself"


def right_score(judge):
    """Return what right answers alone would score."""
    outcomes = [judge.task.outcome(each, each.expected) for each in judge.examples["en"]]
    return judge.task.score(outcomes).value


def test_a_score_that_is_right_ends_training_early(tmp_path, model_dir, corpus_dir, monkeypatch):
    """Answers that are always the expected ones score 1; nothing gets better than that."""
    settings = joint_settings(
        model_dir,
        corpus_dir,
        tmp_path / "a",
        stop_on="score",
        max_steps=50,
        eval_steps=1,
        patience=2,
    )
    from adaptermix.training import joint as joint_training

    def answer(self, model, prompts):
        task = make_task("massive")
        return [task.answer(example) for example in self.examples["en"]]

    monkeypatch.setattr(joint_training.DevScore, "_answers", answer)
    report = train_joint(settings)
    assert report.dev["score"] == 1.0
    assert report.steps == 3


@pytest.mark.slow
def test_a_killed_joint_run_goes_on_to_the_same_adapter(tmp_path, model_dir, corpus_dir):
    train_joint(joint_settings(model_dir, corpus_dir, tmp_path / "whole"))

    def stop(progress):
        if progress.done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_joint(joint_settings(model_dir, corpus_dir, tmp_path / "cut"), on_progress=stop)
    seen = []
    train_joint(
        joint_settings(model_dir, corpus_dir, tmp_path / "cut", resume=True, workers=1),
        on_progress=lambda progress: seen.append(progress.done),
    )
    assert seen == [4, 5, 6]
    whole, cut = factors(tmp_path / "whole"), factors(tmp_path / "cut")
    assert all(torch.equal(whole[key], cut[key]) for key in whole)


@pytest.mark.slow
def test_both_kinds_of_batches_are_cut_when_memory_lacks(
    tmp_path, model_dir, corpus_dir, monkeypatch
):
    forward = LlamaForCausalLM.forward
    most = {"task": 2, "align": 3}
    failures = []

    def limited(self, *args, **options):
        kind = "task" if options.get("labels") is not None else "align"
        sentences = sum(group.sentences for group in options.get("groups", ()))
        if self.training and (sentences or options["input_ids"].shape[0]) > most[kind]:
            failures.append(kind)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return forward(self, *args, **options)

    settings = joint_settings(model_dir, corpus_dir, tmp_path / "a", dropout=0.0, max_steps=2)
    train_joint(settings)
    monkeypatch.setattr(LlamaForCausalLM, "forward", limited)
    train_joint(settings.model_copy(update={"out": tmp_path / "b"}))
    assert failures == ["task", "align", "align"]
    whole, cut = factors(tmp_path / "a"), factors(tmp_path / "b")
    for key in whole:
        torch.testing.assert_close(cut[key], whole[key], rtol=1e-4, atol=1e-6)
    most["align"] = 0
    with pytest.raises(ResourceError, match="not enough memory for a forward pass of 1 sentence"):
        train_joint(settings.model_copy(update={"out": tmp_path / "c"}))


def test_a_plan_counts_an_epoch_as_one_pass_over_the_task(tmp_path, model_dir, corpus_dir):
    settings = joint_settings(model_dir, corpus_dir, tmp_path / "a", max_steps=None, epochs=2)
    report = train_joint(settings, dry_run=True)
    assert report.planned_steps == 2 * -(-2 * 60 // 16)
    encoder = PromptEncoder.of(load_tokenizer(model_dir, settings), settings)
    task, pairs = task_data(settings, encoder), align_data(settings, encoder.tokenizer)
    assert len(pairs.train) != len(task.train)
    means = [sum(map(token_count, rows.train)) / len(rows.train) for rows in (task, pairs)]
    assert report.tokens == round(report.planned_steps * 16 * sum(means) / 2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"layer": 5}, ConfigError, "has 4 blocks"),
        ({"contrastive_batch": 5}, ConfigError, "does not divide"),
        ({"contrastive_batch": 32}, ConfigError, "32 does not divide --batch-size 16"),
        ({"layer": 2, "layers_to_transform": (2, 3)}, ConfigError, r"no LoRA is .*2 \(0 to 1\)"),
        ({"layer": 4, "target_modules": ("lm_head",)}, ConfigError, r"no LoRA is .*4 \(0 to 3\)"),
        ({"stop_on": "score", "max_new_tokens": 256}, ConfigError, "accepts at most 256 tokens"),
    ],
)
def test_mistakes_are_named(tmp_path, model_dir, corpus_dir, changes, error, message):
    settings = joint_settings(model_dir, corpus_dir, tmp_path / "a", **changes)
    for dry_run in (True, False):
        with pytest.raises(error, match=message):
            train_joint(settings, dry_run=dry_run)


def test_a_pair_that_is_also_a_language_of_the_task_is_counted_apart():
    """The languages of a translation task are pairs."""
    task = TrainingData([1], [2], {"de-en": 5, "ru-en": 6}, {"de-en": 1, "ru-en": 2})
    dropped = {"de-en": {"too long": 4}, "cy-en": {}}
    pairs = TrainingData([3], [4], {"de-en": 7, "cy-en": 8}, {"de-en": 3, "cy-en": 4}, 0, dropped)
    data = _joined(task, pairs)
    assert data.examples == {"de-en": 5, "ru-en": 6, "de-en pairs": 7, "cy-en": 8}
    assert data.dev_examples == {"de-en": 1, "ru-en": 2, "de-en pairs": 3, "cy-en": 4}
    assert data.dropped == {"de-en pairs": {"too long": 4}, "cy-en": {}}


def test_conversations_have_no_score():
    with pytest.raises(ConfigError, match="--chat has no score"):
        load_settings(TrainJointSettings, {"chat": "c.jsonl", "stop_on": "score"})


def test_a_model_of_another_layout_is_named():
    odd = SimpleNamespace(get_decoder=lambda: torch.nn.Linear(2, 2))
    no_layout = pytest.raises(ArtifactError, match="Linear has no list of decoder blocks")
    with no_layout, lower_blocks_only(odd, 1):
        pass
