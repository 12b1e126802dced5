"""Names of languages and pairs: what is understood, and what is named where one is not."""

import json

import pytest
from helpers.corpus import write_corpus

from adaptermix.data.languages import (
    FLORES_CODES,
    LANGUAGE_NAMES,
    THREE_LETTERS,
    flores_code,
    hint_of_language,
    is_in_wrong_script,
    is_one_language,
    known_code,
    language_code,
    sides_of,
    split_pair,
    target_of,
)
from adaptermix.data.multiway import read_multiway
from adaptermix.data.pair_tables import open_pairs
from adaptermix.data.pairs import PairPlace, read_clean_pairs, read_pairs
from adaptermix.errors import DataError
from adaptermix.settings.shared import ScorerSettings
from adaptermix.tasks.catalog import make_task
from adaptermix.tasks.massive import massive_locale, read_massive
from adaptermix.tasks.translation import Translation
from adaptermix.tasks.uner import read_uner

WELSH = ("cy", "cym", "wel", "Welsh", "welsh", "cym_Latn", "cy-Latn", "CY")


@pytest.mark.parametrize("lang", WELSH)
def test_all_names_of_a_language_are_one(lang):
    assert language_code(lang) == "cy"
    assert flores_code(lang) == "cym_Latn"
    assert massive_locale(lang) == "cy-GB"


@pytest.mark.parametrize(
    ("lang", "locale"),
    [
        ("zh-Hans", "zh-CN"),
        ("zho_Hans", "zh-CN"),
        ("Chinese", "zh-CN"),
        ("zh-Hant", "zh-TW"),
        ("zho_Hant", "zh-TW"),
        ("zh_TW", "zh-TW"),
        ("fas", "fa-IR"),
        ("pes_Arab", "fa-IR"),
        ("lav", "lv-LV"),
        ("Norwegian Bokmål", "nb-NO"),
        ("Norwegian_Bokmål", "nb-NO"),
        ("swa", "sw-KE"),
        ("jw", "jv-ID"),
    ],
)
def test_locales_are_found_by_other_codes_scripts_and_names(lang, locale):
    assert massive_locale(lang) == locale


def test_a_language_in_another_script_is_another():
    assert flores_code("cy-en") == "cy-en"
    for lang in ("zh-TW", "zho_Hant", "zh-tw", "zh_tw", "zh-hant", "zh_hant"):
        assert flores_code(lang) == "zho_Hant"
    codes = [flores_code(lang) for lang in ("sr-Latn", "zh-cn", "pt-br")]
    assert codes == ["srp_Latn", "zho_Hans", "por_Latn"]
    codes = [flores_code(lang) for lang in ("zh-Hant-TW", "uz-Latn-UZ", "ca-vale1252")]
    assert codes == ["zho_Hant", "uzn_Latn", "ca-vale1252"]
    assert is_in_wrong_script("hello there", "Russian")
    assert not is_in_wrong_script("привет", "rus_Cyrl")


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("zh-TW", "zho_Hant", True),
        ("zh-TW", "zh_tw", True),
        ("zh-Hant-TW", "zh-Hant", True),
        ("zh-Hant-TW", "zh-Hant-HK", False),
        ("zh-TW", "zh_cn", False),
        ("zh-Hant", "zh", False),
        ("zh", "zho_Hans", True),
        ("sr", "srp_Latn", False),
        ("pt-BR", "por_Latn", True),
        ("pt-BR", "pt-PT", False),
        ("es-419", "es-ES", False),
        ("en-HK", "eng_Latn", True),
        ("uz-Cyrl", "uzn_Latn", False),
        ("uz-Cyrl", "uz", True),
        ("nb", "Norwegian_Bokmål", True),
        ("xx", "xx", True),
        ("xx", "xx-XX", False),
    ],
)
def test_scripts_and_regions_tell_languages_apart(one, other, expected):
    assert is_one_language(one, other) is is_one_language(other, one) is expected


def test_every_known_language_has_one_code_by_all_its_names():
    for code, name in LANGUAGE_NAMES.items():
        assert language_code(code) == language_code(name) == code
    for code, letters in {**THREE_LETTERS, **FLORES_CODES}.items():
        assert known_code(letters) in (code, "nb", "no")


@pytest.mark.parametrize(
    ("lang", "hint"),
    [
        ("Welch", "did you mean cy-GB? it has af-ZA"),
        ("jp", "did you mean ja-JP? it has"),
        ("pt-BR", "did you mean pt-PT? it has"),
        ("pt-br", "did you mean pt-PT? it has"),
        ("cz", "it has af-ZA"),
        ("xx", "it has af-ZA"),
    ],
)
def test_an_unknown_language_of_massive_names_the_nearest(lang, hint):
    with pytest.raises(DataError, match=f"MASSIVE has no language '{lang}'") as raised:
        massive_locale(lang)
    assert raised.value.hint.startswith(hint)


@pytest.mark.parametrize(
    ("pair", "sides"),
    [
        ("cy-en", ("cy", "en")),
        ("zh-Hans-en", ("zh-Hans", "en")),
        ("en-zh-Hans", ("en", "zh-Hans")),
        ("pt-BR-en-US", ("pt-BR", "en-US")),
        ("zh-tw-en", ("zh-tw", "en")),
        ("en-zh-hant", ("en", "zh-hant")),
        ("fr-ca", ("fr", "ca")),
        ("en-tw", ("en", "tw")),
        ("en-jp", ("en", "jp")),
        ("EN-PT-BR", ("EN", "PT-BR")),
        ("zh-hant-tw-en", ("zh-hant-tw", "en")),
        ("en-sr-Latn-RS", ("en", "sr-Latn-RS")),
        ("cym_Latn-eng_Latn", ("cym_Latn", "eng_Latn")),
        ("Welsh-English", ("Welsh", "English")),
    ],
)
def test_pairs_are_split_between_languages(pair, sides):
    assert split_pair(pair) == sides
    assert target_of(pair) == sides[1]


@pytest.mark.parametrize(
    "pair", ["cy", "cy-", "-en", "cy-cy", "cy-en-de", "zh-TW", "en-US", "../a-b", "cy-en/x"]
)
def test_what_is_no_pair_is_refused(pair):
    with pytest.raises(DataError, match="is not a language pair"):
        split_pair(pair)


def test_a_language_with_its_region_is_its_own_target():
    simple = ("zh-TW", "zh-Hans", "cy", "zh-tw", "ja-jp", "en-us", "pt-br", "ZH-TW", "sr-latn")
    long = ("zh-Hant-TW", "zh-Hans-CN", "zh-hant-tw", "sr-Latn-RS", "de-CH-1996", "es-419")
    for lang in (*simple, *long):
        assert target_of(lang) == lang
        assert sides_of(lang) == ()
    assert target_of("EN-DE") == "DE"


@pytest.mark.parametrize(
    ("wanted", "hint"),
    [
        ("cs-en", "it has cy-en en-zh"),
        ("cn-en", "did you mean en-zh? it has cy-en en-zh"),
        ("Welch-en", "did you mean cy-en? it has cy-en en-zh"),
    ],
)
def test_a_pair_that_is_not_there_names_the_nearest_and_what_is(tmp_path, wanted, hint):
    (tmp_path / "cy-en.tsv").write_text("a\tb\n")
    (tmp_path / "News.en-zh.en").write_text("a\n")
    (tmp_path / "cy-GB.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=f"no parallel text {wanted}") as raised:
        read_pairs(wanted, tmp_path)
    assert raised.value.hint == hint


@pytest.mark.parametrize(
    "pair", ["cym-eng", "Welsh-English", "cym_Latn-eng_Latn", "cy-Latn-en", "en-cym"]
)
def test_pairs_are_found_by_other_names(tmp_path, pair):
    (tmp_path / "cy-en.tsv").write_text("helo\thello\n")
    (found,) = read_pairs(pair, tmp_path)
    turned = pair == "en-cym"
    assert (found.source, found.target) == (("hello", "helo") if turned else ("helo", "hello"))
    assert found.pair == pair


def test_pairs_as_they_are_written_come_first(tmp_path):
    for name in ("cy-en", "cym-en"):
        (tmp_path / f"{name}.tsv").write_text(f"{name}\thello\n")
    assert read_pairs("cym-en", tmp_path)[0].source == "cym-en"


def test_pairs_of_flores_are_found_by_other_names(tmp_path):
    for lang in ("cym_Latn", "eng_Latn"):
        (tmp_path / f"{lang}.dev").write_text(f"{lang}\n")
    (found,) = read_pairs("Welsh-eng", tmp_path)
    assert (found.source, found.target) == ("cym_Latn", "eng_Latn")


@pytest.mark.parametrize(
    ("pair", "read"),
    [
        ("zho_Hant-eng_Latn", "zho_Hant"),
        ("zh-Hant-en", "zho_Hant"),
        ("zh-TW-en", "zho_Hant"),
        ("en-zh", "zho_Hans"),
        ("srp_Latn-en", "srp_Latn"),
        ("sr-en", "srp_Cyrl"),
    ],
)
def test_pairs_are_in_the_script_that_is_asked_for(tmp_path, pair, read):
    codes = ("zho_Hans", "zho_Hant", "srp_Cyrl", "srp_Latn", "eng_Latn")
    for code in codes:
        (tmp_path / f"{code}.dev").write_text(f"{code}\n")
    (found,) = read_pairs(pair, tmp_path)
    assert {found.source, found.target} == {read, "eng_Latn"}
    (tmp_path / f"{read}.dev").unlink()
    with pytest.raises(DataError, match="no parallel text|no such file next to"):
        read_pairs(pair, tmp_path)
    (tmp_path / "table.csv").write_text(f"{','.join(codes)}\n{','.join(codes)}\n")
    (found,) = read_pairs(pair, tmp_path / "table.csv")
    assert {found.source, found.target} == {read, "eng_Latn"}


@pytest.mark.parametrize(
    ("langs", "expected"),
    [(("zh", "en"), True), (("en", "zh-CN"), True), (("zh-TW", "en"), False)],
)
def test_a_table_named_after_another_script_is_of_another_pair(tmp_path, langs, expected):
    (tmp_path / "en-zh_cn.csv").write_text("source,target\na,b\n")
    rows = open_pairs(tmp_path / "en-zh_cn.csv", langs, {}, lambda progress: None)
    assert rows.names_languages is expected


def test_a_corpus_of_both_scripts_is_not_downloaded_for_one(monkeypatch):
    monkeypatch.setattr("adaptermix.data.pairs.get", None)
    with pytest.raises(DataError, match="Tatoeba, .* has no separate file for 'zh-TW'") as raised:
        read_pairs("en-zh-TW", None)
    assert raised.value.hint.endswith("or write en-zh for all scripts")


def test_the_script_is_checked_under_every_name(tmp_path):
    (tmp_path / "ru-en.tsv").write_text("привет всем\thello\nhello there\thello\n")
    options = {"several_sentences": False, "check_script": True}
    cleaned = read_clean_pairs("Russian-English", PairPlace(tmp_path), **options)
    assert [pair.source for pair in cleaned.kept] == ["привет всем"]


def test_massive_is_read_by_other_names_and_says_what_is_there(tmp_path):
    folder = write_corpus(tmp_path / "corpus")
    (example, *_) = read_massive("Welsh", "test", folder)
    assert (example.lang, example.locale) == ("Welsh", "cy-GB")
    with pytest.raises(DataError, match="no MASSIVE fr-FR") as raised:
        read_massive("fr", "test", folder)
    assert raised.value.hint.startswith("it has cy-GB ")


def test_translation_is_read_by_other_names(tmp_path):
    (tmp_path / "cy-en.src").write_text("helo\n")
    (tmp_path / "cy-en.ref").write_text("hello\n")
    rows = [{"translation": {"zh": "你好", "en": "hello"}}] * 3
    (tmp_path / "zh-en.train.json").write_text("\n".join(map(json.dumps, rows)))
    task = Translation(options=ScorerSettings())
    (example,) = task.read("Welsh-eng", "test", tmp_path)
    assert (example.lang, example.references) == ("Welsh-eng", ("hello",))
    assert "from Welsh to English." in task.messages(example)[0]["content"]
    chinese = task.read("en-zh-Hans", "train", tmp_path)[0]
    assert (chinese.lang, chinese.references) == ("en-zh-Hans", ("你好",))
    assert "from English to mandarin Chinese." in task.messages(chinese)[0]["content"]
    assert task.outcome(chinese, "你好").lang == "zh-Hans"
    with pytest.raises(DataError, match="no cz-en|unknown language 'cz'") as raised:
        task.read("cz-en", "test", tmp_path)
    assert raised.value.hint.startswith("did you mean cs? use one of af ")
    for split in ("train", "test"):
        with pytest.raises(DataError, match="no en-zh-TW"):
            task.read("en-zh-TW", split, tmp_path)
    with pytest.raises(DataError, match="no de-en source sentences") as raised:
        task.read("de-en", "test", tmp_path)
    assert raised.value.hint == "it has cy-en"


def test_other_tasks_say_what_is_there(tmp_path):
    (tmp_path / "da_ddt-ud-test.iob2").write_text("# text = a\n1\ta\tO\n")
    assert read_uner("Danish", "test", tmp_path)[0].lang == "Danish"
    with pytest.raises(DataError, match="no UNER sv test") as raised:
        read_uner("sv", "test", tmp_path)
    assert raised.value.hint == "it has da"
    (tmp_path / "own.toml").write_text(
        'name = "own"\nprompt = "{q}"\nanswer = "a"\nmetrics = ["exact-match"]\n\n[files]\n'
        'test = "data/{lang}.test.jsonl"\n'
    )
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cy.test.jsonl").write_text('{"q": "a", "a": "b"}\n')
    task = make_task(str(tmp_path / "own.toml"), options=ScorerSettings())
    assert len(task.read("cy", "test", None)) == 1
    with pytest.raises(DataError, match="no such file") as raised:
        task.read("Welsh", "test", None)
    assert raised.value.hint == "did you mean cy? there are files for cy"


def test_parallel_text_is_found_by_other_names(tmp_path):
    for lang in ("cym_Latn", "eng_Latn", "zho_Hans", "zho_Hant", "fin_Latn"):
        (tmp_path / f"{lang}.dev").write_text(f"{lang}\n" * 2)
    wanted = ("Welsh", "en", "zh-Hans", "zh-TW", "Finnish")
    texts = read_multiway(wanted, "dev", tmp_path)
    assert [text[0] for text in texts.values()] == [
        *("cym_Latn", "eng_Latn", "zho_Hans", "zho_Hant", "fin_Latn"),
    ]
    with pytest.raises(DataError, match="no dev text in 'fi-Cyrl'"):
        read_multiway(("fi-Cyrl", "en"), "dev", tmp_path)
    with pytest.raises(DataError, match="no dev text in 'Welch'") as raised:
        read_multiway(("Welch", "en"), "dev", tmp_path)
    assert raised.value.hint.startswith("did you mean cym_Latn? it has cym_Latn eng_Latn")


def test_nothing_near_is_named_where_nothing_is():
    assert hint_of_language("xx", ["cy", "en"]) == "it has cy en"
    assert hint_of_language("welsch", ["cy", "en"]) == "did you mean cy? it has cy en"
