"""The experiment on Gemma, on stand-ins: recipes are planned and run, scripts do what they say."""

import csv
import json
import random
import shutil
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.corpus import SENTENCES, write_corpus
from helpers.models import LAYOUTS, SHAPE, make_tokenizer, save_model
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from adaptermix.recipes.plan import plan
from adaptermix.recipes.recipe import read_recipe
from adaptermix.recipes.run import run
from adaptermix.recipes.step import Overrides
from adaptermix.tasks.massive import massive_locale, read_massive

EXAMPLES = Path(__file__).parents[2] / "examples"
FLORES = """
    eng_Latn spa_Latn rus_Cyrl zho_Hans arb_Arab cym_Latn jpn_Jpan jav_Latn swh_Latn tgl_Latn
    deu_Latn fra_Latn tur_Latn hin_Deva ell_Grek
""".split()
LANGS = "en es ru zh ar cy ja jv sw tl de fr tr hi el".split()
WORDS = "red blue green white black grey pink gold dark pale lime teal".split()


def script(name):
    """Import a script of the examples."""
    spec = spec_from_file_location(Path(name).stem, EXAMPLES / name)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def typed(monkeypatch, name, *arguments):
    """Run a script with what is typed behind its name."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    script(name).main()


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")


# The recipes --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    """The recipes beside small data and a model of twelve blocks: they align the eleventh."""
    folder = tmp_path_factory.mktemp("gemma")
    for path in (EXAMPLES / "gemma").glob("*.toml"):
        shutil.copy(path, folder)
    for lang in LANGS:
        rows = [
            {
                "id": str(number),
                "locale": massive_locale(lang),
                "partition": ("train", "dev", "test")[number % 3],
                "utt": f"lamp {word}",
                "annot_utt": f"lamp [color_type : {word}]",
            }
            for number, word in enumerate(WORDS)
        ]
        lines(folder / f"data/massive/{massive_locale(lang)}.jsonl", map(json.dumps, rows))
    for code in FLORES:
        lines(folder / f"data/flores200/{code}.dev", [f"{code} {word}" for word in WORDS])
    for lang in ("cy", "ja", "jv", "sw", "tl"):
        native = "赤い赤い赤い赤い" if lang == "ja" else lang
        pairs = [f"{native} {word}\t{word}" for word in WORDS * 3]
        for name in ("tatoeba", "shuffled-400", "shuffled-800", "utterances"):
            lines(folder / f"data/{name}/{lang}-en.tsv", pairs)
    for lang in ("en", "es", "ru", "zh", "ar"):
        lines(folder / f"data/utterances/{lang}.txt", WORDS)
    tokenizer = make_tokenizer()
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    shape = {**SHAPE, "num_hidden_layers": 12, "hidden_size": 32, "head_dim": 16}
    config = LAYOUTS["llama"](**shape, vocab_size=len(tokenizer), **ends)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "data/cut")
    tokenizer.save_pretrained(folder / "data/cut")
    return folder


@pytest.fixture(scope="module")
def reduced(gemma):
    """The report of the reduced recipe, whose adapters two other recipes read."""
    values = {"max-new-tokens": 2, "max-steps": 1, "threads": None}
    return run(read_recipe(gemma / "reduced.toml", overrides=Overrides(values, limit=2)))


@pytest.mark.parametrize("name", ["recipe", "reduced"])
def test_a_recipe_is_planned_without_problems(gemma, name):
    planned = plan(read_recipe(gemma / f"{name}.toml"))
    assert not planned.problems
    assert planned.steps[-1].name == "report"


def test_the_test_set_is_touched_by_one_step_with_all_systems(gemma):
    recipe = read_recipe(gemma / "recipe.toml")
    tests = [step for step in recipe.steps if step.command.name == "eval"]
    assert [step.name for step in tests] == ["test"]
    made = {step.name for step in recipe.steps if step.command.name == "merge"}
    assert made | {"task-1", "task-2", "joint-1", "joint-2", "joint-3"} == {*tests[0].needs}


def test_a_placebo_is_trained_as_the_alignment_is(gemma):
    for name, pairs in (("recipe", ["-1", "-2", "-3"]), ("reduced", [""])):
        steps = {step.name: step.settings for step in read_recipe(gemma / f"{name}.toml").steps}
        for seed in pairs:
            align, placebo = dict(steps[f"align{seed}"]), dict(steps[f"placebo{seed}"])
            different = {key for key in align if align[key] != placebo[key]}
            assert different == {"pairs_dir", "layer", "out"}


def test_the_reduced_recipe_runs_to_its_report(gemma, reduced):
    assert (reduced.steps[-1].name, reduced.steps[-1].status) == ("report", "done")
    assert (gemma / "runs/reduced/report.html").stat().st_size > 10_000


LAST = {"diagnosis": "report", "layers": "report", "weights": "searched", "seeds": "report"}


@pytest.mark.parametrize("name", LAST)
def test_a_recipe_that_follows_is_planned_on_the_adapters_of_the_reduced_one(gemma, reduced, name):
    planned = plan(read_recipe(gemma / f"{name}.toml"))
    assert not planned.problems
    assert planned.steps[-1].name == LAST[name]


def test_seeds_differ_in_nothing_but_the_seed_and_the_adapters(gemma):
    steps = {step.name: dict(step.settings) for step in read_recipe(gemma / "seeds.toml").steps}
    own = {"adapters", "out", "seed", "layer", "pairs_dir"}
    for kinds in (("align", "placebo"), ("merged", "placebo-merged")):
        names = [f"{kind}-{seed}" for kind in kinds for seed in (2, 3)]
        shared = [{k: v for k, v in steps[name].items() if k not in own} for name in names]
        assert all(each == shared[0] for each in shared)
    systems = {
        step.name: step.settings.adapters
        for step in read_recipe(gemma / "seeds.toml").steps
        if step.command.name == "eval"
    }
    assert list(systems) == ["test", "test-others"]
    assert {*systems["test-others"]} < {*systems["test"]}


def test_utterances_are_paired_with_their_originals_in_the_training_part(tmp_path, monkeypatch):
    massive = write_corpus(tmp_path / "corpus") / "massive"
    typed(monkeypatch, "gemma/utterance_pairs.py", massive, tmp_path / "out", "cy", "sw")
    pairs = [
        line.split("\t") for line in (tmp_path / "out/cy-en.tsv").read_text("utf-8").splitlines()
    ]
    texts = {
        lang: {row.id: row.utterance for row in read_massive(lang, "train", massive)}
        for lang in ("cy", "en")
    }
    assert pairs == [[texts["cy"][id], texts["en"][id]] for id in texts["cy"]]
    assert (tmp_path / "out/sw.txt").read_text("utf-8").count("\n") == len(texts["cy"])


# The vocabulary -----------------------------------------------------------------------------------


def gemma_like():
    """A BPE of characters with bytes to fall back on, spaces in the tokens, and no template."""
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<unused0>"]
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    spelled = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=[*specials, *spelled], show_progress=False
    )
    texts = [text for group in SENTENCES.values() for text in group]
    tokenizer.train_from_iterator(texts, trainer)
    described = json.loads(tokenizer.to_str())
    described["added_tokens"] = described["added_tokens"][: len(specials)]  # bytes are ordinary
    fast = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(described)),
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
    )
    script("smollm2/from_gguf.py").add_bos(fast)
    return fast


def save_whole(folder, kind):
    """Save a model and its tokenizer, of one of two kinds."""
    save_model(folder, "gemma2" if kind == "gemma" else "llama")
    if kind == "gemma":
        tokenizer = gemma_like()
        config = LAYOUTS["gemma2"](
            **SHAPE, vocab_size=len(tokenizer), bos_token_id=2, eos_token_id=1, pad_token_id=0
        )
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        for path in folder.glob("*token*"):
            path.unlink()
        (folder / "chat_template.jinja").unlink(missing_ok=True)
        tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["gemma", "byte-level"])
def test_a_cut_model_has_the_logits_of_the_whole_one(tmp_path, monkeypatch, kind):
    whole_dir = save_whole(tmp_path / "whole", kind)
    lines(tmp_path / "data/cy-en.tsv", ["deffra fi am bump\twake me up at five"])
    row = {"id": "1", "utt": "hello kitchen", "annot_utt": "hello [house_place : kitchen]"}
    lines(tmp_path / "data/en-US.jsonl", [json.dumps(row)])
    typed(monkeypatch, "gemma/cut_vocabulary.py", whole_dir, tmp_path / "cut", tmp_path / "data")

    whole_tokens = AutoTokenizer.from_pretrained(whole_dir)
    tokens = AutoTokenizer.from_pretrained(tmp_path / "cut")
    assert len(tokens) < len(whole_tokens)
    whole = AutoModelForCausalLM.from_pretrained(whole_dir, dtype=torch.float64)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "cut", dtype=torch.float64)
    assert model.config.vocab_size == len(tokens) == model.get_output_embeddings().weight.shape[0]
    kept = whole_tokens.convert_tokens_to_ids(tokens.convert_ids_to_tokens(range(len(tokens))))
    for text in ("wake me up at five", "deffra fi am bump", "house_place: kitchen"):
        before, after = whole_tokens(text).input_ids, tokens(text).input_ids
        assert [kept[number] for number in after] == before
        assert tokens.decode(after, skip_special_tokens=True) == text
        expected = whole(torch.tensor([before])).logits[..., kept]
        torch.testing.assert_close(model(torch.tensor([after])).logits, expected)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert kept[getattr(tokens, name)] == getattr(whole_tokens, name)
        assert kept[getattr(model.config, name)] == getattr(whole.config, name)


@pytest.mark.parametrize("kind", ["gemma", "byte-level"])
def test_a_cut_tokenizer_reads_and_writes_what_the_data_lacks(tmp_path, monkeypatch, kind):
    whole_dir = save_whole(tmp_path / "whole", kind)
    lines(tmp_path / "data/eng_Latn.dev", ["wake me up"])
    typed(monkeypatch, "gemma/cut_vocabulary.py", whole_dir, tmp_path / "cut", tmp_path / "data")
    tokens = AutoTokenizer.from_pretrained(tmp_path / "cut")
    for text in ("washa taa ya jikoni", "ŵŷ 赤い"):
        assert tokens.decode(tokens(text).input_ids, skip_special_tokens=True) == text


def test_nothing_is_cut_without_data_or_over_a_folder(tmp_path, monkeypatch):
    whole_dir = save_model(tmp_path / "whole")
    (tmp_path / "data").mkdir()
    with pytest.raises(SystemExit, match="no files that end with"):
        typed(
            monkeypatch, "gemma/cut_vocabulary.py", whole_dir, tmp_path / "cut", tmp_path / "data"
        )
    with pytest.raises(SystemExit, match="whole exists"):
        typed(monkeypatch, "gemma/cut_vocabulary.py", whole_dir, whole_dir, tmp_path / "data")


# Pairs --------------------------------------------------------------------------------------------


def test_shuffled_pairs_have_the_same_sentences_and_no_translation(tmp_path, monkeypatch):
    pairs = write_corpus(tmp_path / "corpus") / "pairs"
    for out, seed in (("one", 1), ("again", 1), ("two", 2)):
        arguments = (tmp_path / out, "cy-en", "sw-en", "--limit", 40, "--seed", seed)
        typed(monkeypatch, "gemma/shuffle_pairs.py", pairs, *arguments)
    texts = {out: (tmp_path / out / "cy-en.tsv").read_text() for out in ("one", "again", "two")}
    assert texts["one"] == texts["again"] != texts["two"]
    true = [line.split("\t") for line in (pairs / "cy-en.tsv").read_text().splitlines()][:40]
    rows = [line.split("\t") for line in texts["one"].splitlines()]
    assert [row[0] for row in rows] == [row[0] for row in true]
    assert sorted(row[1] for row in rows) == sorted(row[1] for row in true)
    assert not {tuple(row) for row in rows} & {tuple(row) for row in true}


def test_repeated_sentences_get_none_of_their_translations():
    rows = [("helo", "hello"), ("helo", "hi"), ("lamp", "lamp"), ("gegin", "kitchen"), ("a", "a")]
    for seed in range(20):
        assert not {*script("gemma/shuffle_pairs.py").shuffled(rows, random.Random(seed))} & {*rows}
    with pytest.raises(SystemExit, match="too few"):
        script("gemma/shuffle_pairs.py").shuffled([("a", "b")] * 3, random.Random(1))


# Comparison ---------------------------------------------------------------------------------------


def write_answers(folder, system, lang, right):
    """Write what eval keeps of a system's answers: one slot each, right or wrong."""
    slot = {"type": "color_type", "value": "Red"}
    rows = [
        {"predicted": [{**slot, "value": "red " if r else "blue"}], "expected": [slot]}
        for r in right
    ]
    lines(folder / "predictions" / system / f"{lang}.jsonl", map(json.dumps, rows))


def test_a_comparison_averages_seeds_and_languages(tmp_path, monkeypatch, capsys):
    for lang in ("cy", "sw"):
        write_answers(tmp_path, "task", lang, [True, False] * 50)
        write_answers(tmp_path, "merged-1", lang, [True, True, True, False] * 25)
        write_answers(tmp_path, "merged-2", lang, [True, False] * 50)
    pairs = ("merged-1=task", "merged-2=task")
    typed(monkeypatch, "gemma/compare.py", tmp_path, *pairs, "--langs", "cy,sw")
    mean, _, rest = capsys.readouterr().out.partition(" ")
    assert mean == "+12.5"
    assert "by seed: +25.0, +0.0" in rest


def test_comparisons_over_seeds_become_a_picture(tmp_path, monkeypatch):
    """Of two groups, with one clear gain; by language and for the groups."""
    for lang, right in (("cy", True), ("sw", False), ("de", False)):
        for name in ("task", "merged-1", "merged-2"):
            answers = [right and name != "task", False, True, True] * 25
            write_answers(tmp_path, name, lang, answers)
    pairs, table = ("merged-1=task", "merged-2=task"), tmp_path / "seeds.csv"
    for group, langs in (("aligned", "cy,sw"), ("others", "de")):
        wanted = ("--langs", langs, "--csv", table, "--group", group)
        typed(monkeypatch, "gemma/compare.py", tmp_path, *pairs, *wanted)
    rows = list(csv.DictReader(table.open()))
    assert [row["over"] for row in rows] == ["cy", "sw", "aligned", "de", "others"]
    differences = [float(row["difference"]) for row in rows]
    assert differences == pytest.approx([0.25, 0, 0.125, 0, 0])
    assert [row["excludes_zero"] for row in rows] == ["True", "False", "True", "False", "False"]
    assert {row["system"] for row in rows} == {"merged"}
    typed(monkeypatch, "gemma/picture.py", table, "merged", tmp_path / "seeds")
    drawn = (tmp_path / "seeds-light.svg").read_text()
    assert all(text in drawn for text in ("50.0 → 75.0", "50.0 → 62.5", "merged minus task"))


def test_a_resample_draws_seeds_as_well():
    """Every example is the same, so that all that differs between resamples is the seeds."""
    counts = {
        name: [np.tile([int(right), 1, 1], (9, 1))]
        for name, right in (("task", False), ("one", True), ("two", False))
    }
    systems = [["one", "task"], ["two", "task"]]
    rng = np.random.default_rng(1)
    seen, drawn = script("gemma/compare.py").differences(counts, systems, rng)
    assert [*seen] == [100, 0]
    shares = [np.mean(drawn == value) for value in (0, 50, 100)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.05)


def test_with_one_seed_a_comparison_is_the_paired_bootstrap():
    """Of the package, up to the resamples that are drawn."""
    rng = np.random.default_rng(0)
    right = {name: rng.random((2, 80)) < share for name, share in (("task", 0.4), ("merged", 0.5))}
    counts = {
        name: [np.stack([lang, np.ones(80), np.ones(80)], axis=1).astype(int) for lang in langs]
        for name, langs in right.items()
    }
    seen, drawn = script("gemma/compare.py").differences(
        counts, [["merged", "task"]], np.random.default_rng(1)
    )
    expected = 100 * (right["merged"].mean() - right["task"].mean())
    assert seen == pytest.approx([expected])
    deviation = np.sqrt(
        sum((right["merged"][i] * 1.0 - right["task"][i]).var() / 80 for i in (0, 1))
    )
    assert drawn.std() == pytest.approx(100 * deviation / 2, rel=0.1)


# Models from a GGUF -------------------------------------------------------------------------------


def test_a_tokenizer_that_is_told_to_puts_bos_before_a_text(tmp_path):
    tokenizer = gemma_like()
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded("hello").input_ids[0] == loaded.bos_token_id
    assert loaded("hello", add_special_tokens=False).input_ids[0] != loaded.bos_token_id


@pytest.mark.parametrize("said", [True, False, None])
def test_a_gguf_says_whether_its_tokenizer_adds_bos(tmp_path, said):
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    if said is not None:
        writer.add_add_bos_token(said)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert script("smollm2/from_gguf.py").adds_bos(tmp_path / "model.gguf") is bool(said)
