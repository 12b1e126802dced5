"""FLOPs of steps: by hand for known shapes, and as torch counts those of a real model with LoRA."""

import json

import pytest
from helpers.corpus import write_corpus

from adaptermix.recipes.compute import (
    BYTES,
    PEAK,
    USED,
    Shape,
    Work,
    shown_flops,
    shown_hours,
    work_of,
)
from adaptermix.recipes.plan import plan
from adaptermix.recipes.recipe import read_recipe
from adaptermix.tasks.massive import SYSTEM_PROMPTS

LLAMA_3_8B = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
}


def test_a_trained_token_costs_two_thirds_of_six_times_the_weights():
    """Without LoRA it is 6 N: 2 forward, 2 for the inputs' gradients, 2 for those of weights."""
    shape = Shape.of(LLAMA_3_8B)
    weights = 8_030_261_248 - 128256 * 4096 - 65 * 4096  # without embeddings and norms
    assert shape.blocks * shape.block + shape.head == weights
    assert shape.trained(1000, 1000) == pytest.approx(6 * weights * 1000 * 2 / 3)
    assert shape.read(1000, 1000) == 2 * weights * 1000
    assert shape.trained(1000, blocks=16) == 4 * 1000 * 16 * 218_103_808
    assert Shape.of({"text_config": LLAMA_3_8B}) == shape


def test_heads_may_be_wider_or_narrower_than_the_model():
    gemma = {"hidden_size": 640, "num_hidden_layers": 18, "num_attention_heads": 4}
    gemma |= {"num_key_value_heads": 1, "head_dim": 256, "intermediate_size": 2048}
    shape = Shape.of(gemma | {"vocab_size": 262144})
    assert shape.block == 640 * (2 * 1024 + 2 * 256 + 3 * 2048)


@pytest.mark.parametrize("change", [{"num_local_experts": 8}, {"hidden_size": None}])
def test_of_other_models_nothing_is_said(change):
    assert Shape.of(LLAMA_3_8B | change) is None


def test_hours_are_those_of_an_accelerator_that_is_partly_used():
    assert Work(PEAK * USED * 3600).hours == pytest.approx(1)
    assert Work(0, PEAK * 0.1 * 7200).hours == pytest.approx(2)
    assert Work(1, 2).flops == 3
    shown = [shown_flops(flops) for flops in (1.2374e18, 2e12, 3e9, 3e8)]
    assert shown == ["1,237 PFLOP", "2 TFLOP", "3 GFLOP", "under 1 GFLOP"]
    assert [shown_hours(hours) for hours in (2.04, 0.5, 0)] == ["2.0 h", "30 min", "under 1 min"]


@pytest.mark.slow
def test_torch_counts_the_same_for_a_model_with_lora(model_dir):
    import torch
    from peft import LoraConfig, get_peft_model
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForCausalLM

    shape = Shape.of(json.loads((model_dir / "config.json").read_text()))
    model = AutoModelForCausalLM.from_pretrained(model_dir, attn_implementation="eager")
    targets = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split()
    model = get_peft_model(model, LoraConfig(r=1, target_modules=targets))
    model.enable_input_require_grads()  # the gradient of the first block's input is counted as well
    ids = torch.ones(8, 2, dtype=torch.long)  # two tokens attend to each other for next to nothing
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        model(ids)
    with FlopCounterMode(display=False) as both:
        model(ids).logits.sum().backward()
    assert forward.get_total_flops() == pytest.approx(shape.read(16, 16), rel=0.08)
    assert both.get_total_flops() == pytest.approx(shape.trained(16, 16), rel=0.08)


RECIPE = """
data-dir = "data"

[task]
command = "train-task"
langs = ["en"]

[align]
command = "train-align"
pairs = ["cy-en"]
pairs-dir = "pairs"
layer = 2

[joint]
command = "train-joint"
langs = ["en"]
pairs = ["cy-en"]
pairs-dir = "pairs"

[found]
command = "merge"
adapters = ["@task", "@align"]
search = "0.5,0.9"
langs = ["en"]

[test]
command = "eval"
adapters = ["@task", "@found"]
langs = ["en"]

[where]
command = "retrieval"
data-dir = "flores"
langs = ["en", "cy"]
"""


@pytest.fixture
def folder(tmp_path):
    write_corpus(tmp_path / "data")
    for name in ("pairs", "flores", "model"):
        (tmp_path / name).mkdir()
    (tmp_path / "pairs" / "cy-en.tsv").write_text("Helo yna.\tHi there\n" * 3)  # 9 and 8 bytes
    for code in ("en", "cy"):
        (tmp_path / "flores" / f"{code}.dev").write_text("12345678\n" * 5)
    (tmp_path / "model" / "config.json").write_text(json.dumps(LLAMA_3_8B))
    (tmp_path / "recipe.toml").write_text(f'model = "{tmp_path}/model"\n{RECIPE}')
    return tmp_path


def test_every_step_that_computes_says_how_much(folder):
    shape = Shape.of(LLAMA_3_8B)
    works, steps = {}, {}
    for step in read_recipe(folder / "recipe.toml").steps:
        counts = step.command.examples(step.settings)
        known = {"examples": counts} | step.command.size(step.call(), counts)
        works[step.name] = work_of(step.command.name, step.settings, known)
        steps[step.name] = known.get("planned_steps")
    aligned = shape.trained(128 * steps["align"] * 17 / BYTES, blocks=2)
    assert works["align"].flops == pytest.approx(aligned)
    assert works["where"].flops == pytest.approx(shape.read(10 * 8 / BYTES))
    assert works["where"].hours == pytest.approx(works["where"].flops / PEAK / USED / 3600)
    of_task = works["task"].flops / steps["task"]  # of 128 examples
    of_pairs = shape.trained(64 * 17 / BYTES, blocks=16)
    expected = steps["joint"] * (of_task / 2 + of_pairs)
    assert works["joint"].flops == pytest.approx(expected)

    by_name = {step.name: step for step in read_recipe(folder / "recipe.toml").steps}

    def work(name, **changes):
        step = by_name[name]
        counts = step.command.examples(step.settings)
        known = {"examples": counts} | step.command.size(step.call(), counts)
        return work_of(step.command.name, step.settings.model_copy(update=changes), known).flops

    # The blocks run forward once more; each adapter is one more system to read the texts.
    assert work("task", gradient_checkpointing=True) == pytest.approx(1.5 * work("task"))
    assert work("where", adapters=("a", "b")) == pytest.approx(3 * work("where"))
    alone = work("where", adapters=("a", "b"), exclude_base=True)
    assert alone == pytest.approx(2 * work("where"))


def test_the_plan_has_flops_and_hours_and_what_they_assume(folder):
    planned = plan(read_recipe(folder / "recipe.toml"))
    cost = {step.name: step.cost for step in planned.steps}
    answers = {name: cost[name]["answers"] for name in ("found", "test")}
    each = [cost[name]["flops"] / answers[name] for name in ("found", "test")]
    assert each[0] == pytest.approx(each[1], rel=0.1)  # the same prompts, of the dev and test part
    system = len(SYSTEM_PROMPTS["paper"]) / BYTES
    assert 1 < each[1] / Shape.of(LLAMA_3_8B).read(system) < 1.5
    assert cost["test"]["hours"] > Work(cost["test"]["flops"]).hours  # answers come one by one
    assert "FLOP, " in str(planned.view().shown)
    assert any("4 bytes of text per token" in note for note in planned.view().remarks)


def test_without_the_models_config_nothing_is_said(folder):
    (folder / "model" / "config.json").unlink()
    planned = plan(read_recipe(folder / "recipe.toml"))
    assert not any("flops" in step.cost for step in planned.steps)
    assert not planned.view().remarks


def test_work_is_that_of_the_texts_and_the_settings_of_the_step(folder):
    """Of the part that is read, in the languages that have any, at each temperature."""
    steps = {step.name: step for step in read_recipe(folder / "recipe.toml").steps}

    def flops(name, known=None, **changes):
        step = steps[name]
        settings = step.settings.model_copy(update=changes)
        counts = step.command.examples(step.settings)
        known = known or {"examples": counts} | step.command.size(step.call(settings), counts)
        found = work_of(step.command.name, settings, known)
        return found and found.flops

    dev, test = ({"examples": {"en": 5, "is": 0}, "answers": 5} for _ in range(2))
    assert flops("found", dev) == flops("test", dev, split="dev") != flops("test", test)
    assert flops("test", test, langs=("en", "is")) == flops("test", test)
    assert flops("align", layer="auto") == flops("align", layer="middle") == 8 * flops("align")
    assert flops("align", temperature=(0.1, 0.2, 0.3)) == 3 * flops("align", temperature=(0.1,))
    # Three of four parts run forward twice, and all sentences through the base model.
    assert flops("align", micro_batch_size=8) == (1 + 0.75 / 2) * flops("align")
    assert flops("align", preserve=0.1, micro_batch_size=32) == 1.5 * flops("align")
    assert flops("task", chat=folder / "chats.jsonl") is None


def test_the_shape_of_a_model_of_the_hub_is_that_of_its_revision(folder, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "hub"))
    place = folder / "hub" / "models--o--m"
    (place / "refs").mkdir(parents=True)
    for revision, blocks in (("main", 32), ("v2", 16)):
        (place / "refs" / revision).write_text(revision * 8)
        (place / "snapshots" / (revision * 8)).mkdir(parents=True)
        config = LLAMA_3_8B | {"num_hidden_layers": blocks}
        (place / "snapshots" / (revision * 8) / "config.json").write_text(json.dumps(config))
    (step,) = (s for s in read_recipe(folder / "recipe.toml").steps if s.name == "where")
    known = {"examples": {"en": 5, "cy": 5}}
    works = [
        work_of("retrieval", step.settings.model_copy(update={"model": "o/m", **more}), known)
        for more in ({}, {"revision": "v2"})
    ]
    assert works[0].flops == 2 * works[1].flops > 0
