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

from adaptermix.adapters.adapter import read_adapter
from adaptermix.recipes.plan import plan
from adaptermix.recipes.recipe import read_recipe
from adaptermix.recipes.run import run
from adaptermix.recipes.step import Overrides
from adaptermix.tasks.custom import CustomTask, load_task_file
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
    scripts = {"ja": "赤い赤い赤い赤い", "zh": "红色红色红色", "el": "κόκκινο", "ru": "красный"}
    scripts |= {"ar": "أحمر أحمر", "hi": "लाल लाल लाल"}
    for lang in ("cy", "ja", "jv", "sw", "tl", "el", "hi", "tr", "ar", "es", "ru", "zh"):
        native = scripts.get(lang, lang)
        pairs = [f"{native} {word}\t{word}" for word in WORDS * 3]
        for name in ("tatoeba", "shuffled-400", "utterances"):
            lines(folder / f"data/{name}/{lang}-en.tsv", pairs)
    for lang in ("en", "es", "ru", "zh", "ar"):
        lines(folder / f"data/utterances/{lang}.txt", WORDS)
    write_entities(folder)
    tokenizer = make_tokenizer()
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    shape = {**SHAPE, "num_hidden_layers": 12, "hidden_size": 32, "head_dim": 16}
    config = LAYOUTS["llama"](**shape, vocab_size=len(tokenizer), **ends)
    for data in ("data", "ner"):
        AutoModelForCausalLM.from_config(config).save_pretrained(folder / data / "cut")
        tokenizer.save_pretrained(folder / data / "cut")
    return folder


def write_entities(folder):
    """Write the data of entities.toml."""
    for lang in ("en", "pt", "zh", "da", "sv", "sk", "sr"):
        for split in ("train", "dev", "test"):
            rows = [
                {"id": i, "prompt": f"{w} lamp", "answer": f"LOC: {w}"} for i, w in enumerate(WORDS)
            ]
            lines(folder / f"ner/entities/{lang}.{split}.jsonl", map(json.dumps, rows))
    for lang in ("da", "sv"):
        for name in ("tatoeba", "shuffled"):
            pairs = [f"{lang} {word}\t{word} lamp" for word in WORDS * 3]
            lines(folder / f"ner/{name}/{lang}-en.tsv", pairs)
    for code in ("eng_Latn", "dan_Latn", "swe_Latn", "por_Latn", "slk_Latn"):
        lines(folder / f"ner/flores200/{code}.dev", [f"{code} {word}" for word in WORDS])


@pytest.fixture(scope="module")
def reduced(gemma):
    """The report of the reduced recipe, whose adapters other recipes read."""
    values = {"max-new-tokens": 2, "max-steps": 1, "threads": None}
    return run(read_recipe(gemma / "reduced.toml", overrides=Overrides(values, limit=2)))


@pytest.mark.parametrize("name", ["recipe", "reduced", "entities"])
def test_a_recipe_is_planned_without_problems(gemma, name):
    planned = plan(read_recipe(gemma / f"{name}.toml"))
    assert not planned.problems
    assert planned.steps[-1].name == "report"


@pytest.mark.parametrize("name", ["recipe", "reduced"])
def test_the_aligned_languages_are_named_in_one_place(gemma, name):
    text = (gemma / f"{name}.toml").read_text(encoding="utf-8")
    assert text.count("pairs = [") == 1
    recipe = read_recipe(gemma / f"{name}.toml", overrides=Overrides({"pairs": "el-en,tr-en"}))
    takers = [step.settings.pairs for step in recipe.steps if hasattr(step.settings, "pairs")]
    assert {*takers} == {("el-en", "tr-en")}


def test_the_model_is_downloaded_to_where_git_ignores_it():
    """So that no part of it is ever committed."""
    ignored = (EXAMPLES.parent / ".gitignore").read_text(encoding="utf-8").splitlines()
    text = (EXAMPLES / "gemma/README.md").read_text(encoding="utf-8")
    assert " -d wheels " in text
    assert "/wheels/" in ignored


def test_every_test_utterance_is_read_once_with_all_systems(gemma):
    recipe = read_recipe(gemma / "recipe.toml")
    tests = [step for step in recipe.steps if step.command.name == "eval"]
    langs = [lang for step in tests for lang in step.settings.langs]
    assert len(langs) == len(set(langs)) == 15
    made = {step.name for step in recipe.steps if step.command.name == "merge"}
    made |= {f"{name}-seed-{seed}" for name in ("task", "joint") for seed in (1, 2, 3)}
    assert all({*step.needs} == made for step in tests)


def test_a_placebo_is_trained_as_the_alignment_is(gemma):
    seeds = [f"-seed-{seed}" for seed in (1, 2, 3)]
    for name, pairs in (("recipe", seeds), ("reduced", [""])):
        steps = {step.name: step.settings for step in read_recipe(gemma / f"{name}.toml").steps}
        for seed in pairs:
            align, placebo = dict(steps[f"align{seed}"]), dict(steps[f"placebo{seed}"])
            different = {key for key in align if align[key] != placebo[key]}
            assert different == {"pairs_dir", "layer", "out"}


def test_the_reduced_recipe_runs_to_its_report(gemma, reduced):
    assert (reduced.steps[-1].name, reduced.steps[-1].status) == ("report", "done")
    assert (gemma / "runs/reduced/report.html").stat().st_size > 10_000


LAST = {name: "report" for name in ("diagnosis", "layers", "resources", "seeds", "systems")} | {
    "weights": "searched"
}


@pytest.mark.parametrize("name", LAST)
def test_a_recipe_that_follows_is_planned_on_the_adapters_of_the_reduced_one(gemma, reduced, name):
    planned = plan(read_recipe(gemma / f"{name}.toml"))
    assert not planned.problems
    assert planned.steps[-1].name == LAST[name]


@pytest.fixture(scope="module")
def entities(gemma):
    """The folder of the second task's data, whose recipe has run."""
    values = {"max-new-tokens": 2, "max-steps": 1, "threads": None}
    wanted = read_recipe(gemma / "entities.toml", overrides=Overrides(values, limit=2))
    assert run(wanted).steps[-1].status == "done"
    return gemma / "ner"


def test_aligned_tokens_are_compared_on_the_adapters_of_the_second_task(
    gemma, entities, monkeypatch
):
    ner = entities
    arguments = (ner / "cut", ner / "tatoeba", ner / "align-tokens", "da-en", "sv-en")
    typed(monkeypatch, "gemma/align_tokens.py", *arguments, "--epochs", 1)
    planned = plan(read_recipe(gemma / "tokens.toml"))
    assert not planned.problems


def test_a_language_gap_is_planned_on_the_adapter_of_the_second_task(gemma, entities, monkeypatch):
    arguments = (entities / "tatoeba", entities / "continuations", "da-en")
    typed(monkeypatch, "gemma/continuations.py", *arguments)
    planned = plan(read_recipe(gemma / "gap.toml"))
    assert not planned.problems


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


# Named entities -----------------------------------------------------------------------------------

UNER = """# sent_id = one
# text = Ada bor i Aarhus.
1\tAda\tB-PER
2\tbor\tO
3\ti\tO
4\tAarhus\tB-LOC
5\t.\tO

# sent_id = two
# text = Intet her.
1\tIntet\tO
2\ther\tO
3\t.\tO

"""


def test_entities_become_short_answers_that_the_task_reads(tmp_path, monkeypatch):
    for split in ("train", "dev", "test"):
        lines(tmp_path / f"uner/da.{split}.iob2", UNER.split("\n"))
    out = tmp_path / "entities"
    typed(monkeypatch, "gemma/entities.py", tmp_path / "uner", out, "da", "--characters", 17)
    rows = [json.loads(line) for line in (out / "da.dev.jsonl").read_text("utf-8").splitlines()]
    assert [row["answer"] for row in rows] == ["PER: Ada; LOC: Aarhus", "None"]

    file = EXAMPLES / "gemma/entities-task.toml"
    task = CustomTask(load_task_file(file), file.parent)
    first, second = task.read("da", "dev", out)
    assert task.messages(first)[-1]["content"] == "Ada bor i Aarhus."
    assert task.outcome(first, "PER: Ada; LOC: Aarhus").predicted == [
        ("PER", "Ada"),
        ("LOC", "Aarhus"),
    ]
    assert task.answer(second) == "None"


def test_long_sentences_are_left_out(tmp_path, monkeypatch):
    for split in ("train", "dev", "test"):
        lines(tmp_path / f"uner/da.{split}.iob2", UNER.split("\n"))
    out = tmp_path / "entities"
    typed(monkeypatch, "gemma/entities.py", tmp_path / "uner", out, "da", "--characters", 16)
    (row,) = (out / "da.test.jsonl").read_text("utf-8").splitlines()
    assert json.loads(row)["prompt"] == "Intet her."


# Tokens -------------------------------------------------------------------------------------------


def test_late_interaction_is_the_mean_of_the_best_cosines():
    """Against a plain loop in float64, with sentences of different lengths."""
    align_tokens = script("gemma/align_tokens.py")
    torch.manual_seed(1)
    lengths = {"sources": [3, 1, 4], "targets": [2, 5, 1]}
    states = {side: torch.randn(3, 5, 6, dtype=torch.float64) for side in lengths}
    states = {side: each / each.norm(dim=-1, keepdim=True) for side, each in states.items()}
    masks = {side: torch.arange(5) < torch.tensor(each)[:, None] for side, each in lengths.items()}
    similarities = align_tokens.late_interaction(
        states["sources"], masks["sources"], states["targets"], masks["targets"]
    )
    for i in range(3):
        for j in range(3):
            one = states["sources"][i][: lengths["sources"][i]]
            two = states["targets"][j][: lengths["targets"][j]]
            best = [max(float(a @ b) for b in two) for a in one]
            back = [max(float(a @ b) for a in one) for b in two]
            expected = (sum(best) / len(best) + sum(back) / len(back)) / 2
            assert similarities[i, j].item() == pytest.approx(expected)


def test_tokens_are_aligned_below_the_layer(tmp_path, monkeypatch, capsys):
    model = save_model(tmp_path / "model")
    pairs = write_corpus(tmp_path / "corpus") / "pairs"
    options = ("--layer", 1, "--limit", 32, "--batch-size", 8, "--epochs", 8, "--lr", 0.01)
    wanted = (model, pairs, tmp_path / "out", "cy-en", *options)
    typed(monkeypatch, "gemma/align_tokens.py", *wanted)
    losses = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()]
    assert len(losses) == 32
    assert np.mean(losses[-4:]) < np.mean(losses[:4]) - 0.1
    adapter = read_adapter(tmp_path / "out")
    assert {name.split(".")[2] for name in adapter.modules} == {"0"}
    with pytest.raises(SystemExit, match="out exists"):
        typed(monkeypatch, "gemma/align_tokens.py", *wanted)


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
    asked = {"prompt": "lamp in the garden", "answer": "None"}
    lines(tmp_path / "data/entities/en.train.jsonl", [json.dumps(asked)])
    typed(monkeypatch, "gemma/cut_vocabulary.py", whole_dir, tmp_path / "cut", tmp_path / "data")

    whole_tokens = AutoTokenizer.from_pretrained(whole_dir)
    tokens = AutoTokenizer.from_pretrained(tmp_path / "cut")
    assert len(tokens) < len(whole_tokens)
    whole = AutoModelForCausalLM.from_pretrained(whole_dir, dtype=torch.float64)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "cut", dtype=torch.float64)
    assert model.config.vocab_size == len(tokens) == model.get_output_embeddings().weight.shape[0]
    kept = whole_tokens.convert_tokens_to_ids(tokens.convert_ids_to_tokens(range(len(tokens))))
    asked_and_said = ("lamp in the garden", "None")
    for text in (
        "wake me up at five",
        "deffra fi am bump",
        "house_place: kitchen",
        *asked_and_said,
    ):
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


# Continuations ------------------------------------------------------------------------------------


def test_a_sentence_is_continued_from_its_first_half_in_both_languages(tmp_path, monkeypatch):
    rows = ["En rød lampe lyser her\tA red lamp is on here", "Lys\tLight", "Sluk lyset\tLights off"]
    lines(tmp_path / "pairs/da-en.tsv", rows)
    out = tmp_path / "out"
    typed(monkeypatch, "gemma/continuations.py", tmp_path / "pairs", out, "da-en")
    file = EXAMPLES / "gemma/continuations-task.toml"
    task = CustomTask(load_task_file(file), file.parent)
    found = {
        (lang, split): [
            (task.messages(example)[-1]["content"], task.answer(example))
            for example in task.read(lang, split, out)
        ]
        for lang in ("da", "en")
        for split in ("train", "dev")
    }
    assert found == {
        ("da", "dev"): [("En rød lampe", "lyser her")],
        ("da", "train"): [("Sluk", "lyset")],
        ("en", "dev"): [("A red lamp", "is on here")],
        ("en", "train"): [("Lights", "off")],
    }


# Comparison ---------------------------------------------------------------------------------------


def write_answers(folder, system, lang, right):
    """Write what eval keeps of a system's answers: one slot each, right or wrong."""
    slot = {"type": "color_type", "value": "Red"}
    rows = [
        {"predicted": [{**slot, "value": "red " if r else "bl\u2028ue"}], "expected": [slot]}
        for r in right
    ]
    texts = (json.dumps(row, ensure_ascii=False) for row in rows)
    lines(folder / "predictions" / system / f"{lang}.jsonl", texts)


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
