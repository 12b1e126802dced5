"""How much of each adapter goes into each module of a merge.

One weight per adapter everywhere, or a file with rules for layers and modules:

    weights = [0.9, 0.1]        # where no rule says otherwise

    [[rule]]
    layers = "0-15"             # also "3", or "0-3,8"
    weights = [0.8, 0.2]

    [[rule]]
    modules = "mlp"             # a regular expression, searched in the module's name
    weights = [1.0, 0.0]

Of several rules that match a module, the last one decides.
"""

import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adaptermix.adapters import layer_of
from adaptermix.errors import ConfigError

_RANGE = re.compile(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?")


@dataclass(frozen=True)
class Rule:
    """Weights for some modules.

    Attributes:
        weights: One per adapter.
        layers: Indices of decoder blocks, or None for all modules, those outside blocks included.
        modules: Regular expression, or None for all.
    """

    weights: tuple[float, ...]
    layers: frozenset[int] | None = None
    modules: str | None = None

    def matches(self, module: str) -> bool:
        """Whether the rule speaks of a module."""
        if self.layers is not None and layer_of(module) not in self.layers:
            return False
        return self.modules is None or re.search(self.modules, module) is not None


@dataclass(frozen=True)
class Weighting:
    """Weights of the adapters, module by module."""

    weights: tuple[float, ...]
    rules: tuple[Rule, ...] = field(default=())

    def of(self, module: str) -> tuple[float, ...]:
        """Return one weight per adapter for a module."""
        matching = [rule.weights for rule in self.rules if rule.matches(module)]
        return matching[-1] if matching else self.weights

    def as_record(self) -> dict[str, Any]:
        """Return the weighting as a dictionary for JSON."""
        rules = [
            {
                "weights": list(rule.weights),
                **({} if rule.layers is None else {"layers": sorted(rule.layers)}),
                **({} if rule.modules is None else {"modules": rule.modules}),
            }
            for rule in self.rules
        ]
        return {"weights": list(self.weights), **({"rules": rules} if rules else {})}

    def as_toml(self) -> str:
        """Return the file that ``read_weighting`` reads as this weighting."""
        parts = [f"weights = {list(self.weights)}\n"]
        for rule in self.rules:
            parts.append("\n[[rule]]\n")
            if rule.layers is not None:
                layers = ",".join(str(layer) for layer in sorted(rule.layers))
                parts.append(f'layers = "{layers}"\n')
            if rule.modules is not None:
                parts.append(f"modules = '''{rule.modules}'''\n")
            parts.append(f"weights = {list(rule.weights)}\n")
        return "".join(parts)


def read_weighting(path: Path, adapters: int) -> Weighting:
    """Read a file of weights.

    Args:
        path: TOML, as in the head of this module.
        adapters: Number of adapters to merge.

    Raises:
        ConfigError: No such file, an unknown key, weights that are no numbers or too few; with
            file and line.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file", hint="check --weights-file")
    text = path.read_text(encoding="utf-8")
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    headers = [n for n, line in enumerate(text.splitlines(), 1) if line.strip() == "[[rule]]"]
    _refuse_unknown(path, 1, content, ("weights", "rule"))
    rules = content.get("rule", [])
    if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
        raise ConfigError(f"{path}: rules are written as [[rule]]")
    lines = headers if len(headers) == len(rules) else [1] * len(rules)
    return Weighting(
        _read_weights(path, 1, content, adapters),
        tuple(_read_rule(path, at, rule, adapters) for at, rule in zip(lines, rules, strict=True)),
    )


def _read_rule(path: Path, line: int, rule: Mapping[str, Any], adapters: int) -> Rule:
    _refuse_unknown(path, line, rule, ("weights", "layers", "modules"))
    modules = rule.get("modules")
    if modules is not None:
        try:
            re.compile(modules)
        except (re.error, TypeError) as error:
            raise ConfigError(f"{path}:{line}: modules: no regular expression: {error}") from error
    layers = rule.get("layers")
    return Rule(
        _read_weights(path, line, rule, adapters),
        None if layers is None else _read_layers(path, line, str(layers)),
        modules,
    )


def _read_layers(path: Path, line: int, text: str) -> frozenset[int]:
    layers: set[int] = set()
    for part in text.split(","):
        match = _RANGE.fullmatch(part)
        if not match:
            raise ConfigError(
                f"{path}:{line}: layers: '{text}' is no range", hint='write "0-15" or "0-3,8"'
            )
        first = int(match[1])
        layers.update(range(first, int(match[2] or first) + 1))
    return frozenset(layers)


def _read_weights(
    path: Path, line: int, table: Mapping[str, Any], adapters: int
) -> tuple[float, ...]:
    weights = table.get("weights")
    if not isinstance(weights, list) or not all(_is_number(weight) for weight in weights):
        raise ConfigError(f"{path}:{line}: 'weights' must be a list of numbers")
    if len(weights) != adapters:
        raise ConfigError(f"{path}:{line}: {len(weights)} weights for {adapters} adapters")
    return tuple(float(weight) for weight in weights)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _refuse_unknown(path: Path, line: int, table: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in table:
        if key not in known:
            raise ConfigError(
                f"{path}:{line}: unknown key '{key}'", hint="the keys are " + ", ".join(known)
            )
