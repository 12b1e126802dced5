"""The plan of a merge: its sources, its weights, and the shapes of its result.

A merge is planned from the files' headers, which determine every shape of the result. Modules are
then read and merged one at a time.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from adaptermix.adapters.adapter import Adapter, read_adapter
from adaptermix.adapters.base_names import is_quantized_name
from adaptermix.adapters.deltas import (
    LoraUpdate,
    as_dtype,
    is_finite,
    sum_scaling,
    wider,
)
from adaptermix.adapters.format import (
    FLOAT_DTYPES,
    UpdateSpec,
    describe_config,
    is_within,
    layer_of,
    layer_then_name,
)
from adaptermix.adapters.matching import (
    check_common_names,
    check_experts,
    check_names,
    check_shapes,
    share_a_base,
    with_common_names,
)
from adaptermix.adapters.names import is_expert
from adaptermix.adapters.writing import AdapterWeights
from adaptermix.errors import ArtifactError, ConfigError
from adaptermix.files.tensors import TensorSpec
from adaptermix.merging.methods import (
    FACTOR_METHODS,
    Merged,
    MethodOptions,
    is_plain_sum,
    merge_updates,
    merged_rank,
)
from adaptermix.merging.sums import exact_sum, padded, with_bias
from adaptermix.merging.weights import Weighting
from adaptermix.merging.whole_weights import BaseWeight, saved_weight
from adaptermix.settings.merging import MergeSettings

_FOLD = "fold them into the base model with --into BASE"


@dataclass
class Tally:
    """Energies summed over the merged modules."""

    sum_energy: float = 0.0
    lost_energy: float = 0.0
    cross_energy: float = 0.0

    def add(self, merged: Merged) -> None:
        """Add the energies of one module."""
        self.sum_energy += merged.sum_energy
        self.lost_energy += merged.lost_energy
        self.cross_energy += merged.cross_energy

    def relative(self, energy: float) -> float:
        """Return an energy relative to the exact sum's energy."""
        return energy / self.sum_energy if self.sum_energy else 0.0


@dataclass(frozen=True)
class MergePlan:
    """A checked merge with known result shapes; nothing is merged yet.

    Attributes:
        adapters: The source adapters, with consistent module names.
        base: Their common base model, if an adapter names it.
        weighting: Weights, rules included.
        weights: One weight per adapter, by module of the result.
        specs: Description of the merged update, by module of the result.
        method: Name of the method.
        options: Options of the method.
        seed: Seed of the random methods.
        keeps: Whether adapters keep their full strength where others have nothing.
        base_weight: Reads a weight of the base model; only set if the result is a full model.
        names: Names of renamed modules and whole weights when the merge was planned. Rules and
            random draws depend on them.
    """

    adapters: list[Adapter]
    base: str | None
    weighting: Weighting
    weights: dict[str, tuple[float, ...]]
    specs: dict[str, UpdateSpec]
    method: str
    options: MethodOptions
    seed: int
    keeps: bool = False
    base_weight: BaseWeight | None = None
    names: Mapping[str, str] = field(default_factory=dict)

    def result(self, tally: Tally) -> AdapterWeights:
        """Return the merged weights; modules are read, merged and tallied when asked for."""
        updates = (self.update(module, tally) for module in self.specs)
        return AdapterWeights(self.specs, updates, self.saved())

    def try_out(self) -> Tally:
        """Merge everything, and return only the tally."""
        tally = Tally()
        for module in self.specs:
            self.update(module, tally)
        return tally

    @np.errstate(over="ignore")  # overflow is checked at the end
    def update(self, module: str, tally: Tally) -> LoraUpdate:
        """Read and merge one module, and update the tally.

        Raises:
            ArtifactError: A source has NaN or infinity, or the sum is too large for the dtype.
        """
        spec, sources = self.specs[module], self._sources(module)
        weights = [weight for _, weight in sources]
        if self.is_sum:
            update = exact_sum([adapter.update(module) for adapter, _ in sources], weights, spec)
        else:
            updates = [
                as_dtype(adapter.update(module), wider(adapter.spec(module).dtype, spec.dtype))
                for adapter, _ in sources
            ]
            # A zero would count among those that agree on signs.
            if self.method not in FACTOR_METHODS:
                updates, weights = _active(updates, weights)
            seed = _module_seed(self.seed, self.names.get(module, module))
            merged = merge_updates(self.method, updates, weights, self.options, seed)
            tally.add(merged)
            update = as_dtype(merged.update, spec.dtype)
        if not all(map(is_finite, update.parts)):
            raise ArtifactError(
                f"{module}: the merged update is too large for {spec.dtype}",
                hint="use smaller weights, or --out-dtype float32",
            )
        return with_bias(padded(update, spec.rank), spec)

    def _sources(self, module: str) -> list[tuple[Adapter, float]]:
        """Return the adapters that contribute to a module, with their weights."""
        weighted = zip(self.adapters, self.weights[module], strict=True)
        return [(adapter, w) for adapter, w in weighted if w and module in adapter.factors]

    @cached_property
    def is_sum(self) -> bool:
        """Whether the merge only concatenates factors."""
        return is_plain_sum(self.method, self.options)

    @cached_property
    def inactive(self) -> list[int]:
        """By adapter, the number of result modules where it is absent or its B is zero."""
        return [
            sum(not (m in adapter.factors and adapter.is_active(m)) for m in self.specs)
            for adapter in self.adapters
        ]

    def config(self) -> dict[str, Any]:
        """Return the PEFT config of the result.

        Raises:
            ArtifactError: Whole weights cannot be merged, or a module has both a whole weight and
                an update.
        """
        self._refuse_biases()
        config = describe_config(self.specs, self.base, self._covers_all_layers())
        saved = self.saved()
        holders = [a.config for a in self.adapters if a.saved.keys() & saved.keys()]
        biases = [holder.get("bias", "none") for holder in holders]
        config["bias"] = next((bias for bias in biases if bias != "none"), "none")
        modules = {module for holder in holders for module in _saves(holder)}
        kept = [module for module in modules if any(is_within(name, module) for name in saved)]
        for module in (name.rpartition(".")[0] for name in saved):
            if module in self.specs and any(is_within(f"{module}.", entry) for entry in kept):
                raise ArtifactError(
                    f"one adapter replaces the whole weight of '{module}' (modules_to_save), and "
                    "another has a LoRA update of it; PEFT cannot load an adapter with both",
                    hint=_FOLD,
                )
        config["modules_to_save"] = sorted(kept) or None
        tying = [holder.get("ensure_weight_tying") for holder in holders if _saves(holder)]
        if kept and all(tying):  # else PEFT writes the head over that of the base model
            config["ensure_weight_tying"] = True
        config["fan_in_fan_out"] = self.is_transposed
        revisions = {a.config.get("revision") for a in self.adapters if a.base}
        if len(revisions) == 1 and (revision := revisions.pop()):
            config["revision"] = revision
        tasks = {a.config.get("task_type", config["task_type"]) for a in self.adapters}
        if len(tasks) == 1:  # PEFT loads an adapter of a bare decoder without the LM head
            config["task_type"] = tasks.pop()
        return config

    def _refuse_biases(self) -> None:
        """Refuse LoRA biases, which an adapter has in all its modules, if one cannot have any."""
        for module, spec in self.specs.items():
            if spec.has_bias and (spec.experts or spec.is_embedding):
                kind = "embeddings" if spec.is_embedding else "a parameter of experts"
                raise ArtifactError(
                    f"one adapter has LoRA biases (lora_bias), and another updates '{module}', "
                    f"{kind}; PEFT cannot load an adapter with both",
                    hint=_FOLD,
                )

    @property
    def is_transposed(self) -> bool:
        """Whether the base stores weights as in x out (``fan_in_fan_out``), like GPT-2."""
        return any(adapter.config.get("fan_in_fan_out") for adapter in self.adapters)

    def saved(self) -> dict[str, tuple[TensorSpec, Callable[[], np.ndarray]]]:
        """Return the whole weights of the result, from the sources or the base model.

        Raises:
            ArtifactError: A weight cannot be determined; the error names the first one.
        """
        saved = {}
        for name in dict.fromkeys(name for adapter in self.adapters for name in adapter.saved):
            weights = self.weighting.of(self.names.get(name, name).rpartition(".")[0])
            if self.keeps:
                has = [_changes(adapter, name) for adapter in self.adapters]
                weights = _shared_out(name, weights, has) if any(has) else weights
            parts = [(a, w) for a, w in zip(self.adapters, weights, strict=True) if w]
            if any(name in adapter.saved for adapter, _ in parts):
                saved[name] = saved_weight(name, parts, self.base_weight)
        return saved

    def brings_bias(self, module: str) -> bool:
        """Whether a source has a bias for the module, not just the zeros added for PEFT."""
        return any(adapter.factors[module].bias for adapter, _ in self._sources(module))

    def _covers_all_layers(self) -> bool:
        """Whether the result has the same modules as an adapter whose config targets all layers."""
        return any(
            _means_all_layers(adapter.config) and set(adapter.factors) == set(self.specs)
            for adapter in self.adapters
        )


def _saves(config: Mapping[str, Any]) -> Sequence[str]:
    return config.get("modules_to_save") or ()


def _means_all_layers(config: Mapping[str, Any]) -> bool:
    """Whether the targets are bare names such as ``q_proj``, for all layers alike."""
    targets = config.get("target_modules")
    names_none = isinstance(targets, list) and all(layer_of(target) is None for target in targets)
    chosen = config.get("layers_to_transform") is not None or config.get("exclude_modules")
    return names_none and not chosen


def _active(
    updates: Sequence[LoraUpdate], weights: Sequence[float]
) -> tuple[list[LoraUpdate], list[float]]:
    """Leave out updates that are zero, as if their adapters did not have the module."""
    pairs = list(zip(updates, weights, strict=True))
    kept = [pair for pair in pairs if pair[0].is_active] or pairs
    return [update for update, _ in kept], [weight for _, weight in kept]


def _module_seed(seed: int, module: str) -> int:
    """Derive a seed from the module's name, so that the order of modules does not matter."""
    digest = hashlib.sha256(f"{seed}:{module}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % 2**63


def open_adapters(paths: Sequence[Path], settings: MergeSettings) -> list[Adapter]:
    """Open the adapters to merge, and make their module names consistent.

    Raises:
        ArtifactError: An adapter is damaged, or the base models differ.
    """
    adapters = [
        read_adapter(path, rank=settings.source_rank, alpha=settings.source_alpha) for path in paths
    ]
    _check_bases(adapters, settings.ignore_base)
    check_common_names(adapters)
    adapters = with_common_names(adapters)
    check_names(adapters)
    check_experts(adapters)
    return adapters


def plan_merge(
    adapters: Sequence[Adapter], weighting: Weighting, settings: MergeSettings
) -> MergePlan:
    """Plan the modules, weights and shapes of a merge from the files' headers.

    Raises:
        ConfigError: All weights are zero, a rule matches nothing, or options contradict each
            other.
        ArtifactError: Modules differ in shape, or in rank if the method needs equal ranks.
    """
    options = MethodOptions(settings.rank, settings.density, settings.epsilon, settings.isotropic)
    weights: dict[str, tuple[float, ...]] = {}
    specs: dict[str, UpdateSpec] = {}
    names = sorted({module for adapter in adapters for module in adapter.modules}, key=_end_first)
    whole = [name.rpartition(".")[0] for adapter in adapters for name in adapter.saved]
    _refuse_idle_rules(weighting, [*names, *whole])
    kinds: dict[tuple[Any, Any], list[str]] = {}  # groups equal layers: most models have few kinds
    for module in names:
        own = _module_weights(module, adapters, weighting, settings.inactive)
        parts = tuple([a.spec(module) if module in a.factors else None for a in adapters])
        kinds.setdefault((own, parts), []).append(module)
    taken = {
        kind: modules
        for kind, modules in kinds.items()
        if any(weight and part for weight, part in zip(*kind, strict=True))
    }
    used = (part for kind in taken for w, part in zip(*kind, strict=True) if w and part)
    has_bias = any(part.has_bias for part in used)
    for kind, modules in taken.items():
        check_shapes(modules[0], adapters, [spec for spec in kind[1] if spec])
        kept = [(spec, weight) for weight, spec in zip(*kind, strict=True) if spec and weight]
        spec = _plan_module(modules[0], kept, settings, options)
        weights |= dict.fromkeys(modules, kind[0])
        specs |= dict.fromkeys(modules, spec._replace(has_bias=has_bias))
    if not specs:
        raise ConfigError("all weights are zero, so the merge would be empty")
    specs |= _with_one_rank(
        {
            m: spec
            for m, spec in specs.items()
            if not settings.compact or spec.experts > 1 or is_expert(m)
        }
    )
    bases = [adapter.base for adapter in adapters if adapter.base]
    base = min(bases, key=is_quantized_name, default=None)  # rather than a quantized copy
    return MergePlan(
        list(adapters),
        base,
        weighting,
        weights,
        specs,
        settings.method,
        options,
        settings.seed,
        keeps=settings.inactive == "keep",
    )


def renamed(plan: MergePlan, adapters: Sequence[Adapter]) -> MergePlan:
    """Return a plan for the same adapters with other names of their modules.

    Raises:
        ArtifactError: Two modules of the plan get the same name.
    """
    new: dict[str, str] = {}
    for one, other in zip(plan.adapters, adapters, strict=True):
        new |= zip((*one.factors, *one.saved), (*other.factors, *other.saved), strict=True)
    own: dict[str, str] = {}
    for old, name in new.items():
        if (first := own.setdefault(name, old)) != old:
            raise ArtifactError(
                f"the modules of the adapters are named like '{first}' and '{old}', which are one "
                "module of the base model",
                hint="rename the tensors and target_modules of one adapter",
            )
    return replace(
        plan,
        adapters=list(adapters),
        weights={new[module]: weights for module, weights in plan.weights.items()},
        specs={new[module]: spec for module, spec in plan.specs.items()},
        names=own,
    )


def _with_one_rank(specs: Mapping[str, UpdateSpec]) -> dict[str, UpdateSpec]:
    """Give all updates the same rank and scaling, which every loader can read.

    If they differ, the scaling becomes 1, and the old ones are multiplied into B. With float16,
    which loses precision for small numbers, it becomes the largest of them instead.
    """
    if len({(spec.rank, spec.scaling) for spec in specs.values()}) == 1:
        return dict(specs)
    rank = max((spec.rank for spec in specs.values()), default=0)
    is_half = any(spec.dtype == np.float16 for spec in specs.values())
    scaling = max(spec.scaling for spec in specs.values()) if is_half else 1.0
    return {module: spec._replace(rank=rank, scaling=scaling) for module, spec in specs.items()}


def _end_first(module: str) -> tuple[str, str]:
    """Return the sort key of a result's modules: the last part of the name, then the name."""
    return module.rpartition(".")[2], module


def _refuse_idle_rules(weighting: Weighting, modules: Sequence[str]) -> None:
    """Refuse rules that match no module; otherwise the mistake would go unnoticed."""
    for number, rule in enumerate(weighting.rules, start=1):
        if not any(rule.matches(module) for module in modules):
            ends = [end(modules, key=layer_then_name) for end in (min, max)]
            raise ConfigError(
                f"--weights-file: rule {number} matches no module of the adapters",
                hint=f"the modules are {ends[0]} to {ends[1]}",
            )


def _module_weights(
    module: str, adapters: Sequence[Adapter], weighting: Weighting, inactive: str
) -> tuple[float, ...]:
    """Return a module's weights; with ``keep``, they are normalized over its active adapters."""
    weights = weighting.of(module)
    if inactive == "average":
        return weights
    has = [_changes(adapter, f"{module}.weight") for adapter in adapters]
    return _shared_out(module, weights, has)


def _changes(adapter: Adapter, name: str) -> bool:
    """Whether an adapter has a weight of its own, or an update of it that is not zero."""
    module, _, kind = name.rpartition(".")
    if kind == "weight" and module in adapter.factors and adapter.is_active(module):
        return True
    return name in adapter.saved and not adapter.is_frozen(name)


def _shared_out(name: str, weights: Sequence[float], has: Sequence[bool]) -> tuple[float, ...]:
    """Normalize weights over the adapters that have something under a name."""
    if abs(sum(weights) - 1) > 1e-6:
        raise ConfigError(
            f"--inactive keep: the weights {', '.join(map(str, weights))} do not add up to 1",
            hint="use weights that add up to 1, or --inactive average",
        )
    active = [weight if own else 0.0 for weight, own in zip(weights, has, strict=True)]
    total = sum(active)
    if total <= 0 and any(active):
        raise ConfigError(
            f"--inactive keep: the weights of the adapters active in {name} add up to {total:g}",
            hint="use positive weights, or --inactive average",
        )
    return tuple(weight / total for weight in active) if total else tuple(active)


def _plan_module(
    module: str,
    parts: Sequence[tuple[UpdateSpec, float]],
    settings: MergeSettings,
    options: MethodOptions,
) -> UpdateSpec:
    """Describe a module's merged update, without a bias, from the updates and their weights."""
    ranks = [spec.rank for spec, _ in parts]
    if settings.method in FACTOR_METHODS and len(set(ranks)) > 1:
        raise ArtifactError(
            f"{module} has ranks {', '.join(map(str, ranks))}; {settings.method} needs the "
            "same rank in all adapters",
            hint="use --method exact, which accepts any ranks",
        )
    if settings.method == "factor-average" and len(parts) == 1 and parts[0][1] < 0:
        raise ConfigError(
            f"--method factor-average: {module} is in one adapter only, and both of its factors "
            f"are multiplied by the weight {parts[0][1]:g}, so the sign has no effect",
            hint="use --method exact, or peft-linear",
        )
    first = parts[0][0]
    dtype = wider(*(spec.dtype for spec, _ in parts))
    if settings.out_dtype:
        dtype = next(known for known in FLOAT_DTYPES if known.name == settings.out_dtype)
    scaling = 1.0
    if is_plain_sum(settings.method, options):
        scaling = sum_scaling([weight * spec.scaling for spec, weight in parts])
    if not 0 < scaling <= float(ml_dtypes.finfo(dtype).max):
        told = " and ".join(f"{weight:g}" for _, weight in parts)
        subject = f"the weight {told} is" if len(parts) == 1 else f"the weights {told} are"
        raise ConfigError(f"{subject} too small or too large for {module} in {dtype}")
    return UpdateSpec(
        out_features=first.out_features,
        in_features=first.in_features,
        rank=merged_rank(settings.method, ranks, (first.out_features, first.in_features), options),
        scaling=scaling,
        dtype=dtype,
        is_embedding=first.is_embedding,
        experts=min(spec.experts for spec, _ in parts),  # a module if an adapter targets it as one
    )


def _check_bases(adapters: Sequence[Adapter], ignore: bool) -> None:
    for one, other in combinations(adapters, 2):
        share = ignore or share_a_base(one, other)
        if not share:
            unknown = "; the names do not show whether this is the same model"
            raise ArtifactError(
                f"adapter {other.path} was trained on {other.base}, but {one.path} on "
                f"{one.base}{unknown if share is None else ''}",
                hint="merge adapters of the same base model, or pass --ignore-base if you are sure",
            )
