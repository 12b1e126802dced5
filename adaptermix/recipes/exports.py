"""Folders that steps write beside their outputs: ``export`` of a report."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from adaptermix.errors import ConfigError
from adaptermix.files.outputs import real_path
from adaptermix.recipes.step import Recipe, Step


def check_exports(recipe: Recipe) -> None:
    """Check that no step would replace the recipe, what it reads, or what another step writes.

    Raises:
        ConfigError: An exported folder contains one of these, or is inside an output.
    """
    exports: dict[str, Path] = {}
    for step in recipe.steps:
        if step.export is None:
            continue
        why = next(_conflicts(recipe, step, exports), None)
        if why is not None:
            raise ConfigError(
                f"{step.path}:{step.line('export')}: [{step.name}] export: {step.export} {why}",
                hint='name a new folder for each step, such as export = "figures"',
            )
        exports[step.name] = step.export


def _conflicts(recipe: Recipe, step: Step, exports: Mapping[str, Path]) -> Iterator[str]:
    """Yield what the exported folder of a step would replace."""
    folder = real_path(step.export or Path())
    for path in (recipe.path, *(step.path for step in recipe.steps), recipe.out):
        if real_path(path).is_relative_to(folder):
            yield f"contains {path}"
    for name, place in ((n, p) for step in recipe.steps for n, p in step.places.items()):
        if Path(name).exists() and real_path(Path(name)).is_relative_to(folder):
            yield f"contains {name}, which is named at {place}"
    for name, out in [*((other.name, other.out) for other in recipe.steps), *exports.items()]:
        other = real_path(out)
        if folder.is_relative_to(other) or other.is_relative_to(folder):
            yield f"is written by the step {name}, too"
    made = recipe.maker(recipe.out / os.path.relpath(folder, real_path(recipe.out)))
    if made is not None and made.step != step.name:  # such as NAME.search
        yield f"is named like outputs of the step {made.step}"
