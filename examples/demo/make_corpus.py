"""Make a small parallel voice-assistant corpus in eight languages.

The sentences come from the patterns and values in ``voice_grammar.py``. Nothing is
downloaded, and the same seed always gives the same files.

Usage:
    python examples/demo/make_corpus.py OUT_DIR [--seed 1]

Files in OUT_DIR:
    massive/{locale}.jsonl: rows in the format of Amazon MASSIVE, parallel by id.
    pairs/{xx}-en.tsv: translation pairs whose sentences are in no MASSIVE row.
    raw/{xx}.txt: unlabelled text, sampled independently for each language.
    raw/{xx}-en.tsv: more translation pairs, sampled independently for each language.

No utterance of the dev or test partition occurs in train, pairs or raw.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from voice_grammar import LANGUAGES, LOCALES, OPENERS, PATTERNS, VALUES

PARTITION_SIZES = {"train": 1200, "dev": 150, "test": 250}
NO_SLOT_ROWS = {"train": 8, "dev": 12, "test": 20}
PAIRS = 400
RAW_SENTENCES = 30_000
RAW_PAIRS = 3_000
OPENER_SHARE = 0.3
MAX_IDLE_ROUNDS = 200
SLOT = re.compile(r"\{(\w+)\}")
MARKED = re.compile(r"\[\w+ : ([^\]]+)\]")
FOREIGN = tuple(language for language in LANGUAGES if language != "en")


@dataclass(frozen=True)
class Cell:
    """One value of a slot in one language.

    Attributes:
        before: Words before the slot, such as an article or a preposition.
        value: The words in the slot.
        after: Words after the slot.
    """

    before: str
    value: str
    after: str


@dataclass(frozen=True)
class Content:
    """The content of a sentence, independent of its language.

    Attributes:
        pattern: Index of the pattern.
        opener: Index of the opening words, or -1 for none.
        concepts: The pattern's slot types, each with the index of its value.
    """

    pattern: int
    opener: int
    concepts: tuple[tuple[str, int], ...]


Accept = Callable[[Content], bool]


def parse_table(text: str) -> list[dict[str, str]]:
    """Parse a table of columns separated by ``|``.

    Args:
        text: One row per line, one column per language.

    Returns:
        One dictionary per row, from language to cell text.

    Raises:
        SystemExit: A row has too few or too many columns.
    """
    rows = []
    for line in text.strip().splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) != len(LANGUAGES):
            raise SystemExit(f"not {len(LANGUAGES)} columns: {line}")
        filled = [cells[0] if cell == "=" else cell for cell in cells]
        rows.append(dict(zip(LANGUAGES, filled, strict=True)))
    return rows


def parse_cell(text: str) -> Cell:
    """Parse one cell of a value table.

    Args:
        text: A value, or a value in angle brackets with words around it.

    Returns:
        The parts of the cell.

    Raises:
        SystemExit: The value is not one to four words of plain text.
    """
    if "<" in text:
        before, rest = text.split("<")
        value, after = rest.split(">")
    else:
        before, value, after = "", text, ""
    if not 1 <= len(value.split()) <= 4 or set(value) & set("[]:;"):
        raise SystemExit(f"not a usable slot value: {text}")
    return Cell(before.strip(), value, after.strip())


OPENER_ROWS = parse_table(OPENERS)
CONCEPTS: dict[str, list[dict[str, Cell]]] = {
    slot: [
        {language: parse_cell(text) for language, text in row.items()} for row in parse_table(table)
    ]
    for slot, table in VALUES.items()
}


def slots_of(pattern: dict[str, str]) -> list[str]:
    """List the slot types of a pattern in the order of its English sentence."""
    return SLOT.findall(pattern["en"])


def render(content: Content, language: str) -> tuple[str, str]:
    """Write a sentence in one language.

    Args:
        content: The sentence.
        language: A code of ``LANGUAGES``.

    Returns:
        The plain utterance and the utterance with its slots marked.
    """
    concepts = dict(content.concepts)

    def words(match: re.Match[str], marked: bool) -> str:
        slot = match.group(1)
        cell = CONCEPTS[slot][concepts[slot]][language]
        value = f"[{slot} : {cell.value}]" if marked else cell.value
        return " ".join(part for part in (cell.before, value, cell.after) if part)

    text = PATTERNS[content.pattern][language]
    if content.opener >= 0:
        text = f"{OPENER_ROWS[content.opener][language]} {text}"
    plain = SLOT.sub(lambda match: words(match, False), text)
    return plain, SLOT.sub(lambda match: words(match, True), text)


def utterance(content: Content, language: str) -> str:
    """Write the plain utterance of a sentence in one language."""
    return render(content, language)[0]


def patterns_for(partition: str, with_slots: bool) -> list[int]:
    """List the patterns that may be used in a partition.

    Args:
        partition: Name of a MASSIVE partition.
        with_slots: Whether to list the patterns with slots or those without.

    Returns:
        Indices of ``PATTERNS``.
    """
    return [
        index
        for index, pattern in enumerate(PATTERNS)
        if bool(slots_of(pattern)) == with_slots and pattern.get("split", partition) == partition
    ]


def draw(rng: random.Random, pattern: int) -> Content:
    """Draw the opener and the slot values of a pattern at random."""
    opener = rng.randrange(len(OPENER_ROWS)) if rng.random() < OPENER_SHARE else -1
    concepts = tuple(
        (slot, rng.randrange(len(CONCEPTS[slot]))) for slot in slots_of(PATTERNS[pattern])
    )
    return Content(pattern, opener, concepts)


def sample(
    rng: random.Random, patterns: list[int], count: int, accept: Accept
) -> Iterator[Content]:
    """Draw sentences so that all patterns occur about equally often.

    Args:
        rng: Source of randomness.
        patterns: Indices of the patterns to draw from.
        count: Number of sentences to draw.
        accept: Returns whether a sentence may be used, and remembers accepted ones.

    Yields:
        The accepted sentences.

    Raises:
        SystemExit: The patterns do not yield enough sentences.
    """
    idle = done = 0
    while done < count:
        before = done
        for pattern in rng.sample(patterns, len(patterns)):
            content = draw(rng, pattern)
            if done < count and accept(content):
                done += 1
                yield content
        idle = 0 if done > before else idle + 1
        if idle > MAX_IDLE_ROUNDS:
            raise SystemExit(f"only {done} of {count} sentences could be drawn")


def accept_new(used: dict[str, set[str]]) -> Accept:
    """Create a filter that accepts a sentence only if it is new in every language.

    Args:
        used: Used utterances by language; accepted ones are added.

    Returns:
        The filter for ``sample``.
    """

    def accept(content: Content) -> bool:
        sentences = {language: utterance(content, language) for language in used}
        if any(text in used[language] for language, text in sentences.items()):
            return False
        for language, text in sentences.items():
            used[language].add(text)
        return True

    return accept


def sample_massive(rng: random.Random, accept: Accept) -> dict[str, list[Content]]:
    """Draw the sentences of the MASSIVE partitions.

    Args:
        rng: Source of randomness.
        accept: Filter for ``sample``.

    Returns:
        The sentences of each partition, in train, dev, test order.
    """
    parts = {}
    for partition, size in PARTITION_SIZES.items():
        bare = NO_SLOT_ROWS[partition]
        contents = list(sample(rng, patterns_for(partition, False), bare, accept))
        contents += sample(rng, patterns_for(partition, True), size - bare, accept)
        rng.shuffle(contents)
        parts[partition] = contents
    return parts


def massive_rows(parts: dict[str, list[Content]], language: str) -> Iterator[dict[str, str]]:
    """Write the MASSIVE rows of one language.

    Args:
        parts: The sentences of each partition.
        language: A code of ``LANGUAGES``.

    Yields:
        One row per sentence, with ids counted from 0 over all partitions.
    """
    flat = [(name, content) for name, contents in parts.items() for content in contents]
    for number, (partition, content) in enumerate(flat):
        pattern = PATTERNS[content.pattern]
        utt, annot_utt = render(content, language)
        yield {
            "id": str(number),
            "locale": LOCALES[language],
            "partition": partition,
            "scenario": pattern["scenario"],
            "intent": pattern["intent"],
            "utt": utt,
            "annot_utt": annot_utt,
        }


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines of UTF-8 text; create the folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def pair_lines(contents: Iterable[Content], language: str) -> list[str]:
    """Return sentences of a language with their English translations, tab-separated."""
    return [f"{utterance(content, language)}\t{utterance(content, 'en')}" for content in contents]


def write_massive(out: Path, parts: dict[str, list[Content]]) -> None:
    """Write the MASSIVE files of all languages."""
    for language in LANGUAGES:
        rows = massive_rows(parts, language)
        lines = (json.dumps(row, ensure_ascii=False) for row in rows)
        write_lines(out / "massive" / f"{LOCALES[language]}.jsonl", lines)


def write_raw(out: Path, seed: int, barred: dict[str, set[str]]) -> None:
    """Write the raw text and the raw translation pairs of all languages.

    Args:
        out: Folder of the corpus.
        seed: Seed of the whole corpus; each file has its own random stream.
        barred: Utterances by language that must not occur.
    """
    patterns = patterns_for("train", True) + patterns_for("train", False)
    for language in LANGUAGES:
        rng = random.Random(f"{seed} raw {language}")
        accept = accept_new({language: set(barred[language])})
        contents = sample(rng, patterns, RAW_SENTENCES, accept)
        texts = [utterance(content, language) for content in contents]
        rng.shuffle(texts)
        write_lines(out / "raw" / f"{language}.txt", texts)
    for language in FOREIGN:
        rng = random.Random(f"{seed} raw pairs {language}")
        accept = accept_new({name: set(barred[name]) for name in (language, "en")})
        contents = list(sample(rng, patterns, RAW_PAIRS, accept))
        rng.shuffle(contents)
        write_lines(out / "raw" / f"{language}-en.tsv", pair_lines(contents, language))


def read_lines(path: Path) -> list[str]:
    """Read the lines of a UTF-8 text file."""
    return path.read_text(encoding="utf-8").splitlines()


def read_pairs(path: Path, language: str) -> dict[str, list[str]]:
    """Read a file of translation pairs as one list of sentences per language."""
    sides = zip(*(line.split("\t") for line in read_lines(path)), strict=True)
    return dict(zip((language, "en"), map(list, sides), strict=True))


def require(condition: bool, problem: str) -> None:
    """Exit with a message if a condition does not hold."""
    if not condition:
        raise SystemExit(f"the corpus is not sound: {problem}")


def check_massive(out: Path, language: str) -> dict[str, list[str]]:
    """Check the MASSIVE file of a language.

    Args:
        out: Folder of the corpus.
        language: A code of ``LANGUAGES``.

    Returns:
        The utterances of each partition.
    """
    path = out / "massive" / f"{LOCALES[language]}.jsonl"
    parts: dict[str, list[str]] = {name: [] for name in PARTITION_SIZES}
    for row in map(json.loads, read_lines(path)):
        parts[row["partition"]].append(row["utt"])
        require(MARKED.sub(r"\1", row["annot_utt"]) == row["utt"], f"mark-up of {row}")
    for name, size in PARTITION_SIZES.items():
        require(len(set(parts[name])) == len(parts[name]) == size, f"size of {name} in {path}")
    require(not set(parts["dev"]) & set(parts["test"]), f"dev and test overlap in {path}")
    return parts


def check(out: Path) -> None:
    """Read the corpus back, and check its sizes and that partitions do not overlap.

    Args:
        out: Folder of the corpus.

    Raises:
        SystemExit: A check fails.
    """
    massive = {language: check_massive(out, language) for language in LANGUAGES}
    open_text = {language: set(massive[language]["train"]) for language in LANGUAGES}
    for language in FOREIGN:
        pairs = read_pairs(out / "pairs" / f"{language}-en.tsv", language)
        raw_pairs = read_pairs(out / "raw" / f"{language}-en.tsv", language)
        for name in (language, "en"):
            require(len(set(pairs[name])) == PAIRS, f"size of the pairs of {language}")
            require(len(set(raw_pairs[name])) == RAW_PAIRS, f"size of the raw pairs of {language}")
            require(not set(pairs[name]) & set(massive[name]["train"]), f"pairs of {language}")
            require(not set(pairs[name]) & set(raw_pairs[name]), f"raw pairs of {language}")
            open_text[name].update(pairs[name], raw_pairs[name])
    for language in LANGUAGES:
        raw = read_lines(out / "raw" / f"{language}.txt")
        require(len(set(raw)) == len(raw) == RAW_SENTENCES, f"size of the raw text of {language}")
        open_text[language].update(raw)
        held_out = set(massive[language]["dev"]) | set(massive[language]["test"])
        require(not held_out & open_text[language], f"held-out sentences leak in {language}")


def make_corpus(out: Path, seed: int) -> None:
    """Create and check the corpus.

    Args:
        out: Folder to write to.
        seed: Seed of all random choices.
    """
    rng = random.Random(f"{seed} massive")
    used: dict[str, set[str]] = {language: set() for language in LANGUAGES}
    parts = sample_massive(rng, accept_new(used))
    pairs = list(sample(rng, patterns_for("train", True), PAIRS, accept_new(used)))
    write_massive(out, parts)
    for language in FOREIGN:
        write_lines(out / "pairs" / f"{language}-en.tsv", pair_lines(pairs, language))
    held_out = parts["dev"] + parts["test"] + pairs
    barred = {name: {utterance(item, name) for item in held_out} for name in LANGUAGES}
    write_raw(out, seed, barred)
    check(out)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Make a small parallel voice-assistant corpus.")
    parser.add_argument("out", type=Path, metavar="OUT_DIR", help="folder to write to")
    parser.add_argument("--seed", type=int, default=1, help="seed of all random choices")
    args = parser.parse_args()
    make_corpus(args.out, args.seed)
    rows = sum(PARTITION_SIZES.values())
    print(
        f"wrote {len(LANGUAGES)} languages to {args.out}: "
        f"{rows} labelled rows, {PAIRS} pairs and {RAW_SENTENCES} raw sentences each"
    )


if __name__ == "__main__":
    main()
