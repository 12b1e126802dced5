"""Whether an adapter's config targets the modules that its file updates, as PEFT decides it.

PEFT ignores updates of other modules, while other loaders apply them.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from adaptermix.adapters.names import EMBEDDINGS
from adaptermix.errors import ArtifactError

_ALL = "all-linear"
_VERBS = {
    "exclude_modules": "excludes it",
    "modules_to_save": "has it as well",
    "target_modules": "does not include it",
    "layers_to_transform": "does not include its layer",
}


def check_targets(weights: Path, modules: Collection[str], config: Mapping[str, Any]) -> None:
    """Check that the config targets every module that the file updates.

    A config that matches none of the modules is accepted: it has the names of another program.

    Args:
        weights: The file, for the message.
        modules: Names of the updated modules.
        config: PEFT's config.

    Raises:
        ArtifactError: It targets some of them; the message names one of the others.
    """
    if not config.get("target_modules"):
        return
    reasons = {module: left_out_by(module, config) for module in modules}
    if not all(reasons.values()):
        for module, key in reasons.items():
            if key:
                raise ArtifactError(
                    f"{weights}: the file has an update of '{module}', but {key} in the config "
                    f"{_VERBS[key]}",
                    hint="PEFT ignores such an update, but other programs apply it; correct the "
                    "config, or remove the tensors",
                )


def left_out_by(module: str, config: Mapping[str, Any]) -> str | None:
    """Return the key of the config that leaves a module out, or None if it is targeted."""
    excluded, targets = config.get("exclude_modules"), config["target_modules"]
    if excluded and _matches(module, excluded):
        return "exclude_modules"
    saved = config.get("modules_to_save") or ()
    if any(re.match(rf"(^|.*\.){name}($|\..*)", module) for name in saved):
        return "modules_to_save"
    # PEFT adds a LoRA to the embeddings that are tied to targeted ones.
    is_tied = config.get("ensure_weight_tying") and module.rpartition(".")[2] in EMBEDDINGS
    if is_tied or (isinstance(targets, str) and targets.lower() == _ALL):
        return None
    if not _matches(module, targets):
        return "target_modules"
    layers = config.get("layers_to_transform")
    if isinstance(targets, str) or layers in (None, []) or module in targets:
        return None
    chosen = [layers] if isinstance(layers, int) else layers
    return None if _layer(module, config.get("layers_pattern")) in chosen else "layers_to_transform"


def _matches(module: str, names: str | Sequence[str]) -> bool:
    """Whether a regular expression matches a module, or one of several names is a suffix of it."""
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(f".{module}".endswith(f".{name}") for name in names)


def _layer(module: str, patterns: str | Sequence[str] | None) -> int | None:
    """Return the index of a module's layer, which follows one of the patterns or any name."""
    names = [patterns] if isinstance(patterns, str) and patterns else patterns or [r"[^.]*"]
    # Without a pattern, PEFT expects something before the name of the list of layers.
    start = r"(?:^|.*?\.)" if patterns else r".*?\."
    found = (re.match(rf"{start}{name}\.(\d+)\.", module) for name in names)
    match = next(filter(None, found), None)
    return int(match[1]) if match else None
