"""A model's own generation config: the tokens that end its answers, and its decoding defaults."""

import json
from pathlib import Path
from typing import Any

from adaptermix.errors import ArtifactError
from adaptermix.generation.prompts import PromptEncoder
from adaptermix.models.loading import opening

_FILE = "generation_config.json"
# Keys that do not change what greedy decoding with a length limit chooses.
_HARMLESS = frozenset(
    """
    _from_model_config transformers_version bos_token_id eos_token_id pad_token_id do_sample
    temperature top_k top_p min_p max_length max_new_tokens use_cache output_attentions
    output_hidden_states chat_format max_window_size decoder_start_token_id
    """.split()
)


def find_stop_ids(folder: Path, encoder: PromptEncoder) -> list[int]:
    """Return every token that ends an answer: the template's, the tokenizer's, the model's own."""
    ids = {encoder.end_id}
    if encoder.tokenizer.eos_token_id is not None:
        ids.add(int(encoder.tokenizer.eos_token_id))
    return sorted(ids | own_ends(folder))


def own_ends(folder: Path) -> set[int]:
    """Return the EOS tokens of the model's generation config, if it has one.

    Raises:
        ArtifactError: The generation config cannot be read.
    """
    path = folder / _FILE
    if not path.is_file():
        return set()
    from transformers import GenerationConfig

    with opening(str(path)):
        config = GenerationConfig.from_pretrained(str(folder))
    ids: dict[str, list[int]] = {}
    for name in ("bos_token_id", "pad_token_id", "eos_token_id"):
        value = getattr(config, name)
        ids[name] = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(token, int) for token in ids[name]):
            raise ArtifactError(f"{path}: {name} is neither a number nor a list of numbers")
    return set(ids["eos_token_id"])


def changes_greedy_decoding(folder: Path) -> bool:
    """Whether a model's generation config has, for example, a penalty for repetitions.

    The engines do not apply it: vLLM and the scores of other systems know nothing of it.
    """
    return bool(greedy_changes(folder))


def greedy_changes(folder: Path) -> dict[str, Any]:
    """Return the entries of a model's generation config that change greedy decoding."""
    try:
        config = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    entries = config.items() if isinstance(config, dict) else ()
    return {key: value for key, value in entries if value is not None and key not in _HARMLESS}
