"""Check whether an engine applies an adapter, by the first tokens of a few prompts.

vLLM silently ignores an adapter whose keys it does not know.
"""

from collections.abc import Sequence
from pathlib import Path

from adaptermix.adapters.adapter import read_adapter
from adaptermix.adapters.deltas import LoraUpdate
from adaptermix.adapters.format import describe_config, spec_of
from adaptermix.adapters.writing import write_adapter
from adaptermix.errors import ArtifactError
from adaptermix.generation.engine import Request

# Number of real prompts on which an adapter must differ from the base model.
CANARIES = 4
_TOLERANCE = 0.05  # difference of log probabilities that rounding can cause
# Log probabilities of the likeliest first tokens, for each prompt.
FirstTokens = list[dict[int, float]]


class IgnoredAdapterError(ArtifactError):
    """An engine answers as if the adapter were not there."""

    def __init__(self, path: Path, module: str) -> None:
        """Take the adapter and its first module with an update."""
        super().__init__(f"{path}: the engine ignores the adapter, starting with {module}")
        self.path = path
        self.module = module


class RefusedAdapterError(ArtifactError):
    """An engine cannot load an adapter."""

    def __init__(self, path: Path, why: str) -> None:
        """Take the adapter and the engine's reason."""
        super().__init__(f"{path}: the engine cannot load the adapter: {why}")
        self.path = path
        self.why = why


def canaries(requests: Sequence[Request]) -> list[list[int]]:
    """Return a few prompts, evenly spaced among the requests."""
    step = max(1, len(requests) // CANARIES)
    return [request.prompt_ids for request in requests[::step][:CANARIES]]


def check_effect(
    new: Sequence[Path], base: FirstTokens, again: FirstTokens, others: Sequence[FirstTokens]
) -> None:
    """Check that each adapter changes the first tokens.

    Args:
        new: Paths of the adapters.
        base: First tokens of the base model.
        again: The same from a second run; differences from ``base`` are noise. If a tie makes the
            likeliest tokens differ, only tokens that both runs have are compared.
        others: First tokens with each adapter.

    Raises:
        IgnoredAdapterError: An adapter with a nonzero update changes nothing.
    """
    has_ties = _distance(base, again) == float("inf")
    distance = _drift if has_ties else _distance
    noise = distance(base, again)
    for adapter, tokens in zip(new, others, strict=True):
        if distance(base, tokens) <= noise and (module := _first_effective(adapter)):
            raise IgnoredAdapterError(adapter, module)


def _distance(some: FirstTokens, others: FirstTokens) -> float:
    """Return the largest difference of log probabilities; infinity if the tokens differ."""
    return max(
        max(abs(a[token] - b[token]) for token in a) if a.keys() == b.keys() else float("inf")
        for a, b in zip(some, others, strict=True)
    )


def is_another_model(plain: FirstTokens, again: FirstTokens, base: FirstTokens) -> bool:
    """Whether log probabilities of common first tokens differ by more than noise.

    Args:
        plain: First tokens of a model.
        again: The same from a second run.
        base: First tokens of what should be the same model.
    """
    return _drift(plain, base) > max(_TOLERANCE, 2 * _drift(plain, again))


def _drift(some: FirstTokens, others: FirstTokens) -> float:
    """Return the largest difference for common tokens; infinity if a prompt has none."""
    return max(
        max((abs(a[token] - b[token]) for token in a.keys() & b.keys()), default=float("inf"))
        for a, b in zip(some, others, strict=True)
    )


def write_zeros(adapter: Path) -> Path:
    """Write an adapter without effect beside another one: zeros for its first module."""
    folder = adapter.with_name("zeros")
    if not folder.exists():
        given = read_adapter(adapter)
        module, update = next(given.updates())
        zeros = LoraUpdate(update.a[:1], update.b[:, :1] * 0, 1.0)
        config = describe_config({module: spec_of(zeros)}, given.base, all_layers=False)
        write_adapter(folder, {module: zeros}, config, {})
    return folder


def _first_effective(adapter: Path) -> str | None:
    """Return the first module whose update is not zero."""
    updates = read_adapter(adapter).updates()
    return next((module for module, u in updates if u.a.any() and u.b.any()), None)
