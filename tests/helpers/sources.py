"""Small archives of the true format of public data, and small sources that are pinned to them."""

import io
import json
import tarfile
import zipfile
from collections.abc import Mapping


def tar_gz(files: Mapping[str, str | bytes]) -> bytes:
    """Return a compressed tar archive of files with their folders."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def zipped(files: Mapping[str, str]) -> bytes:
    """Return a zip archive of files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tatoeba_zip(pair: str, rows: list[tuple[str, str]]) -> bytes:
    """Return what OPUS has of a pair, whose codes are in alphabetical order."""
    first, second = pair.split("-")
    return zipped(
        {
            "README": "Tatoeba",
            "LICENSE": "CC BY 2.0 FR",
            f"Tatoeba.{pair}.{first}": "".join(f"{row[0]}\n" for row in rows),
            f"Tatoeba.{pair}.{second}": "".join(f"{row[1]}\n" for row in rows),
        }
    )


def massive_tar(locales: tuple[str, ...]) -> bytes:
    """Return what the archive of MASSIVE 1.1 looks like, with a row of each part."""
    rows = {
        locale: "".join(
            json.dumps(
                {
                    "id": str(at),
                    "locale": locale,
                    "partition": part,
                    "utt": "wake me at five",
                    "annot_utt": "wake me at [time : five]",
                }
            )
            + "\n"
            for at, part in enumerate(("train", "dev", "test"))
        )
        for locale in locales
    }
    files = {f"1.1/data/{locale}.jsonl": text for locale, text in rows.items()}
    return tar_gz({"1.1/LICENSE": "CC BY 4.0", "1.1/CITATION.md": "cite"} | files)


def flores_tar(codes: tuple[str, ...], lines: int = 3) -> bytes:
    """Return what the archive of FLORES-200 looks like."""
    return tar_gz(
        {
            f"./flores200_dataset/{split}/{code}.{split}": "".join(
                f"{code} {split} {line}\n" for line in range(lines)
            )
            for code in codes
            for split in ("dev", "devtest")
        }
        | {"./flores200_dataset/README": "FLORES-200"}
    )
