"""PEFT's config is read, its types are checked, and what is no plain LoRA is refused."""

import json
import sys
from pathlib import Path

import pytest

from adaptermix.adapters.config import read_config, refuse_unsupported
from adaptermix.adapters.format import CONFIG_KEY
from adaptermix.errors import ArtifactError

PLAIN = {"peft_type": "LORA", "r": 4, "lora_alpha": 8}


def read(**changes):
    header = {CONFIG_KEY: json.dumps(PLAIN | changes)}
    return read_config(Path("a"), header, Path("nowhere"), None, None)[0]


def test_a_config_is_in_the_header_or_beside_the_file_or_given(tmp_path):
    beside = tmp_path / "adapter_config.json"
    header = {CONFIG_KEY: json.dumps(PLAIN | {"r": 1})}
    given = ({"peft_type": "LORA", "r": 3, "lora_alpha": 6.0}, "--source-rank")
    assert read_config(Path("a"), {}, beside, 3, 6.0) == given
    beside.write_text(json.dumps(PLAIN | {"r": 2}))
    assert read_config(Path("a"), header, beside, 3, 6.0) == (PLAIN | {"r": 1}, "the header of a")
    assert read_config(Path("a"), {}, beside, 3, 6.0) == (PLAIN | {"r": 2}, str(beside))
    for rank, alpha in ((3, None), (None, 6.0), (None, None)):
        with pytest.raises(ArtifactError, match=r"^a: the file has no LoRA config"):
            read_config(Path("a"), {}, tmp_path / "nowhere", rank, alpha)


def test_a_config_is_utf_8_with_marks_for_what_is_not(tmp_path):
    path = tmp_path / "adapter_config.json"
    path.write_bytes(json.dumps(PLAIN | {"task_type": "ö"}, ensure_ascii=False).encode())
    assert read_config(Path("a"), {}, path, None, None)[0]["task_type"] == "ö"
    path.write_bytes(json.dumps(PLAIN | {"task_type": "x"}).encode().replace(b"x", b"\xff"))
    assert read_config(Path("a"), {}, path, None, None)[0]["task_type"] == "\ufffd"


@pytest.mark.parametrize(
    ("text", "words", "is_hinted"),
    [
        ("[]", "not the config of a LoRA adapter$", False),
        ('{"peft_type": null}', "not the config of a LoRA adapter$", False),
        ('{"peft_type": "LOHA"}', "not the config of a LoRA adapter: its peft_type is LOHA$", True),
    ],
)
def test_a_config_of_something_else_is_named(text, words, is_hinted):
    with pytest.raises(ArtifactError, match=f"^a: {words}") as error:
        read_config(Path("a"), {CONFIG_KEY: text}, Path("nowhere"), None, None)
    assert bool(error.value.hint) is is_hinted


def test_a_config_without_a_type_is_of_a_lora():
    header = {CONFIG_KEY: json.dumps({"r": 4, "lora_alpha": 8})}
    assert read_config(Path("a"), header, Path("nowhere"), None, None)[0]["r"] == 4


def test_names_in_a_config_have_no_wrappers():
    prefix = "base_model.model."
    found = read(
        target_modules=["_orig_mod.q_proj", f"{prefix}lm_head", f"x.{prefix}y"],
        modules_to_save=[f"{prefix}lm_head", "_fsdp_wrapped_module.norm"],
        rank_pattern={"_orig_mod.q_proj": 2, f"{prefix}q_proj": 3},
        alpha_pattern={r"a\._forward_module\.b": 5},
    )
    assert found["target_modules"] == ["q_proj", "lm_head", f"x.{prefix}y"]
    assert found["modules_to_save"] == ["lm_head", "norm"]
    assert found["rank_pattern"] == {"q_proj": 2, f"{prefix}q_proj": 3}
    assert found["alpha_pattern"] == {r"a\.b": 5}
    text = read(target_modules=f"{prefix}_checkpoint_wrapped_module.x.{prefix}")
    assert text["target_modules"] == f"x.{prefix}"
    assert "target_modules" not in read()
    assert read(rank_pattern={}, modules_to_save=None) == PLAIN | {
        "rank_pattern": {},
        "modules_to_save": None,
    }


NAMES_OR_PATTERN = ("target_modules", "exclude_modules", "layers_pattern")
NAMES = ("modules_to_save", "target_parameters")
TEXTS = ("base_model_name_or_path", "bias", "task_type", "revision")
SWITCHES = ("use_rslora", "fan_in_fan_out", "lora_bias")


def test_values_of_the_right_types_are_kept():
    values = {
        **dict.fromkeys(NAMES_OR_PATTERN, ".*x"),
        **dict.fromkeys(NAMES, ["x", "y"]),
        **dict.fromkeys(TEXTS, "none"),
        **dict.fromkeys(SWITCHES, True),
        "layers_to_transform": 1,
    }
    assert read(**values) == PLAIN | values
    lists = {**dict.fromkeys(NAMES_OR_PATTERN, ["x"]), "layers_to_transform": [0, 2]}
    assert read(**lists) == PLAIN | lists
    unset = dict.fromkeys(values)
    assert read(**unset) == PLAIN | unset


@pytest.mark.parametrize(
    ("keys", "values", "what"),
    [
        (NAMES_OR_PATTERN, (3, ["x", 3], {"x": 1}, True), "a list of names or a pattern"),
        (NAMES, (3, ["x", 3], "x", {"x": 1}), "a list of names"),
        (TEXTS, (3, ["x"], True), "text"),
        (SWITCHES, ("true", 1, [True]), "true or false"),
        (("layers_to_transform",), ("1", [0, "1"], 1.5, ["1"]), "a number or a list of numbers"),
    ],
)
def test_values_of_other_types_are_refused(keys, values, what):
    for key in keys:
        for value in values:
            with pytest.raises(ArtifactError, match=rf"^a: '{key}' is not {what}$"):
                read(**{key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, "(") for key in NAMES_OR_PATTERN),
        *((key, ["x", "("]) for key in ("layers_pattern", "modules_to_save")),
    ],
)
def test_patterns_can_be_compiled(key, value):
    with pytest.raises(ArtifactError, match=rf"^a: '\(' in {key} is not a regular expression"):
        read(**{key: value})


@pytest.mark.parametrize("key", ["target_modules", "exclude_modules", "target_parameters"])
def test_names_in_a_list_are_no_patterns(key):
    assert read(**{key: ["("]})[key] == ["("]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"r": 0}, "'r' is not a positive whole number"),
        ({"r": 2.0}, "'r' is not a positive whole number"),
        ({"r": None}, "'r' is not a positive whole number"),
        ({"lora_alpha": 0}, "'lora_alpha' is not a positive number"),
        ({"lora_alpha": "8"}, "'lora_alpha' is not a positive number"),
        ({"rank_pattern": {"x": 2.5}}, "'x' in rank_pattern is not a positive whole number"),
        ({"rank_pattern": {"x": 2, "y": 0}}, "'y' in rank_pattern is not a positive whole number"),
        ({"alpha_pattern": {"x": -1}}, "'x' in alpha_pattern is not a positive number"),
        ({"rank_pattern": ["x"]}, "'rank_pattern' is not a table"),
        ({"alpha_pattern": "x"}, "'alpha_pattern' is not a table"),
        ({"rank_pattern": {"(": 2}}, r"'\(' in rank_pattern is not a regular expression: .*"),
        ({"alpha_pattern": {"x)(": 2}}, None),  # a suffix of names: (.*\.)?(x)()$
    ],
)
def test_ranks_and_alphas_are_positive(changes, words):
    if words is None:
        assert read(**changes) == PLAIN | changes
        return
    with pytest.raises(ArtifactError, match=f"^a: {words}$"):
        read(**changes)


def test_the_least_and_the_largest_numbers_are_numbers_like_others():
    assert read(lora_alpha=sys.float_info.max)["lora_alpha"] == sys.float_info.max
    least = {"r": 1, "lora_alpha": 0.25, "rank_pattern": {"x": 1}, "alpha_pattern": {"y": 0.5}}
    assert read(**least) == PLAIN | least


def refused(**config):
    with pytest.raises(ArtifactError, match="^a: the adapter is not a plain LoRA: ") as error:
        refuse_unsupported(Path("a"), config)
    return error.value.message.partition("plain LoRA: ")[2], error.value.hint


@pytest.mark.parametrize(
    ("key", "words", "hint"),
    [
        ("use_dora", "DoRA", "merge_and_unload instead"),
        ("use_qalora", "QALoRA", "PEFT cannot merge it"),
        ("layer_replication", "layer_replication", "PEFT cannot merge it"),
        ("trainable_token_indices", "trainable_token_indices", "merge_and_unload instead"),
        ("alora_invocation_tokens", "activated LoRA", "PEFT cannot merge it"),
        ("kasa_config", "KaSA", "merge_and_unload instead"),
        ("use_bdlora", "block-diagonal", "merge_and_unload instead"),
        ("monteclora_config", "MonteCLoRA", "merge_and_unload instead"),
        ("velora_config", "VeLoRA", "merge_and_unload instead"),
        ("arrow_config", "Arrow", "PEFT cannot merge it"),
        ("use_new", "its config sets 'use_new'", "merge_and_unload instead"),
    ],
)
def test_every_variant_is_refused_by_its_own_name(key, words, hint):
    message, found = refused(**{key: {"x": 1}})
    assert message.startswith(words)
    assert hint in found
    refuse_unsupported(Path("a"), {key: None, "r": 4, "target_modules": ["x"]})


@pytest.mark.parametrize(
    ("init", "hint"),
    [
        ("pissa", "path_initial_model"),
        ("PiSSA_niter_4", "path_initial_model"),
        ("olora", "path_initial_model"),
        ("corda", "path_initial_model"),
        ("lora-ga", "path_initial_model"),
        ("loftq", "the quantized base model"),
    ],
)
def test_an_initialization_that_changes_the_base_is_refused(init, hint):
    message, found = refused(init_lora_weights=init)
    name = init.lower().replace("-", "_")
    assert message == f"initialized by {name}, which changes the base model"
    assert hint in found


def test_initializations_of_the_factors_alone_are_plain():
    for init in (True, False, None, "gaussian", "eva", "orthogonal", "mica", "Gaussian"):
        refuse_unsupported(Path("a"), {"init_lora_weights": init})
    refuse_unsupported(Path("a"), {})
    message, hint = refused(init_lora_weights="new")
    assert message == "initialized by new, which adaptermix does not know"
    assert "merge_and_unload instead" in hint
