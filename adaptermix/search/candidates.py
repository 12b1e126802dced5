"""Candidates of a search: weight grids and groups of layers."""

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from adaptermix.adapters.adapter import Adapter
from adaptermix.adapters.format import decoder_layer_of
from adaptermix.errors import ConfigError
from adaptermix.merging.plan import MergePlan, plan_merge, renamed
from adaptermix.merging.weights import Rule, Weighting
from adaptermix.settings.merging import SearchSettings
from adaptermix.tables import number_of


@dataclass(frozen=True)
class Candidate:
    """A merge that the search may choose."""

    name: str
    weighting: Weighting

    @property
    def complexity(self) -> tuple[int, int]:
        """Sort key for simplicity: the number of adapters, then of distinct mixtures."""
        mixtures = {self.weighting.weights, *(rule.weights for rule in self.weighting.rules)}
        active = max(sum(weight != 0 for weight in weights) for weights in mixtures)
        return active, len(mixtures)

    @property
    def is_control(self) -> bool:
        """Whether it is one adapter alone."""
        return self.complexity == (1, 1)

    def without_others(
        self, names: Sequence[str], aligned: Collection[str] = ()
    ) -> "Candidate | None":
        """Return the merge's main adapter alone, at the weights that it has in the merge.

        A merge that scales the task adapter below 1 changes two things at once. This control
        isolates the scaling, which needs no other adapter. The main adapter has the largest weight
        of those that were not trained for alignment.

        Args:
            names: Names of the adapters.
            aligned: Names of those that were trained for alignment.

        Returns:
            The candidate, or None if the merge already has only one adapter.
        """
        if self.complexity[0] == 1:
            return None
        weights = self.weighting.weights
        most = max(
            range(len(weights)),
            key=lambda at: (bool(weights[at]) and names[at] not in aligned, abs(weights[at])),
        )

        def own(mixture: tuple[float, ...]) -> tuple[float, ...]:
            return tuple(weight if at == most else 0.0 for at, weight in enumerate(mixture))

        rules = tuple(replace(rule, weights=own(rule.weights)) for rule in self.weighting.rules)
        suffix = f"as in {self.name}" if rules else f"at {_exactly(weights[most])}"
        return Candidate(f"{names[most]} alone {suffix}", Weighting(own(weights), rules))


def plan_candidate(
    opened: Sequence[Adapter],
    named: Sequence[Adapter],
    weighting: Weighting,
    settings: SearchSettings,
) -> MergePlan:
    """Plan the merge of a candidate. One adapter alone is only scaled.

    A method for merges would also trim or flatten it, and it would be no control.

    Args:
        opened: The adapters as ``merge`` opens them. Rules and random draws depend on the names of
            their modules, so the same merge without a search has the same updates.
        named: The same adapters with the base model's module names, which the result gets.
        weighting: The candidate's weights.
        settings: The method and its options.
    """
    mixtures = (weighting.weights, *(rule.weights for rule in weighting.rules))
    if sum(map(any, zip(*mixtures, strict=True))) == 1:
        scaled = {"method": "exact", "rank": None, "isotropic": False}
        settings = settings.model_copy(update=scaled)
    return renamed(plan_merge(opened, weighting, settings), named)


AUTO_GRID = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
AUTO_STEP = 0.05


def names_of(adapters: Sequence[Adapter]) -> list[str]:
    """Return the adapters' names; equal names are numbered."""
    names = [adapter.path.resolve().name.removesuffix(".safetensors") for adapter in adapters]
    numbered = [f"{name} ({at})" for at, name in enumerate(names, 1)]
    found = [
        name if names.count(name) == 1 else other
        for name, other in zip(names, numbered, strict=True)
    ]
    return found if len({*found}) == len(found) else numbered  # one is named like "task (1)"


def first_candidates(names: Sequence[str], settings: SearchSettings) -> list[Candidate]:
    """Return the initial candidates of a search, which include each adapter alone.

    Raises:
        ConfigError: An invalid grid, fewer than two points, or a wrong number of weights.
    """
    if settings.search in ("auto", "learn"):
        candidates = [scalar_candidate(weight, len(names)) for weight in AUTO_GRID]
    else:
        candidates = _read_grid(str(settings.search), len(names))
    for at, name in enumerate(names):
        weights = tuple(float(at == other) for other in range(len(names)))
        candidates.append(Candidate(f"{name} alone", Weighting(weights)))
    unique = {candidate.weighting: candidate for candidate in candidates}
    return list(unique.values())


def merges_with_first(names: Sequence[str], settings: SearchSettings) -> list[Candidate]:
    """Return the merges of the first adapter with each of the others, at every point of the grid.

    Their names are valid folder names. Points that are the first adapter alone are left out.

    Raises:
        ConfigError: An invalid grid, or one without a merge.
    """
    unique: dict[Weighting, str] = {}
    for point in _read_grid(str(settings.search), 2, least=1):
        first, second = point.weighting.weights
        for at, name in enumerate(names[1:], start=1):
            weights = (first, *(second if at == other else 0.0 for other in range(1, len(names))))
            if weights[1:].count(0.0) < len(names) - 1 or first != 1:
                unique.setdefault(Weighting(weights), f"{name}-{point.name}")
    if not unique:
        raise ConfigError(f"--search {settings.search}: the grid contains no merge")
    folders = folder_names([names[0], *unique.values()])[1:]
    return [Candidate(name, weighting) for name, weighting in zip(folders, unique, strict=True)]


def folder_names(names: Sequence[str]) -> list[str]:
    """Return unique folder names for vLLM and shells, with no punctuation except ``_ . + -``."""
    plain = [re.sub(r"[^\w.+-]+", "_", name).lstrip(".-") or "adapter" for name in names]
    found: list[str] = []
    for at, name in enumerate(plain, 1):
        while name in found:
            name = f"{name}_{at}"
        found.append(name)
    return found


def _read_grid(text: str, adapters: int, least: int = 2) -> list[Candidate]:
    """Read grid points: the first adapter's weight, or all weights separated by colons."""
    try:
        grid = [
            tuple(map(float, part.split(":")))
            for part in (part.strip() for part in text.split(","))
            if part
        ]
    except ValueError as error:
        raise ConfigError(
            f"--search {text}: expected auto, learn or weights",
            hint="write --search 0.5,0.7,0.9, or all weights of each merge: --search 1:0.2,1:0.5",
        ) from error
    if not all(math.isfinite(weight) for weights in grid for weight in weights):
        raise ConfigError(f"--search {text}: weights must be finite numbers")
    if len(set(grid)) < least:
        raise ConfigError(
            f"--search {text}: a grid needs at least {'two points' if least == 2 else 'one point'}",
            hint="for one weight, merge with --weight W",
        )
    return [_grid_point(weights, adapters, text) for weights in grid]


def _grid_point(weights: tuple[float, ...], adapters: int, text: str) -> Candidate:
    if len(weights) == 1 and adapters != 2:
        raise ConfigError(
            f"--search {text}: a single weight per merge works for two adapters, not {adapters}",
            hint="write all weights of each merge: --search "
            + ":".join(["0.6", *["0.2"] * (adapters - 1)])
            + ",...",
        )
    if len(weights) == 1 and not 0 <= weights[0] <= 1:
        rest = round(1 - weights[0], 12)
        raise ConfigError(
            f"--search {text}: the weight {weights[0]:g} is not between 0 and 1",
            hint=f"if you mean it, write both weights: {weights[0]:g}:{rest:g}",
        )
    if len(weights) == 1:
        return scalar_candidate(weights[0], adapters)
    name = ":".join(map(_exactly, weights))
    if len(weights) != adapters or not any(weights):
        raise ConfigError(
            f"--search {text}: {name}: expected {adapters} weights, at least one of them not zero"
        )
    return Candidate(name, Weighting(weights))


def scalar_candidate(weight: float, adapters: int) -> Candidate:
    """Give the first adapter a weight, and split the rest equally among the others."""
    rest = round((1 - weight) / (adapters - 1), 12)
    return Candidate(_exactly(weight), Weighting((weight, *[rest] * (adapters - 1))))


def _exactly(weight: float) -> str:
    """Return a weight with all its digits, so that each candidate has its own name."""
    return repr(weight).removesuffix(".0")


def layer_groups(plan: MergePlan, count: int) -> list[frozenset[int]]:
    """Split the decoder blocks of a merge into contiguous groups of nearly equal size.

    Raises:
        ConfigError: There are more groups than blocks.
    """
    layers = sorted({layer for layer in map(decoder_layer_of, plan.specs) if layer is not None})
    if count > max(1, len(layers)):
        raise ConfigError(
            f"--layer-groups {count}: the adapters have only {number_of(len(layers), 'layer')}"
        )
    parts = np.array_split(np.array(layers, dtype=int), count)
    return [frozenset(int(layer) for layer in part) for part in parts]


def as_parameters(weights: Sequence[float], groups: int) -> dict[str, float]:
    """Return the weights as Optuna parameters, one per adapter and group of layers."""
    return {f"{at}.{group}": w for at, w in enumerate(weights) for group in range(groups)}


def candidate_of(
    weights: Sequence[Sequence[float]],
    groups: Sequence[frozenset[int]],
    number: int,
    known: Sequence[Candidate],
) -> Candidate:
    """Turn proposed numbers into weights that sum to 1 in every group of layers.

    Modules outside the layers get the mean over the groups.
    """
    mixtures = [_mixture(group) for group in weights]
    if len(set(mixtures)) == 1:
        weighting = Weighting(mixtures[0])
    else:
        rules = [Rule(m, layers) for m, layers in zip(mixtures, groups, strict=True)]
        weighting = Weighting(_mixture(np.mean(mixtures, axis=0).tolist()), tuple(rules))
    same = next((found for found in known if _rounded(found.weighting) == weighting), None)
    return same or Candidate(f"trial {number + 1}", weighting)


def _mixture(numbers: Sequence[float]) -> tuple[float, ...]:
    """Return the shares of numbers, rounded; the largest takes the rest, so that the sum is 1."""
    total = sum(numbers)
    shares = [round(n / total if total else 1 / len(numbers), 4) for n in numbers]
    largest = shares.index(max(shares))
    shares[largest] = round(shares[largest] + 1 - sum(shares), 4)
    return tuple(shares)


def _rounded(weighting: Weighting) -> Weighting:
    """Round known weights like proposed ones: a third of 1 has more digits in a grid."""
    rules = tuple(replace(rule, weights=_mixture(rule.weights)) for rule in weighting.rules)
    return Weighting(_mixture(weighting.weights), rules)
