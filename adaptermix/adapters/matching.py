"""Whether adapters fit one another and a base model."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from adaptermix.adapters.adapter import Adapter
from adaptermix.adapters.format import UpdateSpec, layer_of
from adaptermix.errors import ArtifactError

_INPUT_EMBEDDINGS = re.compile(r"(.*\.)?(embed_tokens|wte)\.weight")


def check_fits(adapter: Adapter, shapes: Mapping[str, tuple[int, ...]], base: str) -> None:
    """Check that every update has its linear layer in the base model, with the right shape.

    Without this, a wrong key prefix makes an adapter a silent no-op in some engines.

    Args:
        adapter: The adapter.
        shapes: Shapes of the base model's weights by tensor name.
        base: Name of the base model, for the message.

    Raises:
        ArtifactError: Naming the first module that does not fit.
    """
    for module in adapter.modules:
        spec = adapter.spec(module)
        shape = (spec.out_features, spec.in_features)
        expected = shapes.get(f"{module}.weight") or _tied_head(module, shapes)
        if spec.is_embedding or adapter.config.get("fan_in_fan_out"):  # stored the other way
            shape = shape[::-1]
        if expected is None:
            raise ArtifactError(f"{adapter.path}: {base} has no linear layer '{module}'")
        if shape != expected:
            raise ArtifactError(
                f"{adapter.path}: {module} is {shape[0]} x {shape[1]}, but {base} has "
                f"{' x '.join(map(str, expected))}",
                hint="the adapter was trained on another base model",
            )


def _tied_head(module: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...] | None:
    """Return the shape of an LM head that no file has, for it is the input embeddings."""
    if module != "lm_head":
        return None
    inputs = (shape for name, shape in shapes.items() if _INPUT_EMBEDDINGS.fullmatch(name))
    return next(inputs, None)


def notes_on_base(adapters: Mapping[str, Adapter], base: str, own: str) -> list[str]:
    """Say which adapters were trained on another base of the same shapes, where their record tells.

    Args:
        adapters: By their names.
        base: Name of the base model they are used on.
        own: Its fingerprint.
    """
    return [
        f"{name} was trained on {adapter.base}, whose weights are not those of {base}"
        for name, adapter in adapters.items()
        if adapter.is_of_other_base(own)
    ]


def check_shapes(module: str, adapters: Sequence[Adapter], specs: Sequence[UpdateSpec]) -> None:
    """Check that the updates of one module have one shape.

    Raises:
        ArtifactError: They have not.
    """
    shapes = {(spec.out_features, spec.in_features) for spec in specs}
    if len(shapes) > 1:
        sizes = " and ".join(f"{rows} x {columns}" for rows, columns in sorted(shapes))
        names = ", ".join(str(adapter.path) for adapter in adapters)
        raise ArtifactError(
            f"{module} is {sizes} in the adapters {names}",
            hint="they belong to different base models",
        )


def share_a_base(one: Adapter, other: Adapter) -> bool:
    """Tell by fingerprint, or else by name; True where neither is known of both."""
    prints = one.record.get("base_fingerprint"), other.record.get("base_fingerprint")
    if all(prints):
        return bool(prints[0] == prints[1])
    names = one.base, other.base
    return not all(names) or _model_name(names[0]) == _model_name(names[1])


def _model_name(name: str | None) -> str:
    """Compare hub names whole and local paths by their folder, wherever it was mounted."""
    path = Path(name or "")
    return path.name if path.is_absolute() or len(path.parts) != 2 else str(path)


def with_common_names(adapters: Sequence[Adapter]) -> list[Adapter]:
    """Give all adapters the longest prefix of module names that one of them has.

    An adapter trained on the bare decoder names ``layers.0.mlp.up_proj`` what one trained with
    the LM head names ``model.layers.0.mlp.up_proj``.
    """
    prefixes = [_prefixes(adapter.modules) for adapter in adapters]
    if any(len(found) != 1 for found in prefixes):
        return list(adapters)
    own = [found.pop() for found in prefixes]
    longest = max(own, key=len)
    if not all(longest.endswith(prefix) for prefix in own):
        return list(adapters)
    return [
        adapter if prefix == longest else _renamed(adapter, longest.removesuffix(prefix))
        for adapter, prefix in zip(adapters, own, strict=True)
    ]


def _prefixes(modules: Sequence[str]) -> set[str]:
    """Return what stands before the decoder blocks: ``model.`` in ``model.layers.0.mlp``."""
    layers = ((module, layer_of(module)) for module in modules)
    blocks = {f".{m}".partition(f".{at}.")[0] for m, at in layers if at is not None}
    prefixes = (block.rpartition(".")[0] for block in blocks)  # .model of .model.layers
    return {f"{prefix}.".lstrip(".") for prefix in prefixes}


def _renamed(adapter: Adapter, prefix: str) -> Adapter:
    return replace(
        adapter,
        factors={prefix + module: tensors for module, tensors in adapter.factors.items()},
        saved={prefix + name: tensor for name, tensor in adapter.saved.items()},
        head=prefix + adapter.head,
    )
