"""Training on frozen adapters: the sum at weight 1 is the model that was trained."""

import json
import shutil

import pytest
import torch
from helpers.adapters import IDS, logits_through_peft, peft_adapter
from helpers.models import SHAPE, make_tokenizer, plain_model
from helpers.training import (
    align_settings,
    assert_same,
    factors,
    joint_settings,
    task_settings,
)
from peft import PeftModel
from transformers import AutoModelForCausalLM, LlamaConfig

from adaptermix.adapters.adapter import read_adapter
from adaptermix.adapters.inspection import inspect
from adaptermix.adapters.stacking import read_weighted
from adaptermix.adapters.writing import stage_adapter
from adaptermix.errors import AdaptermixError, ArtifactError, ConfigError
from adaptermix.merging.merge import merge
from adaptermix.models.blocks import load_lower_blocks
from adaptermix.models.lora import with_lora
from adaptermix.models.stacking import add_stack
from adaptermix.models.systems import open_systems
from adaptermix.settings.merging import MergeSettings
from adaptermix.settings.reports import InspectSettings
from adaptermix.settings.training import TrainAlignSettings
from adaptermix.training.align import train_align
from adaptermix.training.joint import train_joint
from adaptermix.training.task import train_task
from adaptermix.training.trainer import AdapterTrainer

SHORT = {"max_steps": 4, "eval_steps": 4, "lr": 1e-2}


@pytest.fixture(scope="module")
def under(tmp_path_factory, model_dir):
    """An adapter of another tool in all blocks, strong enough to matter."""
    folder = tmp_path_factory.mktemp("under") / "task"
    peft_adapter(model_dir, folder)
    return folder


KINDS = {
    "task": (train_task, task_settings),
    "align": (train_align, align_settings),
    "joint": (train_joint, joint_settings),
}


@pytest.fixture(scope="module", params=KINDS)
def trained(request, tmp_path_factory, model_dir, corpus_dir, under):
    """An adapter trained on another at weight 0.5, and the logits of the model it was trained in.

    The best checkpoint is loaded when training ends, and the model is caught when it is scored.
    """
    out = tmp_path_factory.mktemp(request.param) / "new.safetensors"
    run, make = KINDS[request.param]
    caught = {}
    original = AdapterTrainer.train_from

    def watched(self, checkpoint):
        original(self, checkpoint)
        caught["model"] = self.model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AdapterTrainer, "train_from", watched)
        report = run(make(model_dir, corpus_dir, out, on=[f"{under}=0.5"], **SHORT))
    return request.param, out, caught["model"].eval(), report


def merged(paths, weights, out):
    return merge(paths, MergeSettings(weights=weights, out=out))


def test_the_sum_equals_the_stacked_model(tmp_path, trained, under, model_dir):
    kind, out, model, _ = trained
    assert any(f.any() for name, f in factors(out).items() if name.endswith(".b"))
    report = merged([under, out], (0.5, 1.0), tmp_path / "sum")
    assert not any("was trained on" in note for note in report.notes)
    with torch.no_grad():
        if kind == "align":
            mine = model(IDS).last_hidden_state
            whole = PeftModel.from_pretrained(
                AutoModelForCausalLM.from_pretrained(model_dir), str(tmp_path / "sum")
            ).eval()
            theirs = whole(IDS, output_hidden_states=True).hidden_states[2]
        else:
            mine, theirs = model(IDS).logits, logits_through_peft(model_dir, tmp_path / "sum")
    torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


def test_two_active_adapters_of_peft_equal_the_stacked_model(tmp_path, trained, under, model_dir):
    """The same without a merge: PEFT adds the updates of all active adapters."""
    kind, out, model, _ = trained
    half = merged([under], (0.5,), tmp_path / "half")
    new = stage_adapter(read_adapter(out), tmp_path)
    whole = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_dir), half.out)
    whole.load_adapter(str(new), "new")
    whole.base_model.set_adapter(["default", "new"])
    with torch.no_grad():
        theirs = whole.eval()(IDS, output_hidden_states=True)
        if kind == "align":
            mine, theirs = model(IDS).last_hidden_state, theirs.hidden_states[2]
        else:
            mine, theirs = model(IDS).logits, theirs.logits
    torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


def test_lower_blocks_equal_those_of_the_whole_model(layout_dir, tmp_path):
    peft_adapter(layout_dir, tmp_path / "under")
    settings = align_settings(layout_dir, None, "x", layer=2)
    stack = read_weighted([f"{tmp_path / 'under'}=-0.5"])
    lower = add_stack(load_lower_blocks(layout_dir, settings, "2").double(), stack)
    whole = plain_model(layout_dir, torch.float64)
    with torch.no_grad():
        for module, update in read_adapter(tmp_path / "under").updates():
            a, b = (torch.from_numpy(factor).double() for factor in (update.a, update.b))
            whole.get_submodule(module).weight.add_(b @ a, alpha=-0.5 * update.scaling)
        plain = load_lower_blocks(layout_dir, settings, "2").double()(IDS).last_hidden_state
        mine = lower(IDS).last_hidden_state
        theirs = whole(IDS, output_hidden_states=True).hidden_states[2]
    torch.testing.assert_close(mine, theirs, atol=1e-9, rtol=1e-9)
    assert not torch.allclose(mine, plain, atol=1e-2)


def test_several_adapters_are_added(model_dir, tmp_path, under):
    peft_adapter(model_dir, tmp_path / "other", seed=1, target_modules=["q_proj", "o_proj"])
    paths = [under, tmp_path / "other"]
    merged(paths, (0.5, -2.0), tmp_path / "sum")
    stack = read_weighted([f"{paths[0]}=0.5", f"{paths[1]}=-2"])
    model = add_stack(AutoModelForCausalLM.from_pretrained(model_dir), stack).eval()
    with torch.no_grad():
        expected = logits_through_peft(model_dir, tmp_path / "sum")
        torch.testing.assert_close(model(IDS).logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("is_tied", [True, False])
def test_an_lm_head_is_trained_on_where_it_is_not_the_embeddings(tmp_path, corpus_dir, is_tied):
    base = tmp_path / "base"
    config = LlamaConfig(**SHAPE, vocab_size=400, tie_word_embeddings=is_tied)
    AutoModelForCausalLM.from_config(config).save_pretrained(base)
    make_tokenizer().save_pretrained(base)
    peft_adapter(base, tmp_path / "under", target_modules=["lm_head", "q_proj"])
    settings = task_settings(base, corpus_dir, tmp_path / "o", on=[str(tmp_path / "under")])
    if is_tied:
        with pytest.raises(ArtifactError, match="changes embeddings"):
            train_task(settings, dry_run=True)
    else:
        assert train_task(settings, dry_run=True).on
        model = add_stack(AutoModelForCausalLM.from_pretrained(base), read_weighted(settings.on))
        with torch.no_grad():
            expected = logits_through_peft(base, tmp_path / "under")
            torch.testing.assert_close(model.eval()(IDS).logits, expected, atol=1e-4, rtol=1e-4)


def test_an_adapter_that_is_switched_off_leaves_the_stacked_model(model_dir, under):
    """So --preserve holds what the model under the new adapter has."""
    settings = align_settings(model_dir, None, "x", layer=2)
    stack = read_weighted([str(under)])
    alone = add_stack(load_lower_blocks(model_dir, settings, "2"), stack).eval()
    with torch.no_grad():
        expected = alone(IDS).last_hidden_state
        adapted = with_lora(alone, settings, "FEATURE_EXTRACTION")
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.5)
        assert not torch.allclose(adapted(IDS).last_hidden_state, expected, atol=1e-2)
        with adapted.disable_adapter():
            torch.testing.assert_close(adapted(IDS).last_hidden_state, expected)


def test_record_and_inspection_say_what_it_was_trained_on(trained, under):
    _, out, _, report = trained
    entry = {"path": str(under), "blake3": read_adapter(under).weights_hash, "weight": 0.5}
    assert read_adapter(out).record["on"] == report.on == [entry]
    single = inspect([out], InspectSettings())
    told = f"0.5 x task (BLAKE3 {entry['blake3'][:12]})"
    assert ["trained on", told] in [list(row) for row in single.view().shown[1].rows]
    card = out.with_name("new.README.md").read_text()
    assert "Trained on the base model with" in card
    assert not inspect([under, out], InspectSettings()).notes


def test_an_adapter_without_what_it_was_trained_on_is_noted(
    tmp_path, trained, under, model_dir, corpus_dir
):
    kind, out, _, _ = trained
    other = tmp_path / "other"
    peft_adapter(model_dir, other, seed=1)

    def notes(paths, weights):
        report = merged(paths, weights, tmp_path / "merged.safetensors")
        shutil.rmtree(tmp_path / "merged.safetensors", ignore_errors=True)
        (tmp_path / "merged.safetensors").unlink(missing_ok=True)
        return [note for note in report.notes if "was trained on" in note]

    base = f"{out} was trained on {under} at weight 0.5, but"
    assert notes([under, out], (0.5, 0.3)) == []
    assert notes([under, out], (1.0, 1.0)) == [f"{base} it has 1 here"]
    assert notes([other, out], (0.5, 0.5)) == [f"{base} it is missing here"]
    assert notes([other, out], (0.5, 0.0)) == []
    assert inspect([other, out], InspectSettings()).notes == [
        f"{out} was trained on {under}, which is not among these adapters"
    ]
    systems = open_systems(task_settings(model_dir, None, "x"), {"new": read_adapter(out)})
    assert f"{base} it is missing here" in systems.notes()
    if kind == "task":
        told = []
        settings = align_settings(model_dir, corpus_dir, tmp_path / "third", on=[str(out)])
        train_align(settings, dry_run=True, on_progress=lambda p: told.append(p.note))
        assert told == [f"{base} it is missing here"]


@pytest.mark.slow
def test_a_killed_run_goes_on_only_with_the_same_adapters(tmp_path, model_dir, corpus_dir, under):
    copy = tmp_path / "copy"
    shutil.copytree(under, copy)
    once = tmp_path / "once.safetensors"
    changes = {"on": [str(copy)], "max_steps": 8, "eval_steps": 2}
    train_align(align_settings(model_dir, corpus_dir, once, **changes))
    killed = align_settings(model_dir, corpus_dir, tmp_path / "k.safetensors", **changes)

    def stop(progress):
        if progress.done >= 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_align(killed, on_progress=stop)
    resumed = killed.model_copy(update={"resume": True})
    peft_adapter(model_dir, copy, seed=1)
    with pytest.raises(ConfigError, match="made with different settings"):
        train_align(resumed)
    shutil.copytree(under, copy, dirs_exist_ok=True)
    train_align(resumed)
    assert_same(once, tmp_path / "k.safetensors")
    assert train_align(resumed).on[0]["path"] == str(copy)  # it is finished
    peft_adapter(model_dir, copy, seed=1)
    with pytest.raises(ArtifactError, match="exists"):
        train_align(resumed)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "options",
    [{"modules_to_save": ["lm_head"]}, {"lora_bias": True}, {"target_modules": ["embed_tokens"]}],
    ids=str,
)
def test_what_cannot_be_trained_on_is_refused(tmp_path, model_dir, corpus_dir, options):
    peft_adapter(model_dir, tmp_path / "under", **options)
    settings = align_settings(model_dir, corpus_dir, tmp_path / "o", on=[str(tmp_path / "under")])
    message = "changes embeddings, biases or whole weights"
    with pytest.raises(ArtifactError, match=message) as caught:
        train_align(settings)
    assert "--into" in caught.value.hint


def test_a_quantized_base_takes_no_adapters(tmp_path, model_dir, corpus_dir, under):
    with pytest.raises(
        ValueError, match=r"--on cannot add adapters to a quantized base model .--quantize nf4"
    ):
        TrainAlignSettings(on=[str(under)], quantize="nf4")
    quantized = tmp_path / "quantized"
    shutil.copytree(model_dir, quantized)
    config = json.loads((quantized / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8"}
    (quantized / "config.json").write_text(json.dumps(config))
    settings = align_settings(quantized, corpus_dir, tmp_path / "o", on=[str(under)])
    with pytest.raises(AdaptermixError, match=r"is quantized"):
        train_align(settings)


def test_an_adapter_of_another_model_is_refused(tmp_path, corpus_dir, under):
    config = LlamaConfig(**SHAPE | {"intermediate_size": 128}, vocab_size=400)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "wider")
    make_tokenizer().save_pretrained(tmp_path / "wider")
    settings = task_settings(tmp_path / "wider", corpus_dir, tmp_path / "o", on=[str(under)])
    with pytest.raises(ArtifactError, match=r"down_proj is 64 x 96, but .* has 64 x 128"):
        train_task(settings)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a,b=0.5", ("a", "b=0.5")),
        ("a=-2e-1", ("a=-2e-1",)),
        (["a", "b"], ("a", "b")),
        ([], ()),
    ],
)
def test_adapters_are_named_with_weights(given, expected):
    assert TrainAlignSettings(on=given).on == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["a=0"], "the weight of a must be finite and not 0"),
        (["a", "a=0.5"], "'a' is listed twice"),
    ],
)
def test_a_slip_in_a_weight_is_named(given, message):
    with pytest.raises(ValueError, match=message):
        TrainAlignSettings(on=given)


def test_a_name_that_exists_is_no_weight(tmp_path):
    path = tmp_path / "lr=0.5"
    path.mkdir()
    assert TrainAlignSettings(on=[str(path)]).on == (str(path),)
    with pytest.raises(ValueError, match="twice"):
        TrainAlignSettings(on=[f"{path}=2", str(path)])
