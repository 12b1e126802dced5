"""Expand steps with several seeds, and the steps that refer to them, to one step per seed.

``seeds = [1, 2]`` turns ``[task]`` into the steps ``task-seed-1`` and ``task-seed-2``. In a step
that reads results (``eval``, ``retrieval``, ``inspect``, ``report``), ``@task`` stands for all of
them. Any other step is repeated for each seed, and its ``@task`` is the one with that seed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from adaptermix.adapters.seeds import SEEDED, with_seed
from adaptermix.commands.catalog import COMMANDS
from adaptermix.errors import ConfigError
from adaptermix.files.toml import line_of
from adaptermix.recipes.draft import REFERENCE, SEEDS, Draft, draft_keys, references, stated
from adaptermix.settings.shared import keys_of

Seeds = tuple[int, ...]
_READ_RESULTS = ("eval", "retrieval", "inspect", "report")


def expand(
    drafts: Mapping[str, Draft], own: Sequence[str], asked: Mapping[str, Any]
) -> tuple[dict[str, Draft], list[str]]:
    """Return all steps, one per seed, and the names of the recipe's own steps.

    Args:
        drafts: The steps as written.
        own: Names of the steps to run. Only these and the steps they refer to are expanded.
        asked: Settings from the command line.

    Raises:
        ConfigError: Seeds are invalid, or a step refers to steps with different seeds.
    """
    seeds: dict[str, Seeds] = {}
    made: dict[str, list[Draft]] = {}

    def visit(name: str) -> None:
        if name in seeds:
            return
        draft = drafts[name]
        seeds[name], made[name] = (), [draft]  # stops at a cycle, which is refused later
        if draft.written.get("command") not in [*COMMANDS]:
            return
        for need in _needs(draft, drafts):
            visit(need)
        seeds[name] = _seeds_of(draft, asked, seeds)
        made[name] = _made(draft, seeds, asked)

    for name in own:
        visit(name)
    return _together(drafts, made), [step.name for name in own for step in made[name]]


def _together(drafts: Mapping[str, Draft], made: Mapping[str, list[Draft]]) -> dict[str, Draft]:
    """Return the expanded steps and the unneeded ones, by name."""
    steps: dict[str, Draft] = {}
    for name, draft in drafts.items():
        for step in made.get(name, [draft]):
            if step.name in steps or (step.name != name and step.name in drafts):
                raise draft.fail(f"{SEEDS}: there is already a step [{step.name}]", SEEDS)
            steps[step.name] = step
    return steps


def _needs(draft: Draft, drafts: Mapping[str, Draft]) -> Iterator[str]:
    """Yield the names of the written steps that a step refers to."""
    for key, value in stated(draft).items():
        for found in references(draft.command, key, value):
            named = SEEDED.fullmatch(found[1])
            for name in (found[1], *([named[1]] if named else [])):
                if name in drafts:
                    yield name


def _seeds_of(draft: Draft, asked: Mapping[str, Any], seeds: Mapping[str, Seeds]) -> Seeds:
    """Return the seeds of a step: its own, or those of the steps it builds on."""
    chosen = _stated_seeds(draft, asked)
    origin = SEEDS
    for key, value in stated(draft).items():
        if _takes_all(draft, value):
            continue
        for found in references(draft.command, key, value):
            theirs = seeds.get(found[1], ())
            if theirs and chosen and theirs != chosen:
                told = ", ".join(map(str, theirs)), ", ".join(map(str, chosen))
                one = with_seed(found[1], theirs[0])
                raise draft.fail(
                    f"{key}: @{found[1]} has the seeds {told[0]}, but {origin} has {told[1]}",
                    key,
                    hint=f"give both the same seeds, or name one of them: @{one}",
                )
            if theirs:
                chosen, origin = theirs, f"@{found[1]}"
    return chosen


def _takes_all(draft: Draft, value: Any) -> bool:
    """Whether references in this value stand for all seeds: a list in a step that reads results."""
    return isinstance(value, list) and draft.command.name in _READ_RESULTS


def _stated_seeds(draft: Draft, asked: Mapping[str, Any]) -> Seeds:
    """Return the seeds that are set for a step; top-level ones apply only to training runs."""
    if "seed" not in keys_of(draft.command.settings):
        return ()
    is_training = draft.command.argument is None
    own, for_all = f"{draft.name}.{SEEDS}", draft.shared.get(SEEDS)
    has_seed = "seed" in draft.table
    if has_seed and SEEDS in draft.table:
        raise draft.fail(f"{SEEDS}: the step also has 'seed'; remove one of them", SEEDS)
    if own in asked:
        found = _read(asked[own], f"--set {own}")
    elif SEEDS in asked and (SEEDS in draft.table or (is_training and not has_seed)):
        found = _read(asked[SEEDS], f"--set {SEEDS}")
    elif SEEDS in draft.table:
        line = line_of(draft.path, draft.header, SEEDS)
        found = _read(draft.table[SEEDS], f"{draft.path}:{line}: [{draft.name}] {SEEDS}")
    elif for_all is not None and is_training and not has_seed:
        line = line_of(for_all[0], None, SEEDS)
        found = _read(for_all[1], f"{for_all[0]}:{line}: {SEEDS}")
    else:
        return ()
    for key in ("seed", f"{draft.name}.seed"):
        if key in asked:
            raise ConfigError(
                f"--set {key}: [{draft.name}] has several seeds",
                hint=f"set the seeds instead: --set {key}s={asked[key]}",
            )
    return found


def _read(value: Any, where: str) -> Seeds:
    """Read a list of seeds, or ``1,2,3`` from the command line."""
    items = value.split(",") if isinstance(value, str) else value
    items = items if isinstance(items, list) else [items]
    texts = [str(item).strip() for item in items]
    if not texts or not all(text.isascii() and text.isdigit() for text in texts):
        raise ConfigError(f"{where}: expected whole numbers from 0, such as [1, 2, 3]")
    found = tuple(map(int, texts))
    if len({*found}) < len(found):
        raise ConfigError(f"{where}: a seed is listed twice")
    return found


def _made(draft: Draft, seeds: Mapping[str, Seeds], asked: Mapping[str, Any]) -> list[Draft]:
    """Return one step per seed; a step that takes all seeds of others stays one step."""
    mine = seeds[draft.name]
    table = dict(draft.written)
    if SEEDS in draft_keys(draft.command):
        table.pop(SEEDS, None)
    if not mine:
        return [_referring(draft, draft.name, table, seeds, None)]
    is_own = bool(_stated_seeds(draft, asked))
    made = []
    for seed in mine:
        own = table | {"seed": seed} if is_own else table
        made.append(_referring(draft, with_seed(draft.name, seed), own, seeds, seed))
    return made


def _referring(
    draft: Draft, name: str, table: Mapping[str, Any], seeds: Mapping[str, Seeds], seed: int | None
) -> Draft:
    """Return a renamed step whose references point to the steps of one seed, or of all."""
    location = draft.command.location

    def seeded(key: str, value: Any) -> Any:
        return value if location(key) is None else _seeded(value, seeds, seed)

    return replace(
        draft,
        name=name,
        written={key: seeded(key, value) for key, value in table.items()},
        shared={key: (path, seeded(key, v)) for key, (path, v) in draft.shared.items()},
    )


def _seeded(value: Any, seeds: Mapping[str, Seeds], seed: int | None) -> Any:
    if isinstance(value, list):
        return [new for item in value for new in _each(item, seeds, seed)]
    return _each(value, seeds, seed)[0]


def _each(item: Any, seeds: Mapping[str, Seeds], seed: int | None) -> list[Any]:
    """Return an item, with a reference to a step with seeds expanded to one or all of them."""
    found = REFERENCE.fullmatch(item) if isinstance(item, str) else None
    theirs = seeds.get(found[1], ()) if found else ()
    if found is None or not theirs:
        return [item]
    chosen = theirs if seed is None else (seed,)
    return [f"@{with_seed(found[1], one)}{found[2]}" for one in chosen]
