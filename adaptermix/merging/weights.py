"""The weight of each adapter in each module of a merge.

Either one weight per adapter for all modules, or a file with rules for layers and modules:

    weights = [0.9, 0.1]        # for modules that no rule matches

    [[rule]]
    layers = "0-15"             # also "3", or "0-3,8"
    weights = [0.8, 0.2]

    [[rule]]
    modules = "mlp"             # a regular expression to search in the module's name
    weights = [1.0, 0.0]

If several rules match a module, the last one applies.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from adaptermix.adapters.format import decoder_layer_of
from adaptermix.errors import ConfigError
from adaptermix.files.text import why_no_file
from adaptermix.files.toml import read_toml
from adaptermix.settings.merging import MergeSettings
from adaptermix.tables import number_of

_MOST_LAYERS = 100_000  # larger numbers are mistakes, and a set of them would fill the memory
_LARGEST = sys.float_info.max
_RANGE = re.compile(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?")


@dataclass(frozen=True)
class Rule:
    """Weights for some modules.

    Attributes:
        weights: One per adapter.
        layers: Indices of decoder blocks, or None for all modules, including those outside blocks.
        modules: Regular expression, or None for all modules.
    """

    weights: tuple[float, ...]
    layers: frozenset[int] | None = None
    modules: str | None = None

    def matches(self, module: str) -> bool:
        """Whether the rule matches a module."""
        if self.layers is not None and decoder_layer_of(module) not in self.layers:
            return False
        return self.modules is None or re.search(self.modules, module) is not None


@dataclass(frozen=True)
class Weighting:
    """Weights of the adapters, by module."""

    weights: tuple[float, ...]
    rules: tuple[Rule, ...] = field(default=())

    def of(self, module: str) -> tuple[float, ...]:
        """Return a module's weights, one per adapter."""
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
        """Return the weighting as a TOML file for ``read_weighting``."""
        content = self.as_record()
        for rule in content.get("rules", ()):
            if "layers" in rule:
                rule["layers"] = ",".join(map(str, rule["layers"]))
        return tomli_w.dumps({"rule" if key == "rules" else key: v for key, v in content.items()})


def read_weights(adapters: int, settings: MergeSettings) -> Weighting:
    """Return the weights from the settings for a number of adapters.

    Raises:
        ConfigError: There are too few or too many weights, or the weights file is invalid.
    """
    if settings.weights_file is not None:
        return read_weighting(settings.weights_file, adapters)
    if settings.weight is not None:
        if adapters != 2:
            raise ConfigError(
                f"--weight is for two adapters, not {adapters}", hint="give --weights W1,W2,..."
            )
        rest = round(1 - settings.weight, 12)  # 0.1, not 0.09999999999999998, as in a search
        return Weighting((settings.weight, rest))
    weights = settings.weights or ()
    if len(weights) != adapters:
        raise ConfigError(
            f"--weights has {number_of(len(weights), 'number')} for "
            f"{number_of(adapters, 'adapter')}"
        )
    return Weighting(tuple(weights))


def read_weighting(path: Path, adapters: int) -> Weighting:
    """Read a weights file.

    Args:
        path: TOML file, as described at the top of this module.
        adapters: Number of adapters to merge.

    Raises:
        ConfigError: The file does not exist, a key is unknown, or weights are not numbers or
            too few. The message names file and line.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: {why_no_file(path)}", hint="check --weights-file")
    content = read_toml(path)
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    top = _Table(path, content, lines, 0)
    top.refuse_unknown("weights", "rule")
    rules = content.get("rule", [])
    if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
        raise top.mistake("rule", "write rules as [[rule]]")
    headers = [n for n, line in enumerate(lines, 1) if re.match(r"\s*\[\[\s*rule\s*\]\]", line)]
    if len(headers) != len(rules):  # other notations, such as inline tables
        headers = [0] * len(rules)
    tables = (_Table(path, rule, lines, at) for at, rule in zip(headers, rules, strict=True))
    return Weighting(top.weights(adapters), tuple(table.rule(adapters) for table in tables))


@dataclass(frozen=True)
class _Table:
    """A table of the file and its position."""

    path: Path
    values: Mapping[str, Any]
    lines: Sequence[str]
    header: int  # line number of its header; 0 for the top of the file

    def mistake(self, key: str, message: str, hint: str | None = None) -> ConfigError:
        """Return an error with the line of a key, or of the table if the key is missing."""
        number = max(1, self.header)
        for at, line in enumerate(self.lines[self.header :], self.header + 1):
            if re.match(r"\s*\[", line):
                break
            if re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
                number = at
        return ConfigError(f"{self.path}:{number}: {message}", hint=hint)

    def refuse_unknown(self, *known: str) -> None:
        for key in self.values:
            if key not in known:
                hint = "the keys are " + ", ".join(known)
                raise self.mistake(key, f"unknown key '{key}'", hint)

    def rule(self, adapters: int) -> Rule:
        self.refuse_unknown("weights", "layers", "modules")
        modules = self.values.get("modules")
        if modules is not None:
            try:
                re.compile(modules)
            except (re.error, TypeError) as error:
                message = f"modules: not a regular expression: {error}"
                raise self.mistake("modules", message) from error
        return Rule(self.weights(adapters), self.layers(), modules)

    def layers(self) -> frozenset[int] | None:
        if "layers" not in self.values:
            return None
        text = str(self.values["layers"])
        layers: set[int] = set()
        for part in text.split(","):
            match = _RANGE.fullmatch(part)
            first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
            if not first <= last <= _MOST_LAYERS:
                raise self.mistake(
                    "layers", f"layers: '{text}' is not a range", 'write "0-15" or "0-3,8"'
                )
            layers.update(range(first, last + 1))
        return frozenset(layers)

    def weights(self, adapters: int) -> tuple[float, ...]:
        weights = self.values.get("weights")
        if not isinstance(weights, list) or not all(_is_number(weight) for weight in weights):
            raise self.mistake("weights", "'weights' must be a list of finite numbers")
        if len(weights) != adapters:
            raise self.mistake(
                "weights",
                f"{number_of(len(weights), 'weight')} for {number_of(adapters, 'adapter')}",
            )
        return tuple(float(weight) for weight in weights)


def _is_number(value: object) -> bool:
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return is_real and -_LARGEST <= value <= _LARGEST  # type: ignore[operator]
