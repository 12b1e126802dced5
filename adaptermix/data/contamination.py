"""Find sentences of FLORES-200 in training data: ALMA's files contain all of them."""

from pathlib import Path

from adaptermix.data.alma import read_alma
from adaptermix.files.text import numbered_lines

_SPLITS = ("dev", "devtest")


def flores_in_training(alma: Path, flores: Path) -> dict[str, tuple[int, int]]:
    """Count English sentences of FLORES-200 in each of ALMA's training files.

    Returns:
        By file, the number of distinct sentences of FLORES-200 in it, and its number of rows.

    Raises:
        DataError: A file is malformed.
    """
    files = [flores / f"eng_Latn.{split}" for split in _SPLITS]
    sentences = {
        line.strip() for path in files if path.is_file() for _, line in numbered_lines(path)
    }
    if not sentences or not alma.is_dir():
        return {}
    found = {}
    for path in sorted([*alma.glob("*-en.train.json"), *alma.glob("*-en.train.json.gz")]):
        other = path.name.partition("-")[0]
        texts = [sides[1].strip() for _, sides in read_alma(path, other, "en")]
        found[str(path)] = (len(sentences & {*texts}), len(texts))
    return found
