"""Check whether adapters fit each other and a base model."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from adaptermix.adapters.adapter import Adapter
from adaptermix.adapters.base_names import commit_of_snapshot, has_owner, is_copy, is_one_base
from adaptermix.adapters.experts import parameter_of, places_of
from adaptermix.adapters.format import UpdateSpec, layer_of
from adaptermix.adapters.names import (
    CONV1D,
    EMBEDDINGS,
    check_fusion,
    check_names_meet,
    check_part_names,
    check_prefixes,
    common_names,
    core,
    has_modes,
    is_expert,
    names_in_models,
    renamed_cores,
)
from adaptermix.errors import ArtifactError

_MAIN = "main"
_COMMIT = re.compile("[0-9a-f]{7,}")  # a commit, or the beginning of one


def check_fits(adapter: Adapter, shapes: Mapping[str, tuple[int, ...]], base: str) -> None:
    """Check that the base model has a linear layer of the right shape for every update.

    Without this check, a wrong key prefix makes an adapter a silent no-op in some engines.

    Args:
        adapter: The adapter.
        shapes: Shapes of the base model's weights by tensor name.
        base: Name of the base model, for the message.

    Raises:
        ArtifactError: A module does not fit; the message names the first one.
    """
    for module in adapter.modules:
        spec = adapter.spec(module)
        if spec.experts > 1:
            _check_expert(adapter, module, shapes, base)
            continue
        shape = (spec.out_features, spec.in_features)
        if spec.is_embedding:  # stored transposed
            shape = shape[::-1]
        either_way = adapter.config.get("fan_in_fan_out") or module.rpartition(".")[2] in CONV1D
        found = (shapes.get(f"{name}.weight") for name in names_in_models(module))
        expected = next(filter(None, found), None) or _tied_head(module, shapes)
        if expected is None:
            raise _not_there(adapter, module, shapes, base)
        if expected != shape and not (either_way and expected == shape[::-1]):
            raise ArtifactError(
                f"{adapter.path}: {module} is {shape[0]} x {shape[1]}, but {base} has "
                f"{' x '.join(map(str, expected))}",
                hint="the adapter was trained on another base model",
            )


def _not_there(
    adapter: Adapter, module: str, shapes: Mapping[str, tuple[int, ...]], base: str
) -> ArtifactError:
    """Return the error about a module that the base model lacks, at least in that block."""
    message = f"{adapter.path}: {base} has no linear layer '{module}'"
    names = map(re.escape, names_in_models(module))
    anywhere = "|".join(re.sub(r"\\\.\d+\\\.", r"\\.\\d+\\.", name, count=1) for name in names)
    found = next((n for n in shapes if re.fullmatch(rf"(?:{anywhere})\.weight", n)), None)
    if found is None or layer_of(module) not in {*map(layer_of, shapes)}:
        hint = (
            "the adapter was trained on another base model, or its tensors have an unknown prefix; "
            "otherwise, merge it with PEFT's merge_and_unload"
        )
        return ArtifactError(message, hint=hint)
    return ArtifactError(
        f"{message}; it has '{found.removesuffix('.weight')}'",
        hint="if the blocks of this model share one weight, as those of Zamba do, the updates of "
        "single blocks cannot be folded into it; use the adapter as an adapter",
    )


def _check_expert(
    adapter: Adapter, module: str, shapes: Mapping[str, tuple[int, ...]], base: str
) -> None:
    spec = adapter.spec(module)
    places = next(
        filter(None, (places_of(n, spec.out_features, shapes) for n in names_in_models(module))), []
    )
    if not places:
        parameter = parameter_of(module, spec.experts)
        raise ArtifactError(f"{adapter.path}: {base} has no fused experts '{parameter}'")
    for weight, rows, expert in places:
        own = (rows.stop - rows.start, spec.in_features)
        fits = (own,) if expert is None else ((spec.experts, *own), (spec.experts, *own[::-1]))
        if shapes[weight] not in fits:
            raise ArtifactError(
                f"{adapter.path}: {module} is {own[0]} x {own[1]} in {spec.experts} experts, but "
                f"'{weight}' of {base} is {' x '.join(map(str, shapes[weight]))}",
                hint="the adapter was trained on another base model",
            )


def check_experts(adapters: Sequence[Adapter]) -> None:
    """Refuse to combine adapters of fused experts with adapters of separate experts.

    Fused gate_proj and up_proj share one A; separate ones have one each.

    Raises:
        ArtifactError: There are both; the message names one of each.
    """
    fused = [a for a in adapters if any(a.factors[m].experts > 1 for m in a.factors)]
    apart = [
        a for a in adapters if any(is_expert(m) and not a.factors[m].experts for m in a.factors)
    ]
    if fused and apart:
        raise ArtifactError(
            f"{fused[0].path} updates the fused experts of a layer (target_parameters), and "
            f"{apart[0].path} has a LoRA on each expert's projections; an adapter cannot have "
            "both",
            hint="fold one into the base model with --into, then the other with --ignore-base",
        )


def _tied_head(module: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...] | None:
    """Return the shape of an LM head that is not in the files because it is tied to the input."""
    if core(module) != "lm_head":
        return None
    inputs = {f"{name}.weight" for name in EMBEDDINGS}
    return next((shape for name, shape in shapes.items() if core(name) in inputs), None)


def notes_on_names(adapters: Mapping[str, Adapter], base: str) -> list[str]:
    """Return notes on adapters of a text-only class that are renamed for a multimodal one.

    Args:
        adapters: Adapters by name, with the base model's module names.
        base: Name of the base model that they are used on.
    """
    notes = []
    for name, adapter in adapters.items():
        new, own = next(iter(adapter.own_names.items()), ("", ""))
        if has_modes(new) and not has_modes(own) and core(new) == core(own):
            notes.append(
                f"the modules of {name} are named like '{own}', those of {base} like '{new}'; "
                "adaptermix renames them, but other programs may ignore the adapter"
            )
    return notes


def notes_on_base(adapters: Mapping[str, Adapter], base: str, own: str) -> list[str]:
    """Return notes on adapters that were trained on another base model of the same shapes.

    Args:
        adapters: Adapters by name.
        base: Name of the base model that they are used on.
        own: Fingerprint of that base model.
    """
    return [
        f"{name} was trained on {adapter.base}, {difference} {base}"
        for name, adapter in adapters.items()
        if (difference := difference_of_bases(adapter, base, own))
    ]


def difference_of_bases(adapter: Adapter, base: str, own: str | None) -> str:
    """Return in words how an adapter's base model differs from another; empty if it does not.

    They are compared by fingerprint if both are known, or else by name.

    Args:
        adapter: The adapter.
        base: Name of the base model that it is used on.
        own: Fingerprint of that base model, if its weights are there.
    """
    recorded = adapter.record.get("base_fingerprint")
    if recorded and own:
        return "" if recorded == own else "whose weights are not those of"
    place = str(Path(base).resolve()) if Path(base).is_dir() else base
    is_other = adapter.base and is_one_base(adapter.base, place) is False
    return "which by its name is not" if is_other else ""


def refuse_other_base(adapter: Adapter, base: str, own: str | None, hint: str) -> list[str]:
    """Refuse a base model that is not the adapter's; note other names if one is a local folder's.

    Anyone may choose the name of a folder, so it is no proof.

    Args:
        adapter: The adapter.
        base: Name of the base model that it is used on.
        own: Fingerprint of that base model, if its weights are there.
        hint: Hint of the error.

    Raises:
        ArtifactError: It is another base model by its fingerprint or its name on the Hub.
    """
    difference = difference_of_bases(adapter, base, own)
    if not difference:
        return []
    found = f"{adapter.path} was trained on {adapter.base}, {difference} {base}"
    is_named = not Path(base).is_dir() and has_owner(adapter.base or "")
    if not is_named and not (adapter.record.get("base_fingerprint") and own):
        return [found]
    raise ArtifactError(found, hint=hint)


def notes_on_copies(adapters: Sequence[Adapter]) -> list[str]:
    """Return notes on adapters that were trained on another copy of an earlier one's base model."""
    return [
        f"{adapter.path} was trained on {adapter.base}, and {one.path} on {one.base}; by their "
        "names, one is a copy of the other, so they count as one base model"
        for one, adapter in first_pairs(adapters, _are_of_copies)
    ]


def notes_on_revisions(adapters: Sequence[Adapter]) -> list[str]:
    """Return notes on adapters trained on another revision of an earlier one's base model.

    The base models' names are equal, but their weights may differ: the revisions of some
    repositories are checkpoints of a training. Fingerprints, if both are known, were compared.
    """
    return [
        f"{adapter.path} was trained on revision {adapter.revision or _MAIN} of its base model, "
        f"and {one.path} on revision {one.revision or _MAIN}; if the weights of the two "
        "differ, they are different base models"
        for one, adapter in first_pairs(adapters, _are_of_revisions)
    ]


def first_pairs(
    adapters: Sequence[Adapter], is_odd: Callable[[Adapter, Adapter], bool]
) -> list[tuple[Adapter, Adapter]]:
    """Return every adapter that does not fit an earlier one, after the first of those."""
    odd = [
        [one for one in adapters[:at] if is_odd(one, other)] for at, other in enumerate(adapters)
    ]
    return [(ones[0], other) for ones, other in zip(odd, adapters, strict=True) if ones]


def _are_of_copies(one: Adapter, other: Adapter) -> bool:
    return bool(one.base and other.base) and is_copy(str(one.base), str(other.base))


def _are_of_revisions(one: Adapter, other: Adapter) -> bool:
    """Whether the base models of two adapters may be different revisions of one model."""
    prints = one.record.get("base_fingerprint"), other.record.get("base_fingerprint")
    if all(prints) or not (one.base and other.base):
        return False
    return _may_differ(_revision_of(one), _revision_of(other))


def notes_on_revision(
    adapters: Mapping[str, Adapter], base: str, revision: str | None
) -> list[str]:
    """Return notes on adapters that were trained on another revision of the model that is used.

    Args:
        adapters: Adapters by name. Those with the fingerprint of their base model are left out,
            because ``notes_on_base`` compares it.
        base: Name of the base model that they are used on.
        revision: Its revision in the settings. A folder that is no snapshot has none.
    """
    commit = commit_of_snapshot(base)
    if Path(base).is_dir() and commit is None:
        return []
    own = (commit, None) if commit else _stated(revision)
    return [
        f"{name} was trained on revision {adapter.revision or _MAIN} of its base model, and is "
        f"used on revision {own[0] or _MAIN}; if the weights of the two differ, they are different "
        f"base models (to use the adapter's: --revision {adapter.revision or _MAIN})"
        for name, adapter in adapters.items()
        if adapter.base
        and is_one_base(adapter.base, base)
        and not is_copy(adapter.base, base)
        and not adapter.record.get("base_fingerprint")
        and _may_differ(_revision_of(adapter), own)
    ]


def notes_on_stated_revisions(adapters: Sequence[Adapter], base: str) -> list[str]:
    """Return notes on adapters that were trained on a certain revision of the model in ``base``.

    A snapshot in the Hub's cache has a revision. Those of other folders are not known.
    """
    own = (commit_of_snapshot(base), None)
    return [
        f"{adapter.path} was trained on revision {stated} of {adapter.base}; if the weights of "
        f"{base} are those of another revision, they are different base models"
        for adapter in adapters
        if (stated := adapter.config.get("revision")) not in (None, "", _MAIN)
        and not adapter.record.get("base_fingerprint")
        and _may_differ((stated, stated), own)
    ]


_Revision = tuple[str | None, str | None]  # what is known, and what was stated


def _revision_of(adapter: Adapter) -> _Revision:
    return adapter.revision, adapter.config.get("revision")


def _stated(revision: str | None) -> _Revision:
    return (None if revision == _MAIN else revision), revision


def _may_differ(one: _Revision, other: _Revision) -> bool:
    """Whether two revisions of a model are not known to be the same.

    A snapshot's commit may be what ``main`` meant at that time, so it does not differ from it.
    """
    short, long = sorted([one[0] or "", other[0] or ""], key=len)
    if not short:  # one has no revision, so main is meant
        return bool(long) and long in (one[1], other[1])
    return short != long and not (_COMMIT.fullmatch(short) and long.startswith(short))


def check_shapes(module: str, adapters: Sequence[Adapter], specs: Sequence[UpdateSpec]) -> None:
    """Check that the updates of one module have the same shape.

    Raises:
        ArtifactError: The shapes differ.
    """
    shapes = {(spec.out_features, spec.in_features) for spec in specs}
    if len(shapes) > 1:
        sizes = " and ".join(f"{rows} x {columns}" for rows, columns in sorted(shapes))
        names = ", ".join(str(adapter.path) for adapter in adapters)
        raise ArtifactError(
            f"{module} has different shapes, {sizes}, in the adapters {names}",
            hint="they belong to different base models",
        )


def share_a_base(one: Adapter, other: Adapter) -> bool | None:
    """Whether two adapters have the same base model, by fingerprint or else by name.

    The result is True if neither is known for both, and None if both have names that do not allow a
    conclusion.
    """
    prints = one.record.get("base_fingerprint"), other.record.get("base_fingerprint")
    if all(prints):
        return bool(prints[0] == prints[1])
    return not (one.base and other.base) or is_one_base(one.base, other.base)


def check_common_names(adapters: Sequence[Adapter]) -> None:
    """Check that ``with_common_names`` knows how the names of all adapters belong together.

    Raises:
        ArtifactError: It does not (``check_prefixes``).
    """
    for one, other in combinations(adapters, 2):
        check_prefixes(one.modules, other.modules, (str(one.path), str(other.path)))


def with_common_names(adapters: Sequence[Adapter]) -> list[Adapter]:
    """Rename the modules of all adapters so that modules known to be the same have one name.

    The module ``layers.0.mlp.up_proj`` of an adapter trained on the bare decoder is
    ``model.layers.0.mlp.up_proj`` with the LM head, and
    ``model.language_model.layers.0.mlp.up_proj`` with a vision tower.
    """
    renamings = common_names([[*a.factors, *a.saved] for a in adapters])
    return [_renamed(a, rename) for a, rename in zip(adapters, renamings, strict=True)]


def with_names_of(adapter: Adapter, shapes: Mapping[str, tuple[int, ...]]) -> Adapter:
    """Rename the modules of an adapter to the base model's names.

    Args:
        adapter: The adapter.
        shapes: Shapes of the base model's weights, by name in its files or in memory.
    """
    known = {core(name): name for name in shapes}
    prefixes = {c.partition(".")[0]: name.removesuffix(c) for c, name in known.items()}

    def rename(name: str) -> str:
        for end in ("", ".weight"):
            for place in renamed_cores(name + end):
                if found := known.get(place):
                    return found.removesuffix(end)
        if name in adapter.factors and (adapter.factors[name].experts > 1 or is_expert(name)):
            return prefixes.get(core(name).partition(".")[0], "") + core(name)
        return name

    return _renamed(adapter, rename)


def check_names(adapters: Sequence[Adapter]) -> None:
    """Check that every adapter has blocks in common with earlier ones, and all the same layers.

    Raises:
        ArtifactError: One has not (``check_names_meet``, ``check_fusion``, ``check_part_names``).
    """
    for at, other in enumerate(adapters[1:], start=1):
        earlier = adapters[:at]
        modules = [module for adapter in earlier for module in adapter.modules]
        names = " and ".join(str(adapter.path) for adapter in earlier)
        check_names_meet(modules, other.modules, (names, str(other.path)))
        for one in earlier:
            paths = str(one.path), str(other.path)
            check_fusion(one.modules, other.modules, paths)
            check_part_names(one.modules, other.modules, paths)


def _renamed(adapter: Adapter, rename: Callable[[str], str]) -> Adapter:
    names = {module: rename(module) for module in adapter.factors}
    saved = {rename(name): tensor for name, tensor in adapter.saved.items()}
    own: dict[str, str] = {}
    for old in (*adapter.factors, *adapter.saved):
        if (first := own.setdefault(rename(old), old)) != old:
            raise ArtifactError(
                f"{adapter.path}: '{first}' and '{old}' are two names of one module",
                hint="rename or remove one of them; its tensors have the names of two versions",
            )
    if all(old == new for old, new in names.items()) and saved == adapter.saved:
        return adapter
    return replace(
        adapter,
        factors={names[module]: tensors for module, tensors in adapter.factors.items()},
        saved=saved,
        own_names={new: adapter.own_names.get(old, old) for old, new in names.items()},
    )
