"""Which parallel sentences are fit to align."""

import random
import time
import tracemalloc

import pytest
from helpers.corpus import SHARED, write_corpus
from helpers.training import align_settings
from hypothesis import given
from hypothesis import strategies as st

from adaptermix.commands.examples import of_pairs
from adaptermix.data.languages import is_in_wrong_script
from adaptermix.data.pairs import PairPlace, has_several_sentences, read_clean_pairs
from adaptermix.data.sampling import resample
from adaptermix.errors import ConfigError, DataError
from adaptermix.models.loading import load_tokenizer
from adaptermix.training.align import align_data, train_align


@pytest.mark.parametrize(
    "text",
    [
        "Hello. How are you?",
        "Stop! Who goes there?",
        'He said "No." Then he left.',
        "¿Dónde? ¡Aquí!",
        "今日は。元気ですか。",
        "ما اسمك؟ اسمي علي",
        "मैं जाता हूँ। तुम आओ।",
        "Привет. Как дела?",
    ],
)
def test_several_sentences(text):
    assert has_several_sentences(text)


@pytest.mark.parametrize(
    "text",
    [
        "Hello.",
        "Mr. Smith met Dr. Jones.",
        "J. S. Bach lived here.",
        "It costs 3.50 euros.",
        "Well... Tom left.",
        '"Really?" he asked.',
        "今日は元気ですか。",
        "「はい。」と言った。",
        "e.g. Tom",
        "¿Dónde está?",
        "",
    ],
)
def test_one_sentence(text):
    assert not has_several_sentences(text)


@pytest.mark.parametrize("text", [f"Name: {'.' * 20_000}", "x" * 100_000, ".a" * 50_000])
def test_a_long_line_of_dots_or_without_spaces_takes_no_time(text):
    start = time.process_time()
    assert not has_several_sentences(text)
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    ("text", "lang", "expected"),
    [
        ("Добрый день", "ru", False),
        ("Dobry den", "ru", True),
        ("Dobar dan", "sr", False),
        ("Добар дан", "sr", False),
        ("ꦱꦸꦒꦼꦁ ꦫꦮꦸꦃ", "jv", False),
        ("Sugeng rawuh", "jv", False),
        ("Добрый день", "jv", True),
        ("今日は", "ja", False),
        ("ラーメン", "ja", False),
        ("Konnichiwa", "ja", True),
        ("ABCを買った", "ja", False),  # a name among them
        ("12:30!", "ru", False),
        ("Dobry den", "xx", False),
        ("namaste", "hi-Latn", False),
        ("नमस्ते", "hi_latn", True),
        ("Салам", "az-Cyrl", False),
        ("Salam", "aze_Cyrl", True),
        ("Dobar dan", "srp_Cyrl", True),
        ("你好", "zh-TW", False),
        ("nihao", "zho_Hant", True),
        ("안녕", "ko-Kore", False),
        ("namaste", "hi-Qaaa", False),
        ("Ünïcödé", "de", False),
        ("ＡＢＣ", "en", False),
    ],
)
def test_scripts(text, lang, expected):
    assert is_in_wrong_script(text, lang) is expected


# "Water" in a language of each script of the paper's languages.
WATER = {
    "am": "ውሃ", "ar": "مــاء", "bn": "জল", "el": "νερό", "en": "water", "he": "מים", "hi": "पानी",
    "hy": "ջուր", "ja": "ウォーター", "ka": "წყალი", "km": "ទឹក", "kn": "ನೀರು", "ko": "물",
    "ru": "вода", "th": "น้ำ", "zh": "水",
}  # fmt: skip


@pytest.mark.parametrize("lang", WATER)
def test_every_script_is_told_from_the_others(lang):
    """Han letters are in place in Japanese and Korean too."""
    fits = {other for other in WATER if not is_in_wrong_script(WATER[other], lang)}
    assert fits == {lang} | ({"zh"} if lang in ("ja", "ko") else set())


ROWS = [
    "deffra fi\twake me",
    "\tempty",
    "Tom\ttom",
    "Helo. Sut mae?\tHello. How are you?",
    "доброе утро\tgood morning",
    "nos da\tgood night",
]


def clean(folder, **changes):
    options = {"several_sentences": False, "check_script": True} | changes
    found = read_clean_pairs("cy-en", PairPlace(folder), **options)
    return list(found.kept), found.dropped


def test_what_is_dropped_is_counted(tmp_path):
    (tmp_path / "cy-en.tsv").write_text("\n".join(ROWS) + "\n", encoding="utf-8")
    kept, dropped = clean(tmp_path)
    assert [(row.source, row.location) for row in kept] == [
        ("deffra fi", "cy-en.tsv:1"),
        ("nos da", "cy-en.tsv:6"),
    ]
    counts = {"empty side": 1, "identical sides": 1, "several sentences": 1, "wrong script": 1}
    assert dropped == counts
    assert len(clean(tmp_path, several_sentences=True)[0]) == 3
    assert len(clean(tmp_path, check_script=False)[0]) == 3


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("", "empty side"),
        ("Bore da. Sut mae?", "several sentences"),
        ("доброе утро", "wrong script"),
    ],
)
def test_a_fault_on_either_side_drops_a_pair(tmp_path, fault, reason):
    """Never the fault of both sides at once, and always of the pair as a whole."""
    (tmp_path / "cy-en.tsv").write_text(f"{fault}\thello\nhelo\t{fault}\nda\tgood\n")
    kept, dropped = clean(tmp_path)
    assert [row.source for row in kept] == ["da"]
    assert dropped == {reason: 2}


@pytest.mark.parametrize("limit", [16, 30, 60])
def test_a_limit_is_the_number_of_pairs_of_each_language(model_dir, corpus_dir, limit):
    settings = align_settings(model_dir, corpus_dir, "x", pairs=("cy-en", "sw-en"), limit=limit)
    data = align_data(settings, load_tokenizer(model_dir, settings))
    for pair in settings.pairs:
        assert data.examples[pair] + data.dev_examples[pair] == limit


def test_nothing_is_read_beyond_the_limit(tmp_path, model_dir):
    """Neither pairs nor, from the Hub, files: the line after the last pair is malformed."""
    lines = [f"bore da {n}\tgood morning {n}\n" for n in range(20)]
    lines[3] = "hir iawn " * 40 + "\tvery long\n"
    (tmp_path / "cy-en.tsv").write_text("".join(lines) + "one column\n")
    settings = align_settings(model_dir, tmp_path, "x", limit=19, max_length=60)
    data = align_data(settings, load_tokenizer(model_dir, settings))
    assert (len(data.train) + len(data.dev), data.dropped) == (19, {"cy-en": {"too long": 1}})
    assert of_pairs(settings) == {"cy-en": 19}
    settings = settings.model_copy(update={"limit": 9})
    with pytest.raises(ConfigError, match="--limit 9 is less than one contrastive batch of 16"):
        align_data(settings, load_tokenizer(model_dir, settings))


def test_reasons_and_lengths_are_in_the_report(tmp_path, model_dir):
    corpus = write_corpus(tmp_path / "corpus")
    with (corpus / "pairs" / "cy-en.tsv").open("a") as file:
        file.write("Tom\tTom\n" + "hir iawn " * 40 + "\tvery long\n")
    settings = align_settings(model_dir, corpus, tmp_path / "a", max_length=60)
    report = train_align(settings, dry_run=True)
    assert report.dropped == {"cy-en": {"identical sides": 1, "too long": 1}}
    assert report.examples["cy-en"] + report.dev_examples["cy-en"] == 120


def test_too_few_pairs_name_the_file_and_the_reasons(tmp_path, model_dir):
    (tmp_path / "cy-en.tsv").write_text("\n".join(ROWS) + "\n", encoding="utf-8")
    settings = align_settings(model_dir, tmp_path, tmp_path / "a")
    with pytest.raises(DataError, match=r"cy-en.tsv: cy-en has 2 .*batch of 16 \(dropped 1 for: e"):
        train_align(settings)


def test_one_column_names_the_line(tmp_path, model_dir):
    (tmp_path / "cy-en.tsv").write_text("a\tb\nc\n")
    with pytest.raises(DataError, match=r"cy-en.tsv:2: 1 tab-separated columns instead of 2"):
        train_align(align_settings(model_dir, tmp_path, tmp_path / "a"))


def test_one_seed_decides_everything(tmp_path, model_dir, corpus_dir):
    tokenizer = load_tokenizer(model_dir, align_settings(model_dir, corpus_dir, tmp_path / "a"))
    streams = [
        align_data(
            align_settings(
                model_dir, corpus_dir, tmp_path / "a", seed=seed, pairs=("cy-en", "sw-en")
            ),
            tokenizer,
        )
        for seed in (1, 1, 2)
    ]
    assert streams[0] == streams[1]
    assert streams[0].train != streams[2].train
    assert streams[0].dev != streams[2].dev
    held = {row.name for row in streams[0].dev}
    assert not held & {row.name for row in streams[0].train}


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=5),
    st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    st.integers(0, 5),
)
def test_resampling_gives_sizes_to_a_power(sizes, exponent, seed):
    groups = [[(which, n) for n in range(size)] for which, size in enumerate(sizes)]
    rows = resample(groups, exponent, random.Random(seed))
    for which, size in enumerate(sizes):
        own = [row for row in rows if row[0] == which]
        assert len(own) == round(max(sizes) * (size / max(sizes)) ** exponent)
        counts = [own.count(row) for row in groups[which]]
        assert min(counts) >= 1
        assert max(counts) - min(counts) <= 1


@pytest.mark.skipif(not SHARED.is_dir(), reason="no folder of real data beside the checkout")
@pytest.mark.parametrize("pair", ["cy-en", "ar-en"])
def test_most_of_tatoeba_is_kept(pair):
    found = read_clean_pairs(
        pair,
        PairPlace(SHARED / "data" / "tatoeba_challenge"),
        several_sentences=False,
        check_script=True,
    )
    kept = sum(1 for _ in found.kept)
    assert 0.8 < kept / (kept + sum(found.dropped.values())) < 1


@pytest.mark.slow
def test_many_pairs_take_little_memory(tmp_path, model_dir):
    """Their texts are let go as they are read, and token ids lie in arrays."""
    words = "the cat sits on a mat and looks at the big red house".split()
    rng = random.Random(0)

    def peak(pairs):
        folder = tmp_path / str(pairs)
        folder.mkdir()
        with (folder / "cy-en.tsv").open("w") as file:
            for _ in range(pairs):
                file.write(f"{' '.join(rng.choices(words, k=10))}\t{rng.random()} is it\n")
        settings = align_settings(model_dir, folder, tmp_path / "a")
        tokenizer = load_tokenizer(model_dir, settings)
        tracemalloc.start()
        align_data(settings, tokenizer)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(2000)  # what is imported late and cached
    grown = (peak(8000) - peak(4000)) / 4000
    assert grown < 700
