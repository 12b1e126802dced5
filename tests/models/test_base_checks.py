"""What is known of a base model and its adapters before anything is loaded."""

import json
import shutil
from importlib.util import find_spec

import pytest
from helpers.adapters import peft_adapter
from helpers.evaluation import eval_settings
from helpers.models import make_tokenizer
from helpers.training import align_settings, task_settings
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from adaptermix.adapters.adapter import read_adapter
from adaptermix.errors import ArtifactError, ResourceError
from adaptermix.evaluation.evaluate import plan
from adaptermix.generation import cached
from adaptermix.models.loading import load_tokenizer
from adaptermix.models.systems import open_systems
from adaptermix.settings.shared import ModelSettings
from adaptermix.training.align import train_align
from adaptermix.training.base import Base
from adaptermix.training.batches import EncodedExample
from adaptermix.training.report import TrainingData
from adaptermix.training.task import train_task


@pytest.fixture
def quantized(tmp_path, model_dir):
    folder = shutil.copytree(model_dir, tmp_path / "quantized")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is here")
def test_a_quantized_base_wants_its_package_in_dry_runs_too(tmp_path, quantized, corpus_dir):
    peft_adapter(_plain(quantized), tmp_path / "a")
    settings = eval_settings(quantized, corpus_dir, tmp_path / "e", adapters=(str(tmp_path / "a"),))
    training = task_settings(quantized, corpus_dir, tmp_path / "t")
    for attempt in (lambda: plan(settings), lambda: train_task(training, dry_run=True)):
        with pytest.raises(ResourceError, match=r"is quantized \(bitsandbytes.*requires") as raised:
            attempt()
        assert raised.value.hint.startswith("pip install")


def _plain(quantized):
    folder = shutil.copytree(quantized, quantized.with_name("plain"))
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_resized_vocabulary_is_told_before_anything_is_loaded(tmp_path, model_dir):
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    model.resize_token_embeddings(402)
    options = {"r": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    get_peft_model(model, LoraConfig(**options)).save_pretrained(tmp_path / "a")
    with pytest.raises(
        ArtifactError, match="402 x 64.*has [0-9]+ x 64: the vocabulary was resized"
    ):
        open_systems(ModelSettings(model=str(model_dir)), {"a": read_adapter(tmp_path / "a")})


def test_what_vllm_cannot_load_is_refused_before_it_starts(
    tmp_path, model_dir, corpus_dir, monkeypatch
):
    monkeypatch.setattr(cached, "choose_engine", lambda settings: "vllm")
    peft_adapter(model_dir, tmp_path / "fine")
    peft_adapter(model_dir, tmp_path / "whole", modules_to_save=["lm_head"])
    peft_adapter(model_dir, tmp_path / "bias", lora_bias=True)
    for name, why in (("whole", "replaces 'lm_head.weight' as a whole"), ("bias", "have biases")):
        adapters = (str(tmp_path / "fine"), str(tmp_path / name))
        settings = eval_settings(model_dir, corpus_dir, tmp_path / "e", adapters=adapters)
        with pytest.raises(
            ArtifactError, match=f"{name}: vLLM cannot load the adapter: .*{why}"
        ) as raised:
            plan(settings)
        assert raised.value.hint == "evaluate it with --engine transformers"


def test_an_update_that_the_config_leaves_out_is_named(tmp_path, model_dir):
    peft_adapter(model_dir, tmp_path / "a")
    path = tmp_path / "a" / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"target_modules": ["q_proj"]}))
    with pytest.raises(
        ArtifactError, match="update of '.*down_proj', but target_modules in the config"
    ):
        open_systems(ModelSettings(model=str(model_dir)), {"a": read_adapter(tmp_path / "a")})


def test_custom_code_with_a_missing_package_names_it(tmp_path, model_dir, corpus_dir):
    folder = shutil.copytree(model_dir, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    config["model_type"] = "own"
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text("import a_missing_package\n")
    settings = task_settings(folder, corpus_dir, tmp_path / "t")
    with pytest.raises(ArtifactError) as refused:
        train_task(settings, dry_run=True)
    assert "--trust-remote-code" in refused.value.hint
    trusting = settings.model_copy(update={"trust_remote_code": True})
    with pytest.raises(ResourceError, match="a_missing_package") as raised:
        train_task(trusting, dry_run=True)
    assert raised.value.hint.startswith("pip install a_missing_package")


def test_another_tokenizer_beside_an_adapter_is_told(tmp_path, model_dir, corpus_dir):
    peft_adapter(model_dir, tmp_path / "a")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(model_dir / name, tmp_path / "a")
    settings = eval_settings(model_dir, corpus_dir, tmp_path / "e", adapters=(str(tmp_path / "a"),))
    assert plan(settings).notices == []
    (tmp_path / "a" / "chat_template.jinja").write_text("{{ messages[0].content }}")
    (note,) = plan(settings).notices
    assert note.startswith("the folder of a has a different chat template than")
    assert f"--tokenizer {tmp_path / 'a'}" in note
    (tmp_path / "own.jinja").write_text((model_dir / "chat_template.jinja").read_text() + "\n\n")
    own = settings.model_copy(update={"chat_template": tmp_path / "own.jinja"})
    assert plan(own).notices == []
    chosen = settings.model_copy(update={"tokenizer": str(tmp_path / "a")})
    assert plan(chosen).notices == []
    assert plan(chosen).longest_prompt < plan(settings).longest_prompt


def test_tokens_without_an_embedding_are_refused_before_a_training(tmp_path, model_dir, corpus_dir):
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["lamp"])
    tokenizer.save_pretrained(tmp_path / "more")
    more = {"tokenizer": str(tmp_path / "more")}
    for train, settings in ((train_task, task_settings), (train_align, align_settings)):
        given = settings(model_dir, corpus_dir, tmp_path / "t", **more)
        with pytest.raises(ArtifactError, match=r"has token (\d+), .* has only \1 tokens"):
            train(given, dry_run=True)


@pytest.mark.parametrize("part", ["train", "dev"])
def test_tokens_of_training_and_dev_rows_are_checked(model_dir, part):
    base = Base(model_dir, make_tokenizer(), [], [])
    usual, odd = EncodedExample([5, 6], [5, 6]), EncodedExample([5, 999], [5, 999])
    rows = {"train": [usual], "dev": [usual]}
    base.check_rows(TrainingData(**rows, examples={}, dev_examples={}))
    with pytest.raises(ArtifactError, match="has token 999"):
        base.check_rows(TrainingData(**rows | {part: [usual, odd]}, examples={}, dev_examples={}))


def test_a_padding_token_without_an_embedding_is_not_used(tmp_path, model_dir):
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<|none|>"})
    tokenizer.save_pretrained(tmp_path / "more")
    loaded = load_tokenizer(model_dir, ModelSettings(tokenizer=str(tmp_path / "more")))
    assert loaded.pad_token == loaded.eos_token
