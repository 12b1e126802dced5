import gzip
import json

import pyarrow
import pytest
from pyarrow import parquet

from adaptermix.data.multiway import read_multiway
from adaptermix.errors import DataError


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def flores(tmp_path):
    """FLORES-200 as it is unpacked: one folder for each split."""
    for split in ("dev", "devtest"):
        for lang in ("eng_Latn", "cym_Latn", "bul_Cyrl"):
            lines = "".join(f"{lang} {split} {number}\n" for number in range(3))
            write(tmp_path / "flores200_dataset" / split, **{f"{lang}__{split}": lines})
    return tmp_path


@pytest.mark.parametrize(
    "langs", [("en", "cy", "bg"), ("eng_Latn", "cym_Latn", "bul_Cyrl"), ("eng", "cym", "bul")]
)
def test_short_and_flores_codes_find_the_same_files(flores, langs):
    texts = read_multiway(langs, "devtest", flores)
    assert [text[2] for text in texts.values()] == [
        f"{code} devtest 2" for code in ("eng_Latn", "cym_Latn", "bul_Cyrl")
    ]
    assert tuple(texts) == langs


def test_other_text_is_found_by_its_stem_and_with_gzip(tmp_path):
    write(tmp_path, en__txt="hello\nbye\n", tlh__dev="nuqneH\nQapla'\n")
    (tmp_path / "cy.txt.gz").write_bytes(gzip.compress(b"helo\nhwyl\n"))
    texts = read_multiway(("eng_Latn", "tlh", "cy"), "dev", tmp_path)
    assert texts == {
        "eng_Latn": ["hello", "bye"],
        "tlh": ["nuqneH", "Qapla'"],
        "cy": ["helo", "hwyl"],
    }


def flores_plus(folder, lang, form):
    """The three forms that FLORES+ was published in."""
    rows = [{"id": number, "text": f"{lang} {number}"} for number in range(3)]
    if form == "text":
        write(folder / "dev", **{f"dev__{lang}": "".join(row["text"] + "\n" for row in rows)})
    elif form == "lines":
        text = "".join(json.dumps(row) + "\n" for row in rows)
        write(folder / "dev", **{f"{lang}__jsonl": text})
        write(folder / "devtest", **{f"{lang}__jsonl": text})
    else:
        (folder / "dev").mkdir(exist_ok=True, parents=True)
        parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "dev" / f"{lang}.parquet")


@pytest.mark.parametrize("lang", ["zh", "zho_Hans", "cmn_Hans"])
def test_languages_that_flores_plus_calls_otherwise_are_found(tmp_path, lang):
    for code in ("cmn_Hans", "fil_Latn"):
        flores_plus(tmp_path, code, "lines")
    texts = read_multiway((lang, "tl"), "dev", tmp_path)
    assert texts == {
        lang: [f"cmn_Hans {n}" for n in range(3)],
        "tl": [f"fil_Latn {n}" for n in range(3)],
    }


@pytest.mark.parametrize("form", ["text", "lines", "table"])
@pytest.mark.parametrize("below", ["", "dev", ".."])
def test_flores_plus_is_found_in_its_forms(tmp_path, form, below):
    root = tmp_path / "floresp"
    for lang in ("eng_Latn", "cym_Latn"):
        flores_plus(root, lang, form)
    folder = (root / below).resolve()
    texts = read_multiway(("en", "cym"), "dev", folder)
    assert texts == {
        lang: [f"{code} {number}" for number in range(3)]
        for lang, code in (("en", "eng_Latn"), ("cym", "cym_Latn"))
    }
    with pytest.raises(DataError, match="no dev text in 'xx'") as caught:
        read_multiway(("en", "xx"), "dev", folder)
    if below != "dev" or form == "text":
        assert caught.value.hint == "it has cym_Latn eng_Latn"


@pytest.mark.parametrize(("lang", "plus"), [("et", "ekk_Latn"), ("zho_Hant", "cmn_Hant")])
def test_every_language_of_flores_plus_is_found(tmp_path, lang, plus):
    for code in (plus, "eng_Latn"):
        flores_plus(tmp_path, code, "lines")
    assert read_multiway((lang, "en"), "dev", tmp_path)[lang][0] == f"{plus} 0"


def test_sentences_have_no_space_around_them(tmp_path):
    write(tmp_path, en__txt="\t one \ntwo\n", cy__txt="un\n  dau\n")
    texts = read_multiway(("en", "cy"), "dev", tmp_path)
    assert texts == {"en": ["one", "two"], "cy": ["un", "dau"]}


def test_rows_without_text_are_named(tmp_path):
    write(tmp_path / "dev", en__jsonl='{"text": "a"}\n{"sentence": "b"}\n')
    with pytest.raises(DataError, match=r"en\.jsonl:2: 'text' is missing"):
        read_multiway(("en",), "dev", tmp_path)


def test_only_newlines_end_a_line(tmp_path):
    write(tmp_path, en__txt="one\u2028still one\ntwo\x0b\n", cy__txt="\ufeffun\r\ndau\r\n")
    texts = read_multiway(("en", "cy"), "dev", tmp_path)
    assert texts == {"en": ["one\u2028still one", "two\x0b"], "cy": ["un", "dau"]}


@pytest.mark.parametrize(
    ("files", "langs", "words"),
    [
        ({}, ("en", "xx"), "no dev text in 'xx'"),
        ({}, ("en", "eng_Latn"), "'en' and 'eng_Latn' both name the file "),
        ({"de__dev": "ein\nzwei\n"}, ("en", "de"), "en.dev:3: en.dev has 3 lines, but"),
        ({"de__dev": "1\n2\n3\n4\n5\n"}, ("en", "de"), "de.dev:4: de.dev has 5 lines, but"),
        ({"de__dev": "ein\n \t\ndrei\n"}, ("en", "de"), "de.dev:2: the line is empty"),
        ({"de__dev": ""}, ("en", "de"), "de.dev: the file is empty"),
        ({"deu_Latn__dev": "a\nb\nc\n", "de__dev": "a\nb\nc\n"}, ("en", "de"), "several files"),
        (
            {"urd_Arab__dev": "a\n", "zho_Hans__dev": "a\n"},
            ("ur", "zh"),
            "needs more than one sentence",
        ),
    ],
)
def test_mistakes_are_named_with_file_and_line(tmp_path, files, langs, words):
    write(tmp_path, en__dev="one\ntwo\nthree\n", **files)
    with pytest.raises(DataError) as caught:
        read_multiway(langs, "dev", tmp_path)
    assert words in caught.value.message


def test_an_unknown_language_is_told_what_is_there(flores):
    with pytest.raises(DataError, match="no devtest text in 'klingon'") as caught:
        read_multiway(("en", "klingon"), "devtest", flores)
    assert caught.value.hint == "it has bul_Cyrl cym_Latn eng_Latn"


def test_a_folder_without_the_split_or_no_folder(flores, tmp_path):
    with pytest.raises(DataError, match="no test text in 'en'") as caught:
        read_multiway(("en", "cy"), "test", flores)
    assert caught.value.hint == "it has dev and devtest text: --split dev"
    write(tmp_path / "empty", readme__md="nothing")
    with pytest.raises(DataError) as caught:
        read_multiway(("en", "cy"), "test", tmp_path / "empty")
    assert caught.value.hint == "files are named LANG.test or LANG.txt"
    with pytest.raises(DataError, match="no such folder"):
        read_multiway(("en", "cy"), "dev", tmp_path / "nowhere")
