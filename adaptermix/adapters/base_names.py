"""Names of base models: whether two of them mean the same model, or copies of one."""

import re
from pathlib import PurePosixPath

_HUB_CACHE = re.compile(
    r"(?:.*/)?models--(?P<owner>[^/]+?)--(?P<model>[^/]+)/snapshots/(?P<commit>[^/]+)/*"
)
_GENERIC = re.compile(  # folder names that do not identify a model
    r"(merged|model|models|base|base[-_]?model|output|outputs|out|final|best|last|latest|hf|save|"
    r"saved|export|exported|weights|result|results|adapter|ckpt|snapshot|full|train|trained|sft)"
    r"([-_.]?(merged|model|hf|\d+|v\d+))*|((checkpoint|ckpt|step|epoch|run|global_step)[-_]?\d*)"
    r"|[0-9a-f]{7,}|\d+"
)
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
    and snapshots in the Hub's cache by their Hub name. Folder names such as ``merged`` or
    ``checkpoint-200`` allow no conclusion. Copies of one model (``is_copy``) are the same model.
    """
    if one.rstrip("/") == other.rstrip("/"):
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
    *parents, last = PurePosixPath(name.replace("\\", "/").lower()).parts or ("",)
    if len(parents) == 1 and not name.startswith((".", "/", "~")):
        return parents[0], last
    return "", "" if _GENERIC.fullmatch(last) else last
