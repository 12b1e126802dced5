"""Names of languages and pairs for ``data get``: from users' spelling to the sources' own."""

from collections.abc import Sequence

from adaptermix.data.languages import THREE_LETTERS, flores_code, language_code, split_pair
from adaptermix.errors import ConfigError, DataError
from adaptermix.sources.source import Source
from adaptermix.tasks.massive import massive_locale


def names_of(source: Source, langs: Sequence[str], pairs: Sequence[str]) -> tuple[str, ...]:
    """Return the requested languages or pairs by the source's own names, or its default.

    Raises:
        ConfigError: Languages are given for a source of pairs, or the reverse.
        DataError: The source does not have a language or pair.
    """
    wanted, other = (langs, "pairs") if source.by == "langs" else (pairs, "langs")
    if (pairs, langs)[source.by == "pairs"]:
        raise ConfigError(
            f"--{other}: select parts of {source.name} with --{source.by}",
            hint=f"for example --{source.by} {','.join(source.default[:2])}",
        )
    names = tuple(dict.fromkeys(_name(source, name) for name in wanted))
    return names or source.default


def _name(source: Source, name: str) -> str:
    if source.by == "pairs":
        first, second = split_pair(name)
        if name not in source.known and f"{second}-{first}" in source.known:
            name = f"{second}-{first}"
    elif source.name == "massive":
        return massive_locale(name)
    elif source.name == "flores":
        return _flores_name(name)
    elif source.name == "uner":
        name = language_code(name)
    if source.known == ("all",) and name != "all":
        raise DataError(f"{source.name} is not split by language", hint="remove --langs")
    if source.known and name not in source.known:
        raise DataError(f"{source.name} has no '{name}'", hint="it has " + " ".join(source.known))
    return name


def _flores_name(lang: str) -> str:
    """Return FLORES-200's code of a language, with a wildcard if the script is unknown."""
    code = flores_code(THREE_LETTERS.get(lang, lang))
    if "_" in code:
        return code
    if len(code) != 3 or not code.isalpha():
        raise DataError(f"flores has no '{lang}'", hint="write languages as cy, cym or cym_Latn")
    return f"{code}_*"
