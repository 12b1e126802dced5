"""Tensors of a file by their names, and the config that gives them their meaning."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from adaptermix.adapters.deltas import LoraUpdate
from adaptermix.adapters.format import (
    PREFIX,
    RECORD_KEY,
    ModuleTensors,
    UpdateSpec,
    by_pattern,
    describe_config,
    read_run_record,
    sort_tensors,
    spec_of,
    split_parameters,
)
from adaptermix.adapters.writing import staged_config
from adaptermix.errors import ArtifactError

FILE = Path("a")
Q = "model.layers.2.q"


def pair(module, end=".weight", kind="lora_"):
    return [f"{PREFIX}{module}.{kind}{side}{end}" for side in "AB"]


def test_factors_are_grouped_by_module_in_the_order_of_the_blocks():
    pairs = {
        "model.embed_tokens": pair("model.embed_tokens", "", "lora_embedding_"),
        "model.layers.0.z": pair("model.layers.0.z"),
        "model.layers.2.k": pair("model.layers.2.k", ".default.weight"),
        "model.layers.2.lora_mix.q": pair("model.layers.2.lora_mix.q"),
        Q: pair(Q),
        "model.layers.10.a": pair("model.layers.10.a", ""),
    }
    bias = f"{PREFIX}{Q}.lora_B.bias"
    names = [name for module in reversed(pairs) for name in pairs[module]]
    modules, saved = sort_tensors(FILE, [*names, bias], {"lora_bias": True})
    assert list(modules) == list(pairs)
    assert not saved
    for module, (a, b) in pairs.items():
        own = bias if module == Q else None
        assert modules[module] == ModuleTensors(a, b, own, module == "model.embed_tokens", 0, 0)


def test_whole_weights_are_those_that_the_config_or_the_vocabulary_explains():
    config = {"modules_to_save": ["norm", "score"], "bias": "all"}
    whole = {
        "model.norm.weight": "model.norm.weight",
        "model.layers.2.input_layernorm.weight": "model.layers.2.input_layernorm.weight",
        "model.layers.2.q.bias": "model.layers.2.q.bias",
        "model.embed_tokens.base_layer.weight": "model.embed_tokens.weight",
        "lm_head.weight": "lm_head.weight",
        "lm_head.bias": "lm_head.bias",
        "score.modules_to_save.weight": "score.weight",
        "score.modules_to_save.default.bias": "score.bias",
        "model.norm.modules_to_save.default.inner.scale": "model.norm.inner.scale",
    }
    names = [*pair(Q), *(PREFIX + name for name in whole)]
    names += [
        f"{PREFIX}{name}" for name in ("score.original_module.weight", "norm.original_module.x.y")
    ]
    _, saved = sort_tensors(FILE, names, config)
    assert saved == {known: PREFIX + name for name, known in whole.items()}


def test_of_two_copies_of_an_embedding_the_plain_one_counts():
    plain, copy = f"{PREFIX}lm_head.weight", f"{PREFIX}lm_head.modules_to_save.weight"
    for names in ([plain, copy], [copy, plain]):
        assert sort_tensors(FILE, [*pair(Q), *names], {})[1] == {"lm_head.weight": plain}
    assert sort_tensors(FILE, [*pair(Q), copy], {})[1] == {"lm_head.weight": copy}


def test_modules_that_the_base_does_not_have_need_no_weights():
    """PEFT adds both names to the config of every classifier."""
    config = {"modules_to_save": ["classifier", "score"]}
    for name in ("classifier.dense.weight", "score.weight"):
        assert sort_tensors(FILE, [*pair(Q), PREFIX + name], config)[1] == {name: PREFIX + name}


@pytest.mark.parametrize(
    ("names", "config", "words"),
    [
        ([f"{Q}.lora_X.weight"], {}, f"tensor '{Q}.lora_X.weight' is not a LoRA factor"),
        ([".lora_A.weight"], {}, "tensor '.lora_A.weight' is not a LoRA factor"),
        ([f"{Q}.bias"], {}, f"tensor '{Q}.bias' is not a LoRA factor"),
        ([f"{Q}.bias"], {"bias": "none"}, f"tensor '{Q}.bias' is not a LoRA factor"),
        ([f"{Q}.weight"], {"bias": "all"}, f"tensor '{Q}.weight' is not a LoRA factor"),
        ([f"{Q}.weight"], {"modules_to_save": ["norm"]}, f"tensor '{Q}.weight' is not a LoRA"),
        (["lm_head.x"], {}, "tensor 'lm_head.x' is not a LoRA factor"),
        (["x.lm_head2.weight"], {}, "tensor 'x.lm_head2.weight' is not a LoRA factor"),
        (
            [f"{Q}.lora_A.default.weight"],
            {},
            f"'{PREFIX}{Q}.lora_A.default.weight' and '{PREFIX}{Q}",
        ),
        (["_odd.x.lora_A.weight"], {}, "has the unknown prefix or wrapper '_odd.'"),
        ([], {"modules_to_save": ["norm"]}, "modules_to_save lists 'norm', but the file has no"),
        ([], {"modules_to_save": ["a", "b"]}, "modules_to_save lists 'a' and 'b', but the file"),
        ([f"{PREFIX}x.lora_A.weight"], {}, "x has lora_A, but not lora_B"),
        ([f"{PREFIX}x.lora_B.weight"], {}, "x has lora_B, but not lora_A"),
    ],
)
def test_other_tensors_are_named(names, config, words):
    # PEFT's prefix belongs to every name; without it, the names here are shorter to read.
    given = [*pair(Q), *(n if n.startswith((PREFIX, "_", ".")) else PREFIX + n for n in names)]
    with pytest.raises(ArtifactError) as error:
        sort_tensors(FILE, given, config)
    assert error.value.message.replace(f"'{PREFIX}", "'").startswith("a: ")
    assert words.replace(PREFIX, "") in error.value.message.replace(PREFIX, "")


def test_a_file_needs_factors():
    with pytest.raises(ArtifactError, match="^a: the file contains no LoRA factors$"):
        sort_tensors(FILE, [f"{PREFIX}lm_head.weight"], {})


def test_a_bias_that_the_config_does_not_have_is_refused():
    names = [*pair(Q), *pair("model.layers.1.q"), f"{PREFIX}{Q}.lora_B.bias"]
    for config in ({"target_modules": None}, {"target_modules": ["q"], "lora_bias": False}):
        with pytest.raises(ArtifactError, match=f"^a: {Q} has a lora_B.bias, but lora_bias in"):
            sort_tensors(FILE, names, config)
    # Only PEFT's own config says something of biases.
    for config in ({}, {"target_modules": ["q"], "lora_bias": True}):
        assert sort_tensors(FILE, names, config)[0][Q].bias == names[-1]
    sort_tensors(FILE, names[:-1], {"target_modules": ["q"]})


def tensors(name):
    return ModuleTensors(f"{name}.A", f"{name}.B", None, False)


EXPERTS = "model.layers.0.mlp.experts"
OWN = {"r": 2, "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}


def split(config, rows, *names):
    return split_parameters(FILE, {name: tensors(name) for name in names}, rows.get, config)


def test_every_expert_of_a_parameter_is_a_module():
    rows = {f"{EXPERTS}.A": 6, f"{EXPERTS}.base_layer.A": 6, f"{Q}.A": 2}
    config = OWN | {"rank_pattern": {"experts.down_proj": 3}}
    late = "model.layers.10.q"
    modules, own_names = split(config, rows, late, Q, EXPERTS, f"{EXPERTS}.base_layer")
    outer, inner = tensors(EXPERTS), tensors(f"{EXPERTS}.base_layer")
    assert modules == {
        f"{EXPERTS}.0.down_proj": outer._replace(expert=0, experts=2),
        f"{EXPERTS}.0.gate_up_proj": inner._replace(expert=0, experts=3),
        f"{EXPERTS}.1.down_proj": outer._replace(expert=1, experts=2),
        f"{EXPERTS}.1.gate_up_proj": inner._replace(expert=1, experts=3),
        f"{EXPERTS}.2.gate_up_proj": inner._replace(expert=2, experts=3),
        Q: tensors(Q),
        late: tensors(late),
    }
    experts = sorted(modules)[:-2]
    assert list(modules) == [*experts, Q, late]
    assert own_names == {m: f"{EXPERTS}.{m.rpartition('.')[2]}" for m in experts}


def test_a_parameter_of_two_dimensions_keeps_the_name_of_its_module():
    gate = "model.layers.0.mlp.gate"
    config = {"r": 2, "target_parameters": ["mlp.gate.weight"]}
    modules, own_names = split(config, {f"{gate}.A": 2}, gate)
    assert modules == {gate: tensors(gate)._replace(experts=1)}
    assert own_names == {gate: f"{gate}.weight"}


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_rows_that_are_not_those_of_several_experts_are_refused(rows):
    config = {"r": 2, "target_parameters": ["experts.down_proj"]}
    words = f"^a: the factors of {EXPERTS}.down_proj have {rows} rows, .* experts of rank 2$"
    with pytest.raises(ArtifactError, match=words):
        split(config, {f"{EXPERTS}.A": rows}, EXPERTS)
    with pytest.raises(ArtifactError, match="^a: .* has factors for 1 parameters"):
        split(OWN, {f"{EXPERTS}.A": 6}, EXPERTS)


def test_a_pattern_matches_a_name_or_the_end_of_it_after_a_dot():
    for pattern in (None, {}, {"proj": 3}, {"model": 3}):
        assert by_pattern(pattern, "model.q_proj", 1) == 1
    for key in ("q_proj", "model.q_proj", "q_.*", ".*"):
        assert by_pattern({"k_proj": 2, key: 3, "model.*": 4}, "model.q_proj", 1) == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [('{"x": 1}', {"x": 1}), ("{", {}), ("[1]", {}), ("9" * 5000, {}), ("[" * 100_000, {})],
)
def test_a_record_that_is_unreadable_is_empty(text, expected):
    assert read_run_record({RECORD_KEY: text}) == expected
    assert read_run_record({"other": text}) == {}


def spec(rank=2, scaling=2.0, **options):
    return UpdateSpec(4, 6, rank, scaling, np.dtype(np.float32), **options)


def described(specs, all_layers=True):
    config = describe_config(specs, "base", all_layers)
    return {key: config.get(key) for key in ("target_modules", "layers_to_transform")}


def blocks(*numbers, parts=("x.q", "x.k"), start="model.layers."):
    return {f"{start}{at}.{part}": spec() for at in numbers for part in parts}


@pytest.mark.parametrize(
    ("specs", "all_layers", "targets", "layers"),
    [
        (blocks(0, 1), True, ["k", "q"], None),
        (blocks(0, 2), False, ["k", "q"], [0, 2]),
        (blocks(10, 9), False, ["k", "q"], [9, 10]),
        ({"lm_head": spec()}, True, ["lm_head"], None),
        ({"lm_head": spec()}, False, ["lm_head"], None),
        # Not every block has every layer.
        (blocks(0) | {"model.layers.1.x.q": spec()}, True, None, None),
        (blocks(0) | {"model.layers.1.x.q": spec()}, False, None, None),
        (blocks(0, 1) | {"lm_head": spec()}, True, None, None),
        # Two layers of one block have the same end.
        (blocks(0, parts=("x.q", "y.q")), True, None, None),
        # The same ends may be those of another modality.
        (blocks(0, start="model.language_model.layers."), True, None, None),
        # PEFT finds the number of a block only after two names.
        (blocks(0, start="layers."), False, None, None),
        (blocks(0, start="layers."), True, ["k", "q"], None),
    ],
)
def test_a_config_names_ends_and_blocks_or_else_every_module(specs, all_layers, targets, layers):
    found = described(specs, all_layers)
    expected = sorted(specs) if targets is None else targets
    assert found == {"target_modules": expected, "layers_to_transform": layers}


def test_a_described_config_has_everything_that_peft_reads():
    config = describe_config(blocks(0) | {"model.layers.0.x.v": spec(has_bias=True)}, "base", True)
    assert config == {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "base",
        "r": 2,
        "lora_alpha": 4,
        "lora_dropout": 0.0,
        "lora_bias": True,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "target_modules": ["k", "q", "v"],
        "layers_to_transform": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_rslora": False,
    }
    assert describe_config(blocks(0), None, True)["lora_bias"] is False
    assert json.loads(json.dumps(config)) == config


def test_the_most_frequent_rank_and_scaling_are_those_of_the_config():
    odd = {"lm_head": spec(rank=3), "score": spec(scaling=0.5)}
    for specs in (odd | blocks(0), blocks(0) | odd):
        config = describe_config(specs, "base", True)
        assert (config["r"], config["lora_alpha"]) == (2, 4)
        assert config["rank_pattern"] == {"lm_head": 3, "score": 2}
        assert config["alpha_pattern"] == {"lm_head": 6, "score": 1}


def test_experts_set_the_rank_and_are_named_as_parameters():
    fused = {f"{EXPERTS}.{at}.down_proj": spec(rank=5, experts=2) for at in range(2)}
    router = {"model.layers.0.mlp.gate": spec(rank=3, experts=1)}
    config = describe_config(blocks(0, 1) | fused | router, "base", True)
    assert config["target_parameters"] == [f"{EXPERTS}.down_proj", "model.layers.0.mlp.gate.weight"]
    assert (config["r"], config["lora_alpha"]) == (5, 10)
    assert config["target_modules"] == ["k", "q"]
    others = {name: 2 for name in blocks(0, 1)}
    assert config["rank_pattern"] == others | {"model.layers.0.mlp.gate.weight": 3}
    assert config["alpha_pattern"] == {
        **dict.fromkeys(others, 4),
        "model.layers.0.mlp.gate.weight": 6,
    }
    for name, count in ((f"{EXPERTS}.{{}}.up_proj", 0), ("model.layers.0.moe.{}.w", 2)):
        others = {name.format(at): spec(rank=5, experts=count) for at in range(2)}
        assert describe_config(blocks(0, 1) | others, "base", True)["r"] == 5
    assert describe_config(blocks(0) | router, "base", True)["r"] == 2
    assert "target_parameters" not in describe_config(blocks(0), "base", True)


def test_a_spec_is_that_of_the_arrays():
    a, b = np.ones((2, 6), np.float16), np.ones((4, 2), np.float16)
    update = LoraUpdate(a, b, 0.5)
    assert spec_of(update) == UpdateSpec(4, 6, 2, 0.5, np.dtype(np.float16), False, False, 0)
    biased = LoraUpdate(a, b, 0.5, np.ones(4, np.float16))
    expected = UpdateSpec(4, 6, 2, 0.5, np.dtype(np.float16), True, False, 3)
    assert spec_of(biased, experts=3) == expected


@pytest.mark.parametrize(
    ("rank", "scaling", "alpha"),
    [(3, 16 / 3, 16), (8, 2.0, 16), (8, 0.3, 0.3 * 8), (4, 0.75, 3), (30, 5.32, 30 * 5.32)],
)
def test_alpha_is_whole_if_that_is_the_same_scaling(rank, scaling, alpha):
    config = describe_config({Q: spec(rank, scaling)}, "base", True)
    assert config["lora_alpha"] == alpha
    assert type(config["lora_alpha"]) is type(alpha)


def test_the_config_of_a_renamed_adapter_targets_the_new_names():
    """What it says of the old ones would give other modules, ranks or scalings."""
    old = {
        "target_modules": ["x"],
        "layers_to_transform": [7],
        "layers_pattern": "h",
        "exclude_modules": ["y"],
        "r": 9,
        "lora_alpha": 9,
        "rank_pattern": {"x": 9},
        "alpha_pattern": {"x": 9},
        "use_rslora": True,
        "target_parameters": ["x"],
    }
    config = {"peft_type": "LORA", "lora_dropout": 0.1, **old}
    names = {"modules": [Q], "own_names": {Q: "x"}, "spec": lambda _: spec()}
    found = staged_config(SimpleNamespace(config=config, base="base", **names))
    described = describe_config({Q: spec()}, "base", False)
    assert found == config | {key: described.get(key) for key in old}
    assert found["layers_to_transform"] == [2]
    kept = SimpleNamespace(config=config, base="base", **names | {"own_names": {}})
    assert staged_config(kept) == config
