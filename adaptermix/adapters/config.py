"""Read PEFT's config of an adapter, and refuse what a sum of LoRA updates cannot express."""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adaptermix.adapters.format import CONFIG_FILE, CONFIG_KEY, as_suffix
from adaptermix.adapters.names import PREFIX, unwrapped_pattern
from adaptermix.errors import ArtifactError, first_line

FROM_OPTIONS = "--source-rank"  # the location of a config that is given by options
# The fields of PEFT's LoraConfig. Any other field that is set means an unknown LoRA variant.
KNOWN_FIELDS = frozenset(
    """
    task_type peft_type auto_mapping peft_version base_model_name_or_path revision inference_mode
    r target_modules exclude_modules lora_alpha lora_dropout fan_in_fan_out bias use_rslora
    modules_to_save init_lora_weights layers_to_transform layers_pattern rank_pattern alpha_pattern
    megatron_config megatron_core trainable_token_indices loftq_config eva_config corda_config
    lora_ga_config use_dora velora_config alora_invocation_tokens use_qalora qalora_group_size
    monteclora_config layer_replication runtime_config lora_bias target_parameters use_bdlora
    arrow_config kasa_config ensure_weight_tying
    """.split()
)
# A list of names, or a regular expression.
_PATTERNS = ("target_modules", "exclude_modules", "layers_pattern")
_LISTED_PATTERNS = ("layers_pattern", "modules_to_save")  # PEFT reads their names as patterns, too
# The types of the config fields that are read here; items of lists are str.
_TYPES: tuple[tuple[str, type, str], ...] = (
    *((key, list, "a list of names or a pattern") for key in _PATTERNS),
    *((key, list, "a list of names") for key in ("modules_to_save", "target_parameters")),
    *((key, str, "text") for key in ("base_model_name_or_path", "bias", "task_type", "revision")),
    *((key, bool, "true or false") for key in ("use_rslora", "fan_in_fan_out", "lora_bias")),
    ("layers_to_transform", int, "a number or a list of numbers"),
)
# Initializations that change the base model's weights, so B A is not the whole update.
_INITS_THAT_CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_MERGE = "merge it into its base model with PEFT's merge_and_unload instead"
_APPLY = "load it with PEFT and use it there: PEFT cannot merge it into a model either"
_CONVERT = (
    "make a plain LoRA of it with PEFT: save_pretrained with "
    "path_initial_model_for_weight_conversion"
)
_LOFTQ = "load it with PEFT on the quantized base model that was saved with it"
_ALPHA = "write the alpha of the training: verl's model merger does not know it, and writes 0"
_PLAIN_INITS = ("true", "false", "none", "gaussian", "eva", "orthogonal", "mica")


def read_config(
    weights: Path,
    metadata: Mapping[str, str],
    config_path: Path,
    rank: int | None,
    alpha: float | None,
) -> tuple[dict[str, Any], str]:
    """Return the config and its location."""
    if CONFIG_KEY in metadata:
        text, origin, place = metadata[CONFIG_KEY], weights, f"the header of {weights}"
    elif config_path.is_file():
        text, origin = config_path.read_text(encoding="utf-8-sig", errors="replace"), config_path
        place = str(config_path)
    elif rank is not None and alpha is not None:
        return {"peft_type": "LORA", "r": rank, "lora_alpha": alpha}, FROM_OPTIONS
    else:
        raise ArtifactError(
            f"{weights}: the file has no LoRA config, and there is no {CONFIG_FILE} next to it",
            hint="make a PEFT folder from its rank and alpha: adaptermix merge FILE --weights "
            "1 --source-rank 8 --source-alpha 16 -o DIRECTORY",
        )
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise ArtifactError(f"{origin}:{error.lineno}: not JSON: {error.msg}") from error
    except (RecursionError, ValueError) as error:  # nested too deeply, or a number too long
        raise ArtifactError(f"{origin}: not JSON: {first_line(error)}") from error
    kind = config.get("peft_type", "LORA") if isinstance(config, dict) else None
    if kind != "LORA":
        what = f": its peft_type is {kind}" if kind else ""
        raise ArtifactError(
            f"{origin}: not the config of a LoRA adapter{what}",
            hint="PEFT's save_as_lora makes a LoRA of some other kinds of adapters"
            if kind
            else None,
        )
    _check_types(origin, config)
    _check_numbers(origin, config)
    return _without_wrappers(config), place


def _without_wrappers(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config with module names without training wrappers."""
    for key in ("target_modules", "modules_to_save"):
        if isinstance(names := config.get(key), list):
            config[key] = [unwrapped_pattern(str(name)).removeprefix(PREFIX) for name in names]
        elif isinstance(names, str):
            config[key] = unwrapped_pattern(names).removeprefix(PREFIX)
    for key in ("rank_pattern", "alpha_pattern"):  # with PEFT's prefix, they match nothing in PEFT
        if patterns := config.get(key):
            config[key] = {unwrapped_pattern(name): n for name, n in patterns.items()}
    return config


def _check_types(origin: Path, config: Mapping[str, Any]) -> None:
    """Check the types of texts, names and switches; null means unset for all of them."""
    given = {key: value for key, value in config.items() if value is not None}
    for key, kind, what in _TYPES:
        value = given.get(key, () if kind is list else kind())
        items = value if isinstance(value, list | tuple) and kind in (list, int) else [value]
        wanted = str if kind is list else kind
        if not all(isinstance(item, wanted) for item in items) or (
            kind is list and isinstance(value, str) and key not in _PATTERNS
        ):
            raise ArtifactError(f"{origin}: '{key}' is not {what}")
    for key in dict.fromkeys((*_PATTERNS, *_LISTED_PATTERNS)):
        value = given.get(key, "")
        listed = value if isinstance(value, list) and key in _LISTED_PATTERNS else ()
        for pattern in [value] if isinstance(value, str) else listed:
            _check_pattern(origin, key, pattern, pattern)


def _check_numbers(origin: Path, config: Mapping[str, Any]) -> None:
    for key, pattern in (("r", "rank_pattern"), ("lora_alpha", "alpha_pattern")):
        kinds = int if key == "r" else (int, float)
        overrides = config.get(pattern) or {}
        if not isinstance(overrides, dict):
            raise ArtifactError(f"{origin}: '{pattern}' is not a table")
        for name, value in ((key, config.get(key)), *overrides.items()):
            if not isinstance(value, kinds) or not 0 < value <= sys.float_info.max:
                number = "whole number" if key == "r" else "number"
                where = f"'{name}'" if name == key else f"'{name}' in {pattern}"
                raise ArtifactError(
                    f"{origin}: {where} is not a positive {number}",
                    hint=_ALPHA if key == "lora_alpha" and value == 0 else None,
                )
        for name in overrides:
            _check_pattern(origin, pattern, name, as_suffix(name))


def _check_pattern(origin: Path, key: str, written: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ArtifactError(
            f"{origin}: '{written}' in {key} is not a regular expression: {error}"
        ) from error


def refuse_unsupported(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse, by name, every feature that a sum of ``scaling * b @ a`` cannot express.

    The hints say what works: PEFT's ``merge_and_unload`` fails for some variants, and is wrong for
    initializations that PEFT cannot repeat when it loads the adapter.
    """
    init = str(config.get("init_lora_weights", True)).lower().replace("-", "_")
    unknown = [name for name in config if name not in KNOWN_FIELDS]
    refused = (
        (
            config.get("use_dora"),
            "DoRA (use_dora): its magnitudes depend on the base model",
            _MERGE,
        ),
        (
            init.startswith(_INITS_THAT_CHANGE_THE_BASE),
            f"initialized by {init}, which changes the base model",
            _LOFTQ if init == "loftq" else _CONVERT,
        ),
        (
            init not in _PLAIN_INITS,
            f"initialized by {init}, which adaptermix does not know",
            _MERGE,
        ),
        (config.get("use_qalora"), "QALoRA (use_qalora)", _APPLY),
        (config.get("layer_replication"), "layer_replication", _APPLY),
        (config.get("trainable_token_indices"), "trainable_token_indices", _MERGE),
        (
            config.get("alora_invocation_tokens"),
            "activated LoRA (alora_invocation_tokens)",
            _APPLY,
        ),
        (config.get("kasa_config"), "KaSA (kasa_config), which changes the base model", _MERGE),
        (config.get("use_bdlora"), "block-diagonal factors (use_bdlora)", _MERGE),
        (config.get("monteclora_config"), "MonteCLoRA (monteclora_config)", _MERGE),
        (config.get("velora_config"), "VeLoRA (velora_config)", _MERGE),
        (config.get("arrow_config"), "Arrow routing (arrow_config)", _APPLY),
        *(
            (config[name], f"its config sets '{name}', which adaptermix does not know", _MERGE)
            for name in unknown
        ),
    )
    for is_there, what, hint in refused:
        if is_there:
            raise ArtifactError(f"{path}: the adapter is not a plain LoRA: {what}", hint=hint)
