import csv
import gzip
import json
import subprocess
import sys
from itertools import pairwise

import pytest
from helpers.comet import fake_python
from helpers.corpus import SHARED
from typer.testing import CliRunner

from adaptermix.cli.main import program
from adaptermix.errors import AdaptermixError, ConfigError, DataError, ResourceError
from adaptermix.evaluation.score import OUTPUT_FIELDS, score_files
from adaptermix.settings.evaluation import ScoreSettings
from adaptermix.tasks.massive import massive_locale
from adaptermix.tasks.slots import render_answer, slots_of

app = program()

DATA = SHARED / "data"
HAS_DATA = pytest.mark.skipif(not DATA.is_dir(), reason="the real data is not on this machine")
ROWS = [
    ("wake me up at five am", "wake me up at [time : five am]"),
    ("play jazz", "play [music_genre : jazz]"),
    ("hello", "hello"),
]
NASTY = "time: five am; date: a\tb\r\nc \"d\" 'e' \0 \u202e \u2028 \x85 \ud83d"


@pytest.fixture
def massive(tmp_path):
    """A folder with a gold file of three test rows."""
    lines = [
        {"id": str(10 + at), "locale": "en-US", "partition": "test", "utt": u, "annot_utt": a}
        for at, (u, a) in enumerate(ROWS)
    ]
    write(tmp_path / "gold.jsonl", map(json.dumps, lines))
    return tmp_path


def write(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def score(folder, lines, name="answers.txt", **settings):
    given = {"task": "massive", "lang": "en", "gold": folder / "gold.jsonl"} | settings
    return score_files(ScoreSettings(**given, predictions=write(folder / name, lines)))


def test_gold_answers_score_one(massive):
    report = score(massive, [render_answer(slots_of(a)) for _, a in ROWS])
    assert report.metrics["slot_f1"].value == 1
    assert report.counts == {
        "examples": 3,
        "malformed": 0,
        "malformed_parts": 0,
        "correct": 2,
        "predicted": 2,
        "expected": 2,
    }


def test_options_without_effect_are_told(massive, tmp_path):
    gold = [render_answer(slots_of(a)) for _, a in ROWS]
    report = score(massive, gold, match="offsets", target_lang="de")
    told = ["--match has no effect on slot_f1 of massive"]
    assert report.notes == [*told, "--target-lang has no effect with --task massive"]
    files = {"ref": (write(tmp_path / "r.txt", ["a b"]),), "metrics": ("chrf",)}
    files |= {"predictions": write(tmp_path / "o.txt", ["a b"]), "split": "dev"}
    settings = ScoreSettings(task="wmt23", target_lang="de", tokenize="zh", scorer="paper", **files)
    assert score_files(settings).notes == [
        "--scorer has no effect on chrf of wmt23",
        "--tokenize has no effect on chrf of wmt23",
        "--split has no effect with --task wmt23",
    ]


def test_accents_in_another_normalization_are_told(massive):
    row = json.loads((massive / "gold.jsonl").read_text().splitlines()[0])
    row |= {"utt": "caf\u00e9", "annot_utt": "[place_name : caf\u00e9]"}
    gold = write(massive / "accent.jsonl", [json.dumps(row)])
    report = score(massive, ["place_name: cafe\u0301"], gold=gold)
    assert report.metrics["slot_f1"].value == 0
    assert "1 answer of answers.txt would have more correct values" in report.notes[0]
    assert score(massive, ["place_name: caf\u00e9"], gold=gold).notes == []
    assert score(massive, ["place_name: cafe"], gold=gold).notes == []


def test_the_two_scorers_differ_as_documented(massive):
    """A value that is nowhere in the utterance costs nothing with the paper's scorer."""
    lines = ["time: five am; place_name: zzz", "music_genre: jazz", "None"]
    assert score(massive, lines).metrics["slot_f1"].value == pytest.approx(4 / 5)
    assert score(massive, lines, scorer="paper").metrics["slot_f1"].value == 1


@pytest.mark.parametrize("field", OUTPUT_FIELDS)
def test_records_hold_the_output_in_any_of_the_fields(massive, field):
    lines = [json.dumps({field: render_answer(slots_of(a))}) for _, a in ROWS]
    assert score(massive, lines, "answers.jsonl").metrics["slot_f1"].value == 1


def test_of_several_fields_the_first_of_the_list_is_the_output(massive):
    for one, other in pairwise(OUTPUT_FIELDS):
        lines = [json.dumps({other: "x: y", one: render_answer(slots_of(a))}) for _, a in ROWS]
        assert score(massive, lines, "answers.jsonl").metrics["slot_f1"].value == 1


@pytest.mark.parametrize("name", ["answers.jsonl.gz", "answers.txt.gz", "answers.json"])
def test_the_name_of_a_file_says_what_it_holds_compressed_or_not(massive, name):
    """A JSON string per line is the output in .jsonl, and a text with quotes in .txt."""
    answers = [render_answer(slots_of(a)) for _, a in ROWS]
    lines = answers if "txt" in name else map(json.dumps, answers)
    text = "".join(f"{line}\n" for line in lines).encode()
    (massive / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    settings = {"task": "massive", "lang": "en", "gold": massive / "gold.jsonl"}
    report = score_files(ScoreSettings(**settings, predictions=massive / name))
    assert report.metrics["slot_f1"].value == 1


def test_an_empty_line_is_an_empty_answer_and_a_zero_is_an_id(massive):
    report = score(massive, ["time: five am", "", "None"])
    assert (report.counts["correct"], report.counts["malformed"]) == (1, 1)
    gold = massive / "zero.jsonl"
    rows = [{"id": n, "locale": "en-US", "partition": "test", "utt": u, "annot_utt": a}
            for n, (u, a) in enumerate(ROWS)]  # fmt: skip
    write(gold, map(json.dumps, rows))
    answers = [{"id": n, "output": render_answer(slots_of(a))} for n, (_, a) in enumerate(ROWS)]
    lines = map(json.dumps, answers[::-1])
    assert score(massive, lines, "a.jsonl", gold=gold).metrics["slot_f1"].value == 1


def test_ids_that_the_gold_file_repeats_match_nothing(massive):
    gold = write(massive / "twice.jsonl", (massive / "gold.jsonl").read_text().splitlines() * 2)
    lines = [json.dumps({"id": "10", "output": "None"})] * 6
    with pytest.raises(DataError, match="the gold file has the id '10' twice"):
        score(massive, lines, "answers.jsonl", gold=gold)
    assert score(massive, ["None"] * 6, gold=gold).counts["examples"] == 6


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"utt": None}, "parquet:1: 'utt' and 'annot_utt' must be text"),
        ({"annot_utt": 3}, "parquet:1: 'utt' and 'annot_utt' must be text"),
        ({"locale": "de-DE"}, "contains de-DE, not en-US"),
        ({"annot_utt": "at [time : five am"}, "parquet:1: 'annot_utt' has a bracket that is not"),
        ({"annot_utt": "at time : five am]"}, "parquet:1: 'annot_utt' has a bracket that is not"),
    ],
)
def test_rows_of_parquet_are_checked_like_lines(massive, row, complaint):
    pyarrow, parquet = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))
    first = json.loads((massive / "gold.jsonl").read_text().splitlines()[0])
    parquet.write_table(pyarrow.Table.from_pylist([first | row]), massive / "gold.parquet")
    with pytest.raises(DataError, match=complaint):
        score(massive, ["None"], gold=massive / "gold.parquet")


def test_a_record_is_one_row_whatever_is_in_it(massive):
    answers = [NASTY, "music_genre: jazz", "None"]
    report = score(massive, map(json.dumps, answers), "answers.jsonl")
    assert (report.counts["correct"], report.counts["predicted"]) == (2, 3)


def test_records_with_ids_may_come_in_any_order(massive):
    answers = {"10": "time: five am", "11": "music_genre: jazz", "12": "None"}
    lines = [json.dumps({"id": id_, "output": answers[id_]}) for id_ in ("12", "10", "11")]
    assert score(massive, lines, "answers.jsonl").metrics["slot_f1"].value == 1


@pytest.mark.parametrize(
    ("lines", "name", "settings", "complaint"),
    [
        (["None"] * 2, "a.txt", {}, "a.txt: 2 outputs for 3 gold rows"),
        (["None"] * 4, "a.txt", {}, "a.txt: 4 outputs for 3 gold rows"),
        ([], "a.txt", {}, "the file is empty"),
        (['{"id": "9", "output": "x"}'] * 3, "a.jsonl", {}, "jsonl:1: the gold file has no id '9'"),
        (['{"id": 10, "output": "x"}'] * 3, "a.jsonl", {}, "jsonl:2: the id '10' occurs twice"),
        (
            ['{"id": 10, "output": "x"}', '{"output": "x"}', '"x"'],
            "a.jsonl",
            {},
            "jsonl:2: no 'id'",
        ),
        (['{"output": "x"}', "{}", "{}"], "a.jsonl", {}, "jsonl:2: no text field 'output'"),
        (['{"output": 1}'] * 3, "a.jsonl", {}, "jsonl:1: no text field 'output'"),
        (["None"] * 3, "a.jsonl", {}, "jsonl:1: not JSON"),
        (["None"] * 3, "a.txt", {"lang": "xx"}, "MASSIVE has no language 'xx'"),
        (["None"] * 3, "a.txt", {"lang": "de"}, "contains en-US, not de-DE"),
        (["None"] * 3, "a.txt", {"split": "dev"}, "no rows of the dev partition"),
        (["None"] * 3, "a.txt", {"task": "uner", "lang": "xx"}, "unknown language 'xx'"),
        (["None"] * 3, "a.txt", {"task": "uner"}, r"gold.jsonl:1: expected a token"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(massive, lines, name, settings, complaint):
    with pytest.raises(DataError, match=complaint):
        score(massive, lines, name, **settings)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"lang": None}, "--lang is missing"),
        ({"gold": None}, "--gold is missing"),
        ({"metrics": ("bleu",)}, "the task massive has no metric 'bleu'"),
        ({"task": "wmt23"}, "--target-lang is missing"),
        ({"task": "wmt23", "target_lang": "de"}, "--ref is missing"),
        (
            {
                "task": "wmt23",
                "target_lang": "de",
                "metrics": ("bleu", "comet"),
                "comet_python": "p",
            },
            "--src is missing",
        ),
    ],
)
def test_missing_flags_are_named(massive, settings, complaint):
    with pytest.raises(ConfigError, match=complaint):
        score(massive, ["None"] * 3, **settings)


def test_predictions_are_needed():
    with pytest.raises(AdaptermixError, match="missing"):
        score_files(ScoreSettings(task="massive", lang="en"))


def test_translations_are_scored_against_several_references(tmp_path):
    refs = (write(tmp_path / "a", ["the cat sat on a mat"]), write(tmp_path / "b", ["x y z u v w"]))
    out = write(tmp_path / "out", ["x y z u v w"])
    common = {"task": "wmt23", "target_lang": "de", "predictions": out}
    both = score_files(ScoreSettings(ref=refs, metrics=("bleu", "chrf"), **common))
    assert both.metrics["bleu"].value == pytest.approx(100)
    assert both.metrics["chrf"].value == pytest.approx(100)
    assert both.metrics["bleu"].signature.startswith("nrefs:2|case:mixed|eff:no|tok:13a|smooth:exp")
    first = score_files(ScoreSettings(ref=refs[:1], **common))
    assert first.metrics["bleu"].value == 0


def test_without_comet_the_other_metrics_are_still_given(tmp_path):
    """The cache folder is the test's own, and empty: COMET is not installed there."""
    for name in ("src", "ref", "out"):
        write(tmp_path / name, ["a small house", "it rains"])
    settings = ScoreSettings(
        task="wmt23",
        target_lang="de",
        src=tmp_path / "src",
        ref=(tmp_path / "ref",),
        predictions=tmp_path / "out",
        metrics=("bleu", "chrf", "comet"),
    )
    report = score_files(settings)
    assert list(report.metrics) == ["bleu", "chrf"]
    assert "adaptermix comet install" in report.notes[0]
    with pytest.raises(ResourceError, match="COMET is not installed"):
        score_files(settings.model_copy(update={"metrics": ("comet",)}))


def test_comet_scores_each_output_with_its_source_and_first_reference(tmp_path):
    """The scores here are the lengths of the three texts."""
    body = """
rows = json.loads(pathlib.Path(sys.argv[-2]).read_text())["systems"][0]
scores = [float("".join(str(len(row[side])) for side in ("src", "mt", "ref"))) for row in rows]
pathlib.Path(sys.argv[-1]).write_text(json.dumps({"scores": [scores]}))
"""
    (tmp_path / "metric" / "checkpoints").mkdir(parents=True)
    (tmp_path / "metric" / "checkpoints" / "model.ckpt").touch()
    (tmp_path / "metric" / "hparams.yaml").touch()
    sides = {"src": ["a", "bb"], "ref": ["ccccc", "d"], "other": ["x", "y"], "out": ["eee", "ffff"]}
    files = {name: write(tmp_path / name, lines) for name, lines in sides.items()}
    settings = ScoreSettings(
        **{"task": "wmt23", "target_lang": "de", "metrics": ("comet",), "src": files["src"]},
        **{"ref": (files["ref"], files["other"]), "predictions": files["out"]},
        comet_model=str(tmp_path / "metric"),
        comet_python=fake_python(tmp_path / "python", body),
    )
    comet = score_files(settings).metrics["comet"]
    assert comet.segments == (135.0, 241.0)
    assert (comet.value, comet.name) == (188.0, "comet")


def test_counts_are_those_of_every_metric(tmp_path):
    toml = 'name = "own"\nmetrics = ["bleu", "exact-match"]\nprompt = "{a}"\nanswer = "a"\n'
    (tmp_path / "own.toml").write_text(toml)
    write(tmp_path / "gold.jsonl", [json.dumps({"a": text}) for text in ("x", "y")])
    files = {"gold": tmp_path / "gold.jsonl", "predictions": write(tmp_path / "out", ["x", ""])}
    report = score_files(ScoreSettings(task=str(tmp_path / "own.toml"), lang="en", **files))
    counts = {"examples": 2, "malformed": 1, "malformed_parts": 1, "correct": 1, "total": 2}
    assert report.counts == counts


def test_entities_count_as_text_or_as_offsets(tmp_path):
    gold = tmp_path / "da.iob2"
    gold.write_text("# text = I Rom\n1\tI\tO\n2\tRom\tB-LOC\n", encoding="utf-8")
    answer = '"Results": [{"TypeName": "LOC", "Text": "Rom", "Start": 1, "End": 4}]'
    common = {"task": "uner", "lang": "da", "gold": gold}
    for name in ("answers.jsonl", "answers.txt"):  # an answer as it stands is no record
        common["predictions"] = write(tmp_path / name, [answer])
        assert score_files(ScoreSettings(**common)).metrics["entity_f1"].value == 1
        by_offsets = score_files(ScoreSettings(match="offsets", **common))
        assert by_offsets.metrics["entity_f1"].value == 0
    rows = [json.dumps({"id": "0", "output": json.loads(f"{{{answer}}}")})]
    common["predictions"] = write(tmp_path / "records.jsonl", rows)
    assert score_files(ScoreSettings(**common)).metrics["entity_f1"].value == 1
    common["predictions"] = write(tmp_path / "strings.jsonl", [json.dumps(f"Sure:\n{answer}")])
    assert score_files(ScoreSettings(**common)).metrics["entity_f1"].value == 1
    common["predictions"] = write(tmp_path / "empty.txt", [""])
    assert score_files(ScoreSettings(**common)).counts["malformed"] == 1


def test_entities_of_a_task_of_ones_own_are_read_like_those_of_uner(tmp_path):
    """As JSON, or as a text, in the gold rows and in the answers."""
    toml = 'name = "own"\nmetrics = ["entities"]\nprompt = "{a}"\nanswer = "b"\n'
    (tmp_path / "own.toml").write_text(toml)
    entities = [{"TypeName": "LOC", "Text": "Rom", "Start": 2, "End": 5}]
    for answer in (entities, json.dumps(entities)):
        gold = write(tmp_path / "gold.jsonl", [json.dumps({"a": "I Rom", "b": answer})])
        for line in (json.dumps(entities), json.dumps({"output": entities})):
            out = write(tmp_path / "out.jsonl", [line])
            settings = ScoreSettings(task=str(tmp_path / "own.toml"), gold=gold, predictions=out)
            assert score_files(settings).metrics["entity_f1"].value == 1


def test_malformed_answers_and_their_parts_are_counted_apart(massive):
    counts = score(massive, ["well; time: ; date: ", "music_genre: jazz", "None"]).counts
    assert (counts["malformed"], counts["malformed_parts"]) == (1, 3)


def test_the_command_prints_json_and_imports_no_torch(massive):
    write(massive / "answers.txt", [render_answer(slots_of(a)) for _, a in ROWS])
    code = (
        "import sys; from adaptermix.cli.main import program; app = program()\n"
        "try: app()\n"
        "finally: assert not {'torch', 'transformers', 'vllm'} & sys.modules.keys()"
    )
    flags = ["--task", "massive", "--lang", "en", "--gold", "gold.jsonl", "--split", "test"]
    flags += ["--predictions", "answers.txt", "--scorer", "paper", "--json"]
    run = subprocess.run(
        [sys.executable, "-c", code, "score", *flags],
        cwd=massive,
        capture_output=True,
        text=True,
        check=True,
    )
    record = json.loads(run.stdout)
    assert record["metrics"]["slot_f1"]["score"] == 1.0
    assert "scorer:paper" in record["metrics"]["slot_f1"]["signature"]
    assert record["counts"]["examples"] == 3


@pytest.mark.parametrize(
    ("flags", "code", "complaint"),
    [
        (["--lang", "en", "--predictions", "two.txt"], 4, "two.txt: 2 outputs for 3 gold rows"),
        (["--lang", "xx", "--predictions", "two.txt"], 4, "MASSIVE has no language 'xx'"),
        (["--lang", "en"], 3, "--predictions is missing"),
        (["--task", "nope"], 3, "--task: expected one of massive, wmt23, uner"),
        (["--scorer", "nope"], 3, "--scorer"),
        (["--nope"], 2, "--nope"),
    ],
)
def test_bad_input_is_one_line_and_an_exit_code(massive, flags, code, complaint):
    write(massive / "two.txt", ["None"] * 2)
    run = subprocess.run(
        [sys.executable, "-m", "adaptermix", "score", "--gold", "gold.jsonl", *flags],
        cwd=massive,
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stdout) == (code, "")
    assert complaint in run.stderr
    assert "Traceback" not in run.stderr


def test_the_view_has_every_score_and_count_in_its_unit(massive, tmp_path):
    """F1 in percent, BLEU and chrF as they are, and the counts of all metrics."""
    report = score(massive, ["well; time: ; date: ", "music_genre: jazz", "None"])
    (table, *_) = report.view().shown
    assert {str(name): str(value) for name, value in table.rows} == {
        "slot F1 (%)": "66.7",
        "malformed": "1 of 3",
        "malformed parts": "3",
        **{"examples": "3", "correct": "1", "predicted": "1", "expected": "2"},
    }
    segments = report.as_record()["metrics"]["slot_f1"]["segments"]
    assert segments == [0.0, 1.0, 1.0]
    for name in ("ref", "out"):
        write(tmp_path / name, ["a small house", "it rains"])
    files = {"ref": (tmp_path / "ref",), "predictions": tmp_path / "out"}
    texts = score_files(ScoreSettings(task="wmt23", target_lang="de", **files))
    (table, *signatures) = texts.view().shown
    rows = {str(name): str(value) for name, value in table.rows}
    assert (rows["chrF"], rows["examples"]) == ("100.0", "2")
    pair = score_files(ScoreSettings(task="wmt23", target_lang="de-zh", **files))
    assert "tok:zh" in pair.metrics["bleu"].signature
    assert signatures == [found.signature for found in texts.metrics.values()]


def test_a_task_of_ones_own_is_scored_in_the_language_named(tmp_path):
    """--target-lang sets BLEU's tokenizer, before --lang; the note on it is given."""
    toml = 'name = "own"\nmetrics = ["bleu"]\nprompt = "{a}"\nanswer = "b"\n'
    (tmp_path / "own.toml").write_text(toml)
    write(tmp_path / "gold.jsonl", [json.dumps({"a": "x", "b": "猫"})])
    files = {"gold": tmp_path / "gold.jsonl", "predictions": write(tmp_path / "out", ["猫"])}
    found = {}
    for langs in ({"lang": "zh"}, {"lang": "de", "target_lang": "th"}):
        report = score_files(ScoreSettings(task=str(tmp_path / "own.toml"), **langs, **files))
        tokenizer = report.metrics["bleu"].signature.split("tok:")[1].split("|")[0]
        found[langs["lang"]] = (tokenizer, [note.split()[0] for note in report.notes])
    assert found == {"zh": ("zh", []), "de": ("13a", ["Thai"])}
    with pytest.raises(DataError, match="names no language, for which BLEU's tokenizer"):
        score_files(ScoreSettings(task=str(tmp_path / "own.toml"), **files))


def test_the_command_prints_a_table(massive):
    write(massive / "answers.txt", ["None"] * 3)
    flags = ["score", "--lang", "en", "--gold", str(massive / "gold.jsonl")]
    result = CliRunner().invoke(app, [*flags, "--predictions", str(massive / "answers.txt")])
    assert result.exit_code == 0
    assert "slot F1 (%)" in result.stdout
    assert "match:type+value" in result.stdout


# Known values ------------------------------------------------------------------------------------


def massive_f1(locale, predictions, scorer):
    settings = ScoreSettings(
        task="massive",
        lang=locale,
        gold=DATA / "massive" / f"{locale}.jsonl.gz",
        predictions=predictions,
        scorer=scorer,
    )
    return score_files(settings)


@pytest.mark.slow
@HAS_DATA
@pytest.mark.parametrize("scorer", ["paper", "strict"])
def test_slot_f1_equals_the_values_of_the_authors_script(tmp_path, scorer):
    """``massive_slot_f1.json`` was made with dannigt/mid-align c3fa8ef, scripts/eval_massive.py."""
    known = json.loads((DATA / "reference" / "massive_slot_f1.json").read_text())
    for name, expected in known.items():
        locale = massive_locale(expected["lang"])
        predictions = DATA / "reference" / name
        if name.endswith("gold annotations as predictions"):
            predictions = gold_answers(locale, tmp_path)
        report = massive_f1(locale, predictions, scorer)
        score = report.metrics["slot_f1"].value
        if scorer == "paper":
            assert score == expected["slot_micro_f1"]
            assert report.counts["malformed_parts"] == expected["ill_formatted_parts"]
        else:  # the same answers, without credit for hallucinations
            assert score == 1 if "gold annotations" in name else score < expected["slot_micro_f1"]


def gold_answers(locale, folder):
    with gzip.open(DATA / "massive" / f"{locale}.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [row for row in map(json.loads, file) if row["partition"] == "test"]
    return write(folder / locale, [render_answer(slots_of(row["annot_utt"])) for row in rows])


@pytest.mark.slow
@HAS_DATA
def test_gold_answers_in_every_locale(tmp_path):
    """100 with the strict scorer; what the authors' script gives them, run on the same files."""
    authors = {
        "ja-JP": 0.9722884933015232,
        "zh-CN": 0.9958877167888432,
        "th-TH": 0.9992625368731564,
        "cy-GB": 0.999466097170315,
        "is-IS": 1.0,
        "ur-PK": 0.9969691567124265,
    }
    locales = sorted(path.name.split(".")[0] for path in (DATA / "massive").glob("*.gz"))
    assert len(locales) == 20
    for locale in locales:
        predictions = gold_answers(locale, tmp_path)
        assert massive_f1(locale, predictions, "strict").metrics["slot_f1"].value == 1
        if locale in authors:
            report = massive_f1(locale, predictions, "paper")
            assert report.metrics["slot_f1"].value == authors[locale]


def wmt_scores(name, column):
    with (DATA / "wmt23" / name).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return {(row["pair"], *(row[key] for key in column)): float(row["score"]) for row in rows}


@pytest.mark.slow
@HAS_DATA
@pytest.mark.parametrize("pair", ["de-en", "en-de", "en-zh", "en-ja", "ja-en", "uk-en", "he-en"])
def test_bleu_and_chrf_equal_the_published_scores(pair):
    automatic = wmt_scores("automatic-scores.tsv", ["metric"])
    official = wmt_scores("official-scores.tsv", ["ref", "metric"])
    folder = DATA / "wmt23"
    sets = {"refA": folder / f"{pair}.ref", "refB": folder / f"{pair}.refB"}
    for name, ref in sets.items():
        if (pair, name, "BLEU") not in official:
            continue
        report = score_files(
            ScoreSettings(
                task="wmt23",
                src=folder / f"{pair}.src",
                ref=(ref,),
                target_lang=pair[3:],
                predictions=folder / f"{pair}.hyp.GPT4-5shot",
                metrics=("bleu", "chrf"),
            )
        )
        bleu, chrf = report.metrics["bleu"], report.metrics["chrf"]
        assert round(bleu.value, 1) == official[pair, name, "BLEU"]
        assert round(chrf.value, 1) == official[pair, name, "chrF"]
        if (pair, f"bleu-{name}") in automatic:
            assert chrf.value == pytest.approx(automatic[pair, f"chrf-{name}"], abs=1e-6)
            if pair != "en-ja":  # by characters there, by words in the official table
                assert bleu.value == pytest.approx(automatic[pair, f"bleu-{name}"], abs=1e-6)


def test_outputs_with_reasoning_get_a_note(tmp_path):
    refs = (write(tmp_path / "ref", ["one", "two", "three"]),)
    outputs = ["a number</think>\none", "two", "<think>\n\n</think>\n\nthree"]
    out = write(tmp_path / "out.jsonl", (json.dumps({"output": output}) for output in outputs))
    common = {"task": "wmt23", "target_lang": "cy", "ref": refs, "metrics": ("chrf",)}
    (note,) = score_files(ScoreSettings(predictions=out, **common)).notes
    assert "2 of 3 answers of out.jsonl contain '</think>'" in note
    assert not score_files(ScoreSettings(predictions=refs[0], **common)).notes
