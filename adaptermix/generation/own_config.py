"""A model's own generation config: the tokens that end its answers, and its decoding defaults."""

import json
from pathlib import Path
from typing import Any

from adaptermix.errors import ArtifactError
from adaptermix.generation.prompts import PromptEncoder
from adaptermix.models.files import config_parts, read_base_config
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
    """Return the EOS tokens of the model's generation config; without one, of its config.

    Raises:
        ArtifactError: The generation config cannot be read, or an ID in a config is no number.
    """
    path = folder / _FILE
    if not path.is_file():
        return _ends_in_config(folder)
    from transformers import GenerationConfig

    with opening(str(path)):
        config = GenerationConfig.from_pretrained(str(folder))
    names = ("bos_token_id", "pad_token_id", "eos_token_id")
    ids = {name: _token_ids(path, name, getattr(config, name)) for name in names}
    return ids["eos_token_id"]


def _ends_in_config(folder: Path) -> set[int]:
    """Return the EOS tokens of ``config.json``, as transformers and vLLM use it."""
    path, name = folder / "config.json", "eos_token_id"
    if not path.is_file():
        return set()
    parts = reversed(config_parts(read_base_config(folder)))  # the text model's comes last
    return next((ids for part in parts if (ids := _token_ids(path, name, part.get(name)))), set())


def _token_ids(path: Path, name: str, value: Any) -> set[int]:
    """Return the token IDs of a config's entry: a number, a list of numbers, or null."""
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(token, int) for token in ids):
        raise ArtifactError(f"{path}: {name} is neither a number nor a list of numbers")
    return set(ids)


def generation_config(folder: Path) -> dict[str, Any]:
    """Return the entries of a model's generation config, which may be damaged or missing."""
    try:
        config = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def greedy_changes(folder: Path) -> dict[str, Any]:
    """Return the entries of a model's generation config that change greedy decoding.

    The engines do not apply it: vLLM and the scores of other systems know nothing of it.
    """
    entries = generation_config(folder).items()
    return {key: value for key, value in entries if value is not None and key not in _HARMLESS}
