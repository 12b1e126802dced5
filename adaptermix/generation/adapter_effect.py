"""Whether an engine applies an adapter: seen in the first tokens of a few prompts.

vLLM ignores an adapter whose keys it does not know without a word.
"""

from collections.abc import Sequence
from pathlib import Path

from adaptermix.adapters.adapter import read_adapter
from adaptermix.errors import ArtifactError
from adaptermix.generation.engine import Request

# Real prompts on which an adapter must differ from the base model.
CANARIES = 4
# Log probabilities of the likeliest first tokens, for each prompt.
FirstTokens = list[dict[int, float]]


class IgnoredAdapterError(ArtifactError):
    """An engine answers as if the adapter were not there."""

    def __init__(self, path: Path, module: str) -> None:
        """Name the adapter and its first module."""
        super().__init__(f"{path}: the engine ignores the adapter, from {module} on")
        self.path = path
        self.module = module


def canaries(requests: Sequence[Request]) -> list[list[int]]:
    """Return a few prompts, evenly spaced among those of the requests."""
    step = max(1, len(requests) // CANARIES)
    return [request.prompt_ids for request in requests[::step][:CANARIES]]


def check_effect(
    new: Sequence[Path], base: FirstTokens, again: FirstTokens, others: Sequence[FirstTokens]
) -> None:
    """Make sure that each adapter changes the first tokens.

    Args:
        new: The adapters.
        base: First tokens of the base model.
        again: The same once more; what differs from ``base`` is noise.
        others: First tokens with each adapter.

    Raises:
        IgnoredAdapterError: An adapter whose update is not zero changes nothing.
    """
    noise = distance(base, again)
    for adapter, tokens in zip(new, others, strict=True):
        if distance(base, tokens) <= noise and (module := _first_effective(adapter)):
            raise IgnoredAdapterError(adapter, module)


def distance(some: FirstTokens, others: FirstTokens) -> float:
    """Return the largest difference of log probabilities; infinite where the tokens differ."""
    return max(
        max(abs(a[token] - b[token]) for token in a) if a.keys() == b.keys() else float("inf")
        for a, b in zip(some, others, strict=True)
    )


def _first_effective(adapter: Path) -> str | None:
    """Return the first module whose update is not zero."""
    updates = read_adapter(adapter).updates()
    return next((module for module, u in updates if u.a.any() and u.b.any()), None)
