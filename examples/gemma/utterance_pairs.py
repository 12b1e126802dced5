"""Pair MASSIVE's utterances with their English originals, as text for alignment.

    python examples/gemma/utterance_pairs.py MASSIVE OUT LANG...

MASSIVE translates the same utterances into every language, so its text is parallel. Alignment on it
uses the same kind of sentences as the task: an upper bound for alignment on other text. Only the
training split is read. OUT gets LANG-en.tsv for each language, and LANG.txt and en.txt with one
utterance per line, for `train-align --preserve-text`.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

from adaptermix.tasks.massive import read_massive


def main() -> None:
    """Write the files of each language."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("massive", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("langs", nargs="+")
    given = parser.parse_args()
    given.out.mkdir(parents=True)
    english = utterances(given.massive, "en")
    write(given.out / "en.txt", english.values())
    for lang in given.langs:
        texts = utterances(given.massive, lang)
        write(given.out / f"{lang}.txt", texts.values())
        pairs = [f"{text}\t{english[key]}" for key, text in texts.items() if key in english]
        write(given.out / f"{lang}-en.tsv", pairs)
        print(f"{lang}: {len(pairs)} pairs")


def utterances(massive: Path, lang: str) -> dict[str, str]:
    """Return the utterances of the training split by ID; IDs are the same in all languages."""
    return {row.id: " ".join(row.utterance.split()) for row in read_massive(lang, "train", massive)}


def write(path: Path, texts: Iterable[str]) -> None:
    """Write one text per line."""
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")


if __name__ == "__main__":
    main()
