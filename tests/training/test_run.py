import json
import re
import shutil
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from helpers.adapters import IDS, logits_through_peft
from helpers.corpus import write_corpus
from helpers.progress import check_progress
from helpers.training import (
    ALL_KINDS,
    KINDS,
    PAIRS,
    align_settings,
    factors,
    randomize,
    task_settings,
)
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention

from adaptermix.adapters.adapter import read_adapter
from adaptermix.adapters.format import describe_config, layer_of, spec_of
from adaptermix.adapters.writing import write_adapter
from adaptermix.cli.doctor import device_check
from adaptermix.errors import ArtifactError, ConfigError, DataError
from adaptermix.generation.prompts import PromptEncoder
from adaptermix.models import lora_linear
from adaptermix.models.blocks import load_lower_blocks
from adaptermix.models.loading import AdaptedModel, load_model, load_tokenizer
from adaptermix.models.lora import with_lora
from adaptermix.progress import ignore
from adaptermix.settings.training import TrainTaskSettings
from adaptermix.training.align import AlignmentTrainer, align_data, train_align
from adaptermix.training.alignment import Alignment
from adaptermix.training.base import Base
from adaptermix.training.batches import EncodedExample, PairCollator, encode_pairs
from adaptermix.training.checkpoints import work_folder
from adaptermix.training.contrastive import ContrastiveStep, Sentences
from adaptermix.training.log import check_log, log_file
from adaptermix.training.objectives import contrastive_loss
from adaptermix.training.report import TrainingData
from adaptermix.training.run import TrainingRun, common_arguments, finished_report
from adaptermix.training.task import task_data, train_task
from adaptermix.training.trained import trained_updates
from adaptermix.training.trainer import AdapterTrainer


@pytest.mark.parametrize("layer", [2, 3])
def test_alignment_gradients_equal_those_of_the_whole_model(layout_dir, layer):
    """Against stock transformers: a full forward per side, hidden_states[layer], plain sums."""
    settings = align_settings(layout_dir, None, "x", layer=layer, dropout=0.0)
    tokenizer = load_tokenizer(layout_dir, settings)
    lower = with_lora(load_lower_blocks(layout_dir, settings, layer), settings, None)
    randomize(lower.double())
    batch = PairCollator(2)(encode_pairs(PAIRS, tokenizer, 64))
    step = ContrastiveStep(lower, len(PAIRS))
    sources, targets = step.vectors(lower, Sentences.of(batch)).chunk(2)
    contrastive_loss(sources, targets, 0.1).backward()

    whole = AutoModelForCausalLM.from_pretrained(
        layout_dir, dtype=torch.float64, attn_implementation="eager"
    )
    config = LoraConfig(r=8, lora_alpha=16, target_modules=list(settings.target_modules))
    whole = get_peft_model(whole, config, autocast_adapter_dtype=False)
    factors = dict(whole.named_parameters())
    for name, parameter in lower.named_parameters():
        if "lora_" in name:
            full_name = name.replace("base_model.model.", "base_model.model.model.")
            factors[full_name].data.copy_(parameter.data)
    sides = []
    for texts in ([p.source for p in PAIRS], [p.target for p in PAIRS]):
        inputs = tokenizer(texts, return_tensors="pt", padding=True)
        states = whole(**inputs, output_hidden_states=True).hidden_states[layer]
        mask = inputs["attention_mask"].unsqueeze(-1)
        sides.append((states * mask).sum(1) / mask.sum(1))
    cosines = torch.nn.functional.cosine_similarity(sides[0][:, None], sides[1][None], dim=-1)
    (-torch.log_softmax(cosines / 0.1, dim=1).diagonal().mean()).backward()

    compared = 0
    for name, parameter in lower.named_parameters():
        if "lora_" in name:
            full_name = name.replace("base_model.model.", "base_model.model.model.")
            assert parameter.grad.abs().sum() > 0
            # transformers' norms and rotations are float32 whatever the weights are
            torch.testing.assert_close(
                parameter.grad, factors[full_name].grad, rtol=1e-3, atol=1e-5
            )
            compared += 1
    assert compared == 2 * 7 * layer
    above = [p.grad for n, p in factors.items() if "lora_" in n and layer_of(n) >= layer]
    assert above
    assert all(grad is None or not grad.any() for grad in above)


def test_only_lora_factors_train(model_dir):
    settings = task_settings(model_dir, None, "x")
    model = with_lora(load_model(model_dir, settings), settings, "CAUSAL_LM")
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trainable
    assert all("lora_" in name for name in trainable)


def specs_of(updates):
    return {module: spec_of(update) for module, update in updates.items()}


def test_a_task_adapter_gives_the_training_models_logits(tmp_path, model_dir):
    settings = task_settings(model_dir, None, "x")
    model = with_lora(load_model(model_dir, settings), settings, "CAUSAL_LM").eval()
    randomize(model)
    expected = model(IDS).logits.detach()
    updates = trained_updates(model, "")
    config = describe_config(specs_of(updates), str(model_dir), all_layers=True)
    write_adapter(tmp_path / "adapter", updates, config, {})
    torch.testing.assert_close(logits_through_peft(model_dir, tmp_path / "adapter"), expected)


def test_an_alignment_adapter_gives_the_training_models_states(tmp_path, model_dir):
    settings = align_settings(model_dir, None, "x")
    lower = with_lora(load_lower_blocks(model_dir, settings, 2), settings, None).eval()
    randomize(lower)
    expected = lower(IDS).last_hidden_state.detach()
    updates = trained_updates(lower, "model.")
    config = describe_config(specs_of(updates), str(model_dir), all_layers=False)
    write_adapter(tmp_path / "adapter", updates, config, {})
    from peft import PeftModel

    whole = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(model_dir), str(tmp_path / "adapter")
    )
    states = whole.eval()(IDS, output_hidden_states=True).hidden_states[2]
    torch.testing.assert_close(states, expected)
    assert sum("lora_A" in name for name, _ in whole.named_parameters()) == 2 * 7


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.mark.slow
def test_training_lowers_the_dev_loss_and_logs_it(tmp_path, model_dir, corpus_dir, kind):
    train, settings_for = kind
    seen = []
    report = train(
        settings_for(model_dir, corpus_dir, tmp_path / "a.safetensors", max_steps=32),
        on_progress=seen.append,
    )
    log = [json.loads(line) for line in (tmp_path / "a.log.jsonl").read_text().splitlines()]
    losses = [row["eval_loss"] for row in log if "eval_loss" in row]
    assert [row["step"] for row in log if "eval_loss" in row] == [*range(5, 31, 5), 32]
    assert losses[-1] < losses[0]
    assert report.dev["loss"] == min(losses)
    check_progress(seen)
    assert [progress.done for progress in seen if progress.total] == list(range(1, 33))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["a.README.md", "a.log.jsonl", "a.safetensors"]


def test_tensorboard_logs_lie_beside_the_adapter(tmp_path, model_dir, corpus_dir):
    settings = task_settings(
        model_dir, corpus_dir, tmp_path / "a.safetensors", max_steps=2, tensorboard=True
    )
    train_task(settings)
    (events,) = (tmp_path / "a.tensorboard").iterdir()
    assert events.stat().st_size > 0


@pytest.mark.slow
def test_gradient_checkpointing_makes_the_same_adapter(tmp_path, model_dir, corpus_dir):
    """--gradient-checkpointing; with dropout, whose masks are drawn again as they were."""
    changes = {"max_steps": 3, "eval_steps": 3}
    saved = {}
    for name, on in (("whole", False), ("again", True)):
        settings = task_settings(
            model_dir, corpus_dir, tmp_path / name, **changes, gradient_checkpointing=on
        )
        count = 0

        def note(tensor):
            nonlocal count
            count += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            train_task(settings)
        saved[name] = count
    whole, again = factors(tmp_path / "whole"), factors(tmp_path / "again")
    assert all(torch.equal(whole[key], again[key]) for key in whole)
    assert saved["again"] < saved["whole"] / 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL_KINDS)
def test_the_attention_asked_for_is_the_models(tmp_path, model_dir, corpus_dir, monkeypatch, name):
    """--attention: eager attention comes out as fused attention does, up to rounding."""
    train, settings_for = ALL_KINDS[name]
    used = {}
    forward = LlamaAttention.forward

    def note(self, *arguments, **options):
        used[out.name] = self.config._attn_implementation
        return forward(self, *arguments, **options)

    monkeypatch.setattr(LlamaAttention, "forward", note)
    for attention in ("eager", "sdpa"):
        out = tmp_path / attention
        train(settings_for(model_dir, corpus_dir, out, max_steps=1, attention=attention))
    assert used == {"eager": "eager", "sdpa": "sdpa"}
    one, other = factors(tmp_path / "eager"), factors(tmp_path / "sdpa")
    for key in one:
        torch.testing.assert_close(one[key], other[key], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("name", ALL_KINDS)
def test_an_apple_gpu_is_left_alone_as_doctor_says(
    tmp_path, model_dir, corpus_dir, monkeypatch, name
):
    """A tensor on the device mps would be an error, because this torch is not built for it."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    train, settings_for = ALL_KINDS[name]
    changes = {"max_steps": 1, "eval_steps": 1}
    train(settings_for(model_dir, corpus_dir, tmp_path / "a", **changes))
    tuned = AdaptedModel(load_model(model_dir, settings_for(model_dir, corpus_dir, "x")))
    tuned.switch_to(tmp_path / "a")
    assert {parameter.device.type for parameter in tuned.model.parameters()} == {"cpu"}
    known = {"gpus": [], "threads": 1, "mps": torch.backends.mps.is_available()}
    assert device_check(known).found.endswith("the Apple GPU (mps) is not used")


def test_packed_sentences_take_no_other_attention(model_dir, corpus_dir, tmp_path):
    with pytest.raises(ValueError, match="cannot be combined with --attention eager"):
        align_settings(model_dir, corpus_dir, tmp_path, packing=True, attention="eager")


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL_KINDS)
def test_the_same_seed_gives_the_same_adapter(tmp_path, model_dir, corpus_dir, name):
    train, settings_for = ALL_KINDS[name]
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(settings_for(model_dir, corpus_dir, tmp_path / name, seed=seed))
    a, b, c = (factors(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[key], b[key]) for key in a)
    for key in a:  # from its first values on
        assert (a[key] - c[key]).norm() > 0.5 * a[key].norm()


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_adapter(tmp_path, model_dir, corpus_dir, kind):
    train, settings_for = kind
    train(settings_for(model_dir, corpus_dir, tmp_path / "whole"))

    def stop(progress):
        if progress.done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(settings_for(model_dir, corpus_dir, tmp_path / "cut"), on_progress=stop)
    assert not (tmp_path / "cut").exists()
    with pytest.raises(ArtifactError, match="an unfinished run"):
        train(settings_for(model_dir, corpus_dir, tmp_path / "cut"))
    seen = []
    train(
        settings_for(model_dir, corpus_dir, tmp_path / "cut", resume=True),
        on_progress=seen.append,
    )
    assert seen[0].done == 6
    whole, cut = factors(tmp_path / "whole"), factors(tmp_path / "cut")
    assert all(torch.equal(whole[key], cut[key]) for key in whole)


def test_other_settings_do_not_go_on_from_old_checkpoints(tmp_path, model_dir, corpus_dir):
    def stop(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_task(task_settings(model_dir, corpus_dir, tmp_path / "cut"), on_progress=stop)
    with pytest.raises(ConfigError, match="made with different settings") as caught:
        train_task(task_settings(model_dir, corpus_dir, tmp_path / "cut", resume=True, lr=1e-2))
    assert "start over with --force instead of --resume" in str(caught.value.hint)
    other = task_settings(model_dir, corpus_dir, tmp_path / "cut", lr=1e-2, max_steps=1)
    train_task(other, force=True)


def test_data_that_changed_before_a_resume_is_noted(tmp_path, monkeypatch):
    settings = task_settings("m", None, tmp_path / "a", resume=True)
    one, moved, other = (
        EncodedExample([0, at], [0, at], name)
        for at, name in ((1, "f:1"), (1, "a/f:1"), (2, "f:1"))
    )

    def notes(row, checkpoint):
        found = "adaptermix.training.run.last_checkpoint"
        monkeypatch.setattr(found, lambda work: checkpoint)
        data = TrainingData([one], [row], {}, {})
        training = TrainingRun(settings, Base(tmp_path, None, [], []), data, 1, ignore)
        training._prepare_work(force=False)
        return training.notes

    checkpoint = tmp_path / "checkpoint-1"
    assert notes(one, None) == notes(one, checkpoint) == notes(moved, checkpoint) == []
    assert notes(other, None) == []
    assert "--resume: the data or its tokens changed" in notes(other, checkpoint)[0]


def test_an_alignment_adapter_trains_the_lower_blocks_only(tmp_path, model_dir, corpus_dir):
    report = train_align(align_settings(model_dir, corpus_dir, tmp_path / "a", layer=3))
    adapter = read_adapter(tmp_path / "a")
    assert {layer_of(module) for module in adapter.modules} == {0, 1, 2}
    assert adapter.config["layers_to_transform"] == [0, 1, 2]
    assert adapter.config["base_model_name_or_path"] == str(model_dir)
    assert adapter.record["base_fingerprint"]
    assert all(update.b.any() for _, update in adapter.updates())
    assert report.trainable_parameters == sum(
        update.a.size + update.b.size for _, update in adapter.updates()
    )


@pytest.mark.slow
def test_alignment_raises_dev_retrieval(tmp_path, model_dir, corpus_dir):
    settings = align_settings(model_dir, corpus_dir, tmp_path / "a", max_steps=60, lr=5e-3)
    dev = train_align(settings).dev
    assert dev["retrieval_accuracy"] > dev["retrieval_accuracy_of_base"]


def test_a_step_averages_its_contrastive_batches(tmp_path, model_dir, corpus_dir):
    changes = {"dropout": 0.0, "max_steps": 1, "contrastive_batch": 4}
    losses = []
    for size in (4, 64):
        settings = align_settings(
            model_dir, corpus_dir, tmp_path / str(size), batch_size=size, **changes
        )
        train_align(settings)
        log = (tmp_path / f"{size}.log.jsonl").read_text().splitlines()
        losses.append(next(json.loads(line)["loss"] for line in log))
    assert losses[1] == pytest.approx(losses[0], rel=0.5)  # and not 16 times as much


def test_micro_batches_and_padding_make_the_same_adapter(tmp_path, model_dir, corpus_dir):
    changes = {"max_steps": 2, "batch_size": 32, "contrastive_batch": 32}
    found = []
    for number, more in enumerate([{}, {"micro_batch_size": 5}, {"packing": False}]):
        out = tmp_path / str(number)
        train_align(align_settings(model_dir, corpus_dir, out, **changes, **more))
        found.append(factors(out))
    for name, factor in found[0].items():
        for other in found[1:]:
            assert (other[name] - factor).norm() < 0.02 * factor.norm().clamp(min=1e-3), name


@pytest.mark.slow
def test_early_stopping_keeps_the_best_adapter(tmp_path, model_dir, corpus_dir):
    """The adapter kept is the one of a run that ends at the best step."""
    changes = {
        "eval_steps": 2,
        "patience": 2,
        "lr": 0.05,  # at which the dev loss soon rises
        "schedule": "constant_with_warmup",  # the same steps whatever their number
        "warmup_ratio": 0.0,
    }
    report = train_task(
        task_settings(model_dir, corpus_dir, tmp_path / "a", max_steps=400, **changes)
    )
    log = [json.loads(line) for line in (tmp_path / "a.log.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["eval_loss"] for row in log if "eval_loss" in row}
    best = min(losses, key=losses.get)
    assert best < report.steps < 400
    assert report.dev["loss"] == losses[best]
    train_task(task_settings(model_dir, corpus_dir, tmp_path / "b", max_steps=best, **changes))
    kept, ended = factors(tmp_path / "a"), factors(tmp_path / "b")
    assert all(torch.equal(kept[key], ended[key]) for key in kept)


def test_a_plan_counts_examples_and_writes_nothing(tmp_path, model_dir, corpus_dir, kind):
    train, settings_for = kind
    settings = settings_for(
        model_dir, corpus_dir, tmp_path / "a", max_steps=None, epochs=2, batch_size=32
    )
    report = train(settings, dry_run=True)
    rows = max(report.examples.values())
    assert report.planned_steps == 2 * -(-rows // 32)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("train", "settings_for", "changes", "error", "message"),
    [
        (train_align, align_settings, {"layer": 9}, ConfigError, "has 4 blocks"),
        (train_align, align_settings, {"contrastive_batch": 12}, ConfigError, "does not divide"),
        (
            train_align,
            align_settings,
            {"contrastive_batch": 64},  # not cut to the batch
            ConfigError,
            "--contrastive-batch 64 does not divide --batch-size 32",
        ),
        (train_align, align_settings, {"pairs": ("xx-en",)}, DataError, "no parallel text xx-en"),
        (
            train_align,
            align_settings,
            {"limit": 9},
            ConfigError,
            "--limit 9 is less than one contrastive batch of 16 pairs",
        ),
        (
            train_align,
            align_settings,
            {"batch_size": 4096, "contrastive_batch": 4096},
            DataError,
            r"cy-en has \d+ sentence pairs, fewer than one contrastive batch of 4096",
        ),
        (train_task, task_settings, {"langs": ("xx",)}, DataError, "no language 'xx'"),
        (train_task, task_settings, {"langs": ("cy", "Welsh")}, ConfigError, "the same language"),
        (train_task, task_settings, {"langs": ("de",)}, DataError, "no MASSIVE de-DE"),
        (train_task, task_settings, {"max_length": 5}, DataError, "longer than --max-length 5"),
        (train_task, task_settings, {"target_modules": ("x",)}, ConfigError, "linear layer 'x'"),
        (train_task, task_settings, {"micro_batch_size": 7}, ConfigError, "does not divide"),
        (
            train_task,
            task_settings,
            {"lr": 1e30, "max_steps": 20},
            ArtifactError,
            "not finite at step",
        ),
    ],
)
def test_mistakes_are_named_and_leave_no_adapter(
    tmp_path, model_dir, corpus_dir, train, settings_for, changes, error, message
):
    with pytest.raises(error, match=message):
        train(settings_for(model_dir, corpus_dir, tmp_path / "a", **changes))
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("name", ALL_KINDS)
def test_rows_longer_than_the_models_context_are_named(tmp_path, model_dir, corpus_dir, name):
    """GPT-2 has a table of positions, and ended in a traceback; Llama computes them."""
    train, settings_for = ALL_KINDS[name]
    folder = shutil.copytree(model_dir, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    changes = {"max_position_embeddings": 8}
    settings = settings_for(folder, corpus_dir, tmp_path / "a")
    (folder / "config.json").write_text(json.dumps(config | changes))
    (note,) = train(settings, dry_run=True).data_notes
    assert re.fullmatch(
        r"the longest example, .*:\w+, has \d+ tokens, more than .* of 8; use --max-length 8", note
    )
    changes |= {"model_type": "gpt2", "n_embd": 32, "n_layer": 4, "n_head": 2}
    (folder / "config.json").write_text(json.dumps(config | changes))
    refused = pytest.raises(ConfigError, match=r"\d+ tokens, but the model accepts at most 8")
    with refused as told:
        train(settings, dry_run=True)
    assert told.value.hint == "use --max-length 8"


@pytest.mark.parametrize(
    ("dtype", "is_half"),
    [("auto", True), ("bfloat16", True), ("float16", True), ("float32", False)],
)
def test_a_gpu_computes_in_bfloat16_unless_all_is_in_float32(monkeypatch, dtype, is_half):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert common_arguments(TrainTaskSettings(dtype=dtype))["bf16"] == is_half
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not common_arguments(TrainTaskSettings(dtype=dtype))["bf16"]


def test_outputs_whose_names_contain_dots_have_logs_of_their_own():
    names = {"qwen2.5-task": "qwen2.5-task.log.jsonl", "a.safetensors": "a.log.jsonl"}
    for out, log in names.items():
        assert log_file(Path("runs") / out) == Path("runs") / log


@pytest.mark.parametrize(("out", "other"), [("a.safetensors", "a"), ("a", "a.safetensors")])
def test_the_log_of_another_adapter_is_kept(tmp_path, kind, out, other):
    """A folder and a file of the same name share their log."""
    train, settings_for = kind
    (tmp_path / other).touch()
    check_log(tmp_path / out, force=False)
    (tmp_path / "a.log.jsonl").touch()
    with pytest.raises(ArtifactError, match=r"a\.log\.jsonl is the log of .*"):
        train(settings_for(tmp_path / "none", tmp_path, tmp_path / out))
    check_log(tmp_path / out, force=True)
    work_folder(tmp_path / out).mkdir()
    check_log(tmp_path / out, force=False)


def test_an_existing_output_is_refused_before_anything_is_read(tmp_path, kind):
    train, settings_for = kind
    (tmp_path / "a").touch()
    with pytest.raises(ArtifactError, match="exists"):
        train(settings_for("no-model", tmp_path, tmp_path / "a"))
    with pytest.raises(ConfigError, match="contains the input"):
        train(settings_for(str(tmp_path / "a"), tmp_path / "a", tmp_path), force=True)


def test_languages_are_resampled_to_the_same_share(tmp_path, model_dir):
    corpus = write_corpus(tmp_path / "corpus")
    path = corpus / "pairs" / "sw-en.tsv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:40]))
    settings = align_settings(
        model_dir, corpus, tmp_path / "a", pairs=("cy-en", "sw-en"), max_steps=None, epochs=1
    )
    report = train_align(settings, dry_run=True)
    assert report.examples == {"cy-en": 108, "sw-en": 36}
    assert report.planned_steps == -(-2 * 108 // 32)


@pytest.mark.parametrize("name", ALL_KINDS)
def test_what_is_trained_on_is_never_judged_by(tmp_path, model_dir, corpus_dir, monkeypatch, name):
    """Every training row is trained on, every dev row judged, and none of them is both."""
    train, settings_for = ALL_KINDS[name]
    trained, judged = set(), set()
    loss = {"in training": trained, "in judgement": judged}

    def noting(method, rows):
        def noted(self, *given, **options):
            batch = next(each for each in given if isinstance(each, dict))
            loss[rows].update(batch["names"])
            return method(self, *given, **options)

        return noted

    monkeypatch.setattr(
        AdapterTrainer, "training_step", noting(AdapterTrainer.training_step, "in training")
    )
    for kind in (AdapterTrainer, AlignmentTrainer):
        monkeypatch.setattr(kind, "prediction_step", noting(kind.prediction_step, "in judgement"))
    dev_vectors = Alignment.dev_vectors

    def noted_vectors(self, batches):
        batches = list(batches)
        judged.update(name for batch in batches for name in batch["names"])
        return dev_vectors(self, batches)

    monkeypatch.setattr(Alignment, "dev_vectors", noted_vectors)
    report = train(
        settings_for(
            *(model_dir, corpus_dir, tmp_path / "a"),
            **{"max_steps": None, "epochs": 1, "limit": 40, "eval_steps": 100},
            **({} if name == "align" else {"dev_limit": 7}),
        )
    )
    assert len(trained) == sum(report.examples.values())
    assert len(judged) == sum(report.dev_examples.values())
    assert not trained & judged


@pytest.mark.parametrize("name", ["align", "joint"])
def test_every_step_and_every_layer_drops_elements_of_its_own(
    tmp_path, model_dir, corpus_dir, monkeypatch, name
):
    """No key of a token is there in two steps, and no key of a feature in two layers."""
    train, settings_for = ALL_KINDS[name]
    tokens, features = set(), set()
    kept_elements = lora_linear.kept_elements

    def noted(of_tokens, of_features, rate, **options):
        tokens.add(tuple(of_tokens.tolist()))
        features.add(tuple(of_features.tolist()))
        return kept_elements(of_tokens, of_features, rate, **options)

    monkeypatch.setattr(lora_linear, "kept_elements", noted)
    changes = {"batch_size": 4 if name == "align" else 8, "contrastive_batch": 4, "layer": 2}
    train(settings_for(model_dir, corpus_dir, tmp_path / "a", max_steps=3, dropout=0.5, **changes))
    assert len(tokens) == 3  # both sides of the pairs of a step, in one pass
    assert len(features) == 2 * 7  # modules
    for keys in (tokens, features):
        assert len({key for group in keys for key in group}) == sum(map(len, keys))


WITHOUT_SYSTEM = (
    "<|bos|>{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    "<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.mark.parametrize("name", ALL_KINDS)
def test_a_report_says_what_its_plan_and_its_data_say(tmp_path, model_dir, name):
    """Counts of what is used, left out and dropped, and all notes."""
    train, settings_for = ALL_KINDS[name]
    model = shutil.copytree(model_dir, tmp_path / "model")
    (model / "chat_template.jinja").write_text(WITHOUT_SYSTEM)
    corpus = write_corpus(tmp_path / "corpus")
    with (corpus / "pairs" / "cy-en.tsv").open("a", encoding="utf-8") as file:
        file.writelines(f"\u043f\u0440\u0438\u0432\u0435\u0442 {n}\thello {n}\n" for n in range(7))
    changes = {"max_steps": 1, "eval_steps": 1, "lr": 0.02}
    if name != "align":
        changes |= {"system_prompt": "slots", "langs": ("en", "cy"), "dev_limit": None}
        whole = settings_for(model, corpus, "x", **changes)
        encoder = PromptEncoder(load_tokenizer(model, whole))
        prompts = [
            [row.labels.count(-100) for row in rows if row.name.startswith("en")]
            for rows in (task_data(whole, encoder).train, task_data(whole, encoder).dev)
        ]
        changes["max_length"] = max(map(min, prompts)) + 1
    settings = settings_for(model, corpus, tmp_path / "a.safetensors", **changes)
    tokenizer = load_tokenizer(model, settings)
    parts = []
    if name != "align":
        parts.append(task_data(settings, PromptEncoder(tokenizer)))
        assert parts[0].truncated and parts[0].notes
    if name != "task":
        parts.append(align_data(settings, tokenizer))
        assert parts[-1].dropped["cy-en"]
    plan, report = train(settings, dry_run=True), train(settings)
    for found in (plan, report):
        assert found.examples == {k: v for part in parts for k, v in part.examples.items()}
        assert found.dev_examples == {k: v for part in parts for k, v in part.dev_examples.items()}
        assert found.dropped == {k: v for part in parts for k, v in part.dropped.items()}
        assert found.truncated == sum(part.truncated for part in parts)
        assert [*found.data_notes] == [note for part in parts for note in part.notes]
        assert any("the learning rate 0.02 is high" in note for note in found.notes)
    assert (plan.planned_steps, report.planned_steps, report.steps) == (1, 1, 1)
    assert report.log == str(tmp_path / "a.log.jsonl")
    assert Path(report.log).is_file()
    again = settings.model_copy(update={"resume": True})
    assert finished_report(again, force=False).dev == report.dev
    assert finished_report(again, force=True) is None, "it is to be trained anew"
    assert finished_report(settings, force=False) is None


def test_a_log_is_that_of_the_last_training_only(tmp_path, model_dir, corpus_dir):
    settings = task_settings(
        model_dir, corpus_dir, tmp_path / "a.safetensors", max_steps=1, eval_steps=1
    )
    steps = []
    for force in (False, True):
        train_task(settings, force=force)
        lines = (tmp_path / "a.log.jsonl").read_text().splitlines()
        steps.append([json.loads(line)["step"] for line in lines])
    assert steps[0] == steps[1]


def test_logged_losses_are_means_over_the_steps_since_the_last_line(
    tmp_path, model_dir, corpus_dir, monkeypatch
):
    """Of whole steps, although the last of an epoch has fewer micro-batches."""
    steps = defaultdict(float)
    training_step = AdapterTrainer.training_step

    def watched(self, *arguments, **options):
        loss = training_step(self, *arguments, **options)
        steps[self.state.global_step + 1] += loss.item()
        return loss

    monkeypatch.setattr(AdapterTrainer, "training_step", watched)
    settings = task_settings(
        model_dir,
        corpus_dir,
        tmp_path / "a.safetensors",
        **{"limit": 3, "batch_size": 2, "micro_batch_size": 1, "lr": 0.01},
        **{"max_steps": None, "epochs": 9.75, "eval_steps": 100},
    )
    report = train_task(settings)
    assert report.steps == report.planned_steps == len(steps) == 20  # of 2 in an epoch
    rows = [json.loads(line) for line in (tmp_path / "a.log.jsonl").read_text().splitlines()]
    logged = {row["step"]: row["loss"] for row in rows if "loss" in row}
    means = {last: sum(steps[n] for n in range(last - 9, last + 1)) / 10 for last in (10, 20)}
    assert logged == pytest.approx(means, rel=1e-4)
    (whole,) = (row["train_loss"] for row in rows if "train_loss" in row)
    assert whole == pytest.approx(sum(steps.values()) / 20, rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"lr": 0.5}, {"learning_rate": 0.5}),
        ({"schedule": "cosine"}, {"lr_scheduler_type": "cosine"}),
        ({"warmup_ratio": 0.25}, {"warmup_steps": 0.25}),
        ({"epochs": 2.5}, {"num_train_epochs": 2.5}),
        ({"max_steps": 40}, {"max_steps": 40}),
        ({"eval_steps": 7}, {"eval_steps": 7, "save_steps": 7}),
        ({"max_steps": 3}, {"max_steps": 3, "eval_steps": 3, "save_steps": 3, "logging_steps": 3}),
        ({"batch_size": 40}, {"gradient_accumulation_steps": 5}),
        ({"workers": 2}, {"dataloader_num_workers": 2}),
        ({"gradient_checkpointing": True}, {"gradient_checkpointing": True}),
        ({"seed": 9}, {"seed": 9}),
        ({"patience": 3}, {}),
    ],
    ids=str,
)
def test_a_setting_changes_its_own_argument_of_trainer_and_no_other(tmp_path, changes, expected):
    def arguments(**changes):
        changes = {"max_steps": 50, "epochs": 3.5, **changes}
        settings = task_settings("m", None, tmp_path / "a", **changes)
        data = TrainingData([None] * 400, [None], {}, {})
        run = TrainingRun(settings, Base(Path("m"), None, [], []), data, 8, ignore)
        return run._arguments().to_dict()

    usual, changed = arguments(), arguments(**changes)
    assert {k: v for k, v in changed.items() if v != usual[k]} == expected
