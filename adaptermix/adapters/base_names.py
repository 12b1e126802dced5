"""Names of base models: whether two of them mean the same model, or copies of one."""

import re
from pathlib import Path, PurePosixPath

_HUB_CACHE = re.compile(
    r"(?:.*/)?models--(?P<owner>[^/]+?)--(?P<model>[^/]+)/snapshots/(?P<commit>[^/]+)/*"
)
# Words of folder names that do not identify a model: "checkpoint-100-merged", "step_1000_hf".
_GENERIC_WORDS = frozenset(
    """
    actor adapter adapters base best bf bit bits checkpoint checkpoints ckpt critic dpo epoch
    export exported final fp full fused global grpo hf huggingface int iter iteration last latest
    lora merged mlx model models orpo out output outputs peft policy ppo pretrain pretrained qlora
    result results run runs save saved sft snapshot step steps tmp train trained trainer training
    v weights
    """.split()
)
_OWNERS = frozenset({"hf", "huggingface", "mlx"})  # those of them that are owners on the Hub
_WORD = re.compile(r"[a-z]+|\d+|[^\W\d_a-z]+")
# Parts at the end of names that state how a copy of a model is quantized or stored.
_STORAGE = re.compile(
    r"([-_.](unsloth|bnb|quantized|dynamic|gptq|awq|hqq|eetq|exl\d|gguf|mlx|bf16|fp16|fp8|g\d+|"
    r"(int|nf|fp|mxfp|nvfp)[48]|[234568][-_]?bits?|w\d+a\d+))+$"
)
# Owners that publish copies of others' models under the models' own names.
_COPYISTS = frozenset(
    """
    unsloth mlx-community nousresearch thebloke redhatai neuralmagic casperhansen hugging-quants
    modelcloud lmstudio-community
    """.split()
)


def is_one_base(one: str, other: str) -> bool | None:
    """Whether two names mean the same base model; None if the names do not allow a conclusion.

    Hub names are compared as a whole, ignoring case. Folders are compared by their last component,
    and snapshots in the Hub's cache by their Hub name. Folder names of general words and numbers,
    such as ``merged`` or ``checkpoint-200``, allow no conclusion. Copies of one model (``is_copy``)
    are the same model.

    A name such as ``models/Qwen3-8B`` is that of a folder if the folder exists, or if its first
    part is of general words; other names of two parts are Hub names.
    """
    if one.rstrip("/") == other.rstrip("/"):
        return True
    if _is_folder(one) and _is_folder(other) and Path(one).samefile(other):
        return True
    (owner, model), (owner2, model2) = _owner_and_model(one), _owner_and_model(other)
    if not model or not model2:
        return None
    owners = {owner, owner2}
    return _without_storage(model) == _without_storage(model2) and (
        len(owners) == 1 or "" in owners or bool(owners & _COPYISTS)
    )


def is_copy(one: str, other: str) -> bool:
    """Whether two names mean one model in two forms, such as one that is quantized.

    ``unsloth/Qwen3-8B-bnb-4bit`` is a copy of ``Qwen/Qwen3-8B``.
    """
    (owner, model), (owner2, model2) = _owner_and_model(one), _owner_and_model(other)
    is_other_name = model != model2 or (owner != owner2 and "" not in (owner, owner2))
    return is_other_name and bool(is_one_base(one, other))


def has_owner(name: str) -> bool:
    """Whether a name is one on the Hub, with an owner, and not that of a local folder."""
    return bool(_owner_and_model(name)[0])


def commit_of_snapshot(base: str) -> str | None:
    """Return the commit in the path of a snapshot in the Hub's cache; None for other names."""
    cached = _HUB_CACHE.fullmatch(base)
    return cached["commit"] if cached else None


def is_quantized_name(base: str) -> bool:
    """Whether a base model's name states how a copy of the model is quantized or stored."""
    return _STORAGE.search(_owner_and_model(base)[1]) is not None


def _without_storage(model: str) -> str:
    """Return a model's name in lower case without what differs among its copies.

    The Hub has renamed ``Meta-Llama-3.1-8B`` to ``Llama-3.1-8B``; copies have either name.
    """
    return _STORAGE.sub("", model).removesuffix("-hf").removeprefix("meta-")


def _owner_and_model(name: str) -> tuple[str, str]:
    """Return owner and model in lower case; empty owner for folders, empty model if generic."""
    if cached := _HUB_CACHE.fullmatch(name):
        return cached["owner"].lower(), cached["model"].lower()
    name = name.replace("___", ".")  # in the names of ModelScope's cache
    *parents, last = PurePosixPath(name.replace("\\", "/").lower()).parts or ("",)
    is_path = name.startswith((".", "/", "~")) or _is_folder(name)
    if len(parents) == 1 and not is_path and not _is_of_folders(parents[0]):
        return parents[0], last
    return "", "" if _is_generic(last) else last


def _is_folder(name: str) -> bool:
    try:
        return Path(name).is_dir()
    except OSError:  # too long for a path
        return False


def _is_of_folders(part: str) -> bool:
    """Whether the first part of a name, in lower case, is a folder's: ``saved_models``."""
    words = [word for word in _WORD.findall(part) if not word.isdigit()]
    return bool(words) and all(word in _GENERIC_WORDS - _OWNERS for word in words)


def _is_generic(folder: str) -> bool:
    """Whether the name of a folder, in lower case, does not identify a model."""
    words = _WORD.findall(folder)
    is_hash = re.fullmatch("[0-9a-f]{7,}", folder) is not None
    return is_hash or all(word in _GENERIC_WORDS or word.isdigit() for word in words)
