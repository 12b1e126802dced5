"""Parameters that an adapter targets directly, in particular the fused experts of a layer.

PEFT's ``target_parameters`` applies one LoRA to a tensor with all experts of a layer, such as
``mlp.experts.gate_up_proj`` [experts out in]. Its factors contain those of all experts: A
[experts * rank, in] one expert after the other, B [out, rank * experts] with the experts adjacent
within each rank. Here, every expert is a separate module, ``mlp.experts.3.gate_up_proj``, so that
operations on the updates of linear layers also work for experts.

A module has one pair of tensors per parameter. PEFT nests the wrappers of several parameters, in
the order in which the model's class defines the parameters: the last one has the module's own name,
and each one before it has one more ``.base_layer``.

A two-dimensional parameter, such as ``mlp.gate.weight``, is treated like the weight of a linear
layer, and its module keeps its name.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from adaptermix.adapters.deltas import LoraUpdate, as_dtype, wider
from adaptermix.errors import ArtifactError

_WRAPPED = ".base_layer"
# Parameters of one module, in the order in which the classes of transformers define them.
_ORDER = ("gate_up_proj", "gate_up_proj_bias", "down_proj", "down_proj_bias")
# Names of the projections in files with separate experts, in the order of the fused parameter.
_APART = {
    "gate_up_proj": (("gate_proj", "up_proj"), ("w1", "w3")),
    "down_proj": (("down_proj",), ("w2",)),
}
# Names of the fused parameters in files, if they differ: of Granite and Aria.
_STACKED = {
    "gate_up_proj": (".input_linear.weight", ".experts.fc1.weight"),
    "down_proj": (".output_linear.weight", ".experts.fc2.weight"),
}
# Model types with experts as [experts in out]; a test compares them with transformers.
TRANSPOSED = ("aria_text", "gpt_oss", "openai_privacy_filter")


class Target(NamedTuple):
    """A parameter with a LoRA.

    Attributes:
        module: The module that owns it.
        parameter: Its name in the module.
        stored: Module name in the names of the adapter's tensors.
    """

    module: str
    parameter: str
    stored: str


class Place(NamedTuple):
    """The destination of an expert's update in a file of the base model.

    Attributes:
        weight: Name of the weight.
        rows: Rows of the update that belong to this weight.
        expert: Index of the expert, if the weight contains all experts.
    """

    weight: str
    rows: slice
    expert: int | None


def targets_of(stored: Collection[str], config: Mapping[str, Any]) -> list[Target]:
    """Return the names in an adapter's file that belong to parameters, with the parameters.

    Args:
        stored: Module names of the factors in the file.
        config: PEFT's config.

    Raises:
        ArtifactError: The parameters of a module cannot be determined from the config, or they
            are not supported.
    """
    wrapped = Counter(name.replace(_WRAPPED, "") for name in stored)
    targets = []
    for module, count in wrapped.items():
        found = _parameters_of(module, count, config)
        if not found and count == 1 and module in stored:
            continue
        if len(found) != count:
            named = ", ".join(found) or "none"
            raise ArtifactError(
                f"{module} has factors for {count} parameters, but target_parameters in its "
                f"config names {named}"
            )
        if others := [name for name in found if name.endswith("_bias")]:
            raise ArtifactError(
                f"target_parameters lists the bias {module}.{others[0]}; only weights are "
                "supported",
                hint="merge it into its base model with PEFT's merge_and_unload instead",
            )
        if count > 1 and (unknown := [name for name in found if name not in _ORDER]):
            raise ArtifactError(
                f"target_parameters lists several parameters of {module}, and the file does "
                f"not say which factors belong to '{unknown[0]}'"
            )
        for name, key in zip(found, _stored_names(module, count), strict=True):
            if key not in stored:
                raise ArtifactError(
                    f"target_parameters lists {module}.{name}, but the file "
                    f"has no factors '{key}' for it"
                )
            targets.append(Target(module, name, key))
    return targets


def _parameters_of(module: str, count: int, config: Mapping[str, Any]) -> list[str]:
    """Return the names of a module's targeted parameters, innermost first.

    Args:
        module: Name of the module.
        count: Number of its factor pairs.
        config: PEFT's config.
    """
    targets = [str(entry).rpartition(".") for entry in config.get("target_parameters") or ()]
    own = {name for owner, _, name in targets if owner and f".{module}".endswith(f".{owner}")}
    bare = {name for owner, _, name in targets if not owner}
    # A bare name may be a parameter of any module.
    if len(own) >= count or _is_targeted(module, config.get("target_modules")):
        bare = set()
    return _in_order(own | bare)


def _is_targeted(module: str, targets: Any) -> bool:
    if isinstance(targets, str):
        return re.fullmatch(targets, module) is not None
    return any(f".{module}".endswith(f".{target}") for target in targets or ())


def _in_order(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: (_ORDER.index(name) if name in _ORDER else -1, name))


def _stored_names(module: str, count: int) -> list[str]:
    return [module + _WRAPPED * depth for depth in reversed(range(count))]


def expert_module(module: str, parameter: str, expert: int) -> str:
    """Return the module name for one expert of a fused parameter."""
    return f"{module}.{expert}.{parameter}"


def parameter_of(module: str, experts: int) -> str:
    """Return the parameter of an update, as named in ``target_parameters``."""
    if experts < 2:
        return f"{module}.weight"
    owner, _, parameter = module.rsplit(".", 2)
    return f"{owner}.{parameter}"


def split_factors(
    a: np.ndarray, b: np.ndarray, expert: int, experts: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the factors of one expert."""
    return (
        a.reshape(experts, -1, a.shape[1])[expert],
        b.reshape(len(b), -1, experts)[:, :, expert],
    )


class Joining:
    """Joins the updates of experts into the fused form of adapter files.

    Attributes:
        names: Modules by their joint name in the file, in the order in which ``join`` yields the
            updates.
    """

    def __init__(self, experts: Mapping[str, int]) -> None:
        """Store the modules in their order, with each one's number of experts, or 0."""
        self._experts = experts
        self._groups: dict[str, list[str]] = {}
        owners: dict[str, set[str]] = {}
        for module, count in experts.items():
            key = parameter_of(module, count) if count > 1 else module
            self._groups.setdefault(key, []).append(module)
            if count > 1:
                owner, _, parameter = key.rpartition(".")
                owners.setdefault(owner, set()).add(parameter)
        stored = {
            f"{owner}.{parameter}": name
            for owner, found in owners.items()
            for parameter, name in zip(
                _in_order(found), _stored_names(owner, len(found)), strict=True
            )
        }
        lasts = {group[-1]: key for key, group in self._groups.items()}
        self._complete = {module: lasts[module] for module in experts if module in lasts}
        self.names = {stored.get(key, key): self._groups[key] for key in self._complete.values()}

    def join(self, updates: Iterable[LoraUpdate]) -> Iterator[LoraUpdate]:
        """Yield the file's updates from the modules' updates, which come in the same order."""
        waiting: dict[str, LoraUpdate] = {}
        for module, update in zip(self._experts, updates, strict=True):
            waiting[module] = update
            if key := self._complete.get(module):
                group = {name: waiting.pop(name) for name in self._groups[key]}
                yield _joined(group, self._experts[module])


def _joined(group: Mapping[str, LoraUpdate], experts: int) -> LoraUpdate:
    """Join updates with equal rank and scaling; experts without an update get zeros."""
    first, *_ = group.values()
    if experts < 2:
        return first
    dtype = wider(*(part.dtype for update in group.values() for part in update.parts))
    a = np.zeros((experts, *first.a.shape), dtype)
    b = np.zeros((*first.b.shape, experts), dtype)
    for module, update in group.items():
        expert = int(module.rsplit(".", 2)[1])
        even = as_dtype(update, dtype)
        a[expert], b[:, :, expert] = even.a, even.b
    return LoraUpdate(a.reshape(-1, a.shape[-1]), b.reshape(len(b), -1), first.scaling, first.bias)


def places_of(module: str, rows: int, names: Collection[str]) -> list[Place]:
    """Return the destinations of an expert's update in a model's files, or an empty list.

    Args:
        module: Module name of the expert.
        rows: Number of rows of its delta weight.
        names: Names of the files' weights, with all experts in one tensor or separate.
    """
    owner, expert, parameter = module.rsplit(".", 2)
    block = owner.removesuffix(".experts")
    for stacked in (f"{owner}.{parameter}", *(block + s for s in _STACKED.get(parameter, ()))):
        if stacked in names:
            return [Place(stacked, slice(0, rows), int(expert))]
    for parts in _APART.get(parameter, ()):
        for place in (owner, owner.replace(".mlp.", ".block_sparse_moe.")):  # as in Mixtral's files
            weights = [f"{place}.{expert}.{part}.weight" for part in parts]
            if all(weight in names for weight in weights):
                size = rows // len(parts)
                return [
                    Place(weight, slice(at * size, (at + 1) * size), None)
                    for at, weight in enumerate(weights)
                ]
    return []


def is_transposed(shape: Sequence[int], update: tuple[int, int], model_type: str | None) -> bool:
    """Whether a model stores an expert as [in out].

    Args:
        shape: Shape of the expert's weight in the model.
        update: Shape of the update's delta weight, [out in].
        model_type: Type of the model, which decides for square weights.
    """
    if update[0] == update[1]:
        return model_type in TRANSPOSED
    return tuple(shape) == update[::-1]
