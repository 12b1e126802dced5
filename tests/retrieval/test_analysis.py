import csv
import json
import random
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.adapters import peft_adapter
from helpers.corpus import SENTENCES
from helpers.models import make_tokenizer, plain_model
from helpers.progress import check_progress
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, MambaConfig

from adaptermix.adapters.systems import read_systems
from adaptermix.cli import main as cli
from adaptermix.errors import ArtifactError, ConfigError, DataError, ResourceError
from adaptermix.files.tensors import TensorFile
from adaptermix.models.files import layer_index
from adaptermix.models.loading import load_model
from adaptermix.retrieval.analysis import _notes, analyze, language_pairs, plan
from adaptermix.retrieval.correlation import pearson
from adaptermix.retrieval.margin import normalized, retrieve
from adaptermix.retrieval.representations import TENSOR, Extractor, Text, encode_texts, read_layer
from adaptermix.retrieval.summary import (
    EVERY,
    MIDDLE,
    Grid,
    TaskScores,
    groups_of_pairs,
    layer_sets,
)
from adaptermix.retrieval.task_scores import _indices, correlations_of
from adaptermix.settings.evaluation import RetrievalSettings
from adaptermix.settings.paper import LOW_RESOURCE

LANGS = ("en", "cy", "swh_Latn")


@pytest.fixture(scope="module")
def text_dir(tmp_path_factory):
    """Twelve sentences of different lengths in three languages, and one language twice."""
    folder = tmp_path_factory.mktemp("text")
    stems = {"en": "eng_Latn", "cy": "cym_Latn", "sw": "swh_Latn"}
    for lang, stem in stems.items():
        some = SENTENCES[lang]
        lines = [" ".join([some[n % 4], *some[: n // 4]]) + f" {n}" for n in range(12)]
        (folder / f"{stem}.dev").write_text("\n".join(lines) + "\n", encoding="utf-8")
    shutil.copy(folder / "eng_Latn.dev", folder / "copy.dev")
    return folder


@pytest.fixture(scope="module")
def adapter_dirs(tmp_path_factory, model_dir):
    folder = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(("task", "align")):
        peft_adapter(model_dir, folder / name, seed=seed)
    return folder


@pytest.fixture
def settings(model_dir, text_dir, tmp_path):
    def make(**changes):
        known = {"model": str(model_dir), "data_dir": text_dir, "langs": LANGS, "dtype": "float32"}
        return RetrievalSettings(**known | {"out": tmp_path / "out"} | changes)

    return make


def sentences(text_dir, stem="eng_Latn"):
    return (text_dir / f"{stem}.dev").read_text(encoding="utf-8").splitlines()


def extracted(settings, lines, folder, scratch, adapters=(), system="base"):
    """Return one system's representations of some lines [layers sentences hidden]."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = encode_texts({"en": lines}, tokenizer, folder)
    named = read_systems(adapters)
    extractor = Extractor(settings, folder, tokenizer.pad_token_id, named, scratch)
    (path,) = extractor.extract([system], texts).values()
    return torch.from_numpy(TensorFile(path).tensor(TENSOR).copy())


def plainly(model, folder, lines, weights=lambda length: torch.ones(length)):
    """Run the whole model on one sentence at a time, without padding."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = []
    for line in lines:
        ids = tokenizer(line, return_tensors="pt")["input_ids"]
        assert ids[0, 0] == tokenizer.bos_token_id
        with torch.no_grad():
            states = model(ids, output_hidden_states=True).hidden_states
        share = weights(ids.shape[1]) / weights(ids.shape[1]).sum()
        rows.append(torch.stack([share @ state[0] for state in states]))
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_representations_are_those_of_each_sentence_alone(
    layout_dir, settings, text_dir, batch_size, tmp_path
):
    lines = sentences(text_dir)
    random.Random(batch_size).shuffle(lines)
    given = settings(model=str(layout_dir), batch_size=batch_size)
    found = extracted(given, lines, layout_dir, tmp_path)
    model = plain_model(layout_dir).eval()
    torch.testing.assert_close(found, plainly(model, layout_dir, lines), rtol=1e-4, atol=1e-4)


def test_weighted_pooling_counts_later_tokens_more(model_dir, settings, text_dir, tmp_path):
    found = extracted(settings(pooling="weighted"), sentences(text_dir), model_dir, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(model_dir).eval()
    expected = plainly(model, model_dir, sentences(text_dir), lambda n: torch.arange(1.0, n + 1))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_first_tokens_can_be_left_out(model_dir, settings, text_dir, tmp_path):
    found = extracted(settings(pool_skip=2), sentences(text_dir), model_dir, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(model_dir).eval()
    expected = plainly(
        model, model_dir, sentences(text_dir), lambda n: (torch.arange(n) > 1).float()
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_adapters_are_switched_in_one_model(
    model_dir, settings, text_dir, adapter_dirs, tmp_path, monkeypatch
):
    """Each system's representations are those of PEFT's own model, whatever came before."""
    from peft import PeftModel

    from adaptermix.retrieval import representations as extraction

    loaded = []
    original = load_model
    monkeypatch.setattr(
        extraction, "load_model", lambda *given: loaded.append(1) or original(*given)
    )
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    texts = encode_texts({"en": sentences(text_dir)}, tokenizer, model_dir)
    adapters = read_systems(adapter_dirs / name for name in ("task", "align"))
    extractor = Extractor(settings(), model_dir, tokenizer.pad_token_id, adapters, tmp_path)
    paths = extractor.extract(["task", "base", "align"], texts)
    assert loaded == [1]
    for system in ("task", "base", "align"):
        model = AutoModelForCausalLM.from_pretrained(model_dir)
        if system != "base":
            model = PeftModel.from_pretrained(model, str(adapter_dirs / system))
        expected = plainly(model.eval(), model_dir, sentences(text_dir))
        found = load_file(paths[system, "en"])[TENSOR]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    base, task = (load_file(paths[s, "en"])[TENSOR] for s in ("base", "task"))
    assert not torch.allclose(base[1:], task[1:], atol=0.01)  # or this would mean nothing


def test_a_killed_run_goes_on_and_a_second_one_loads_no_model(
    settings, adapter_dirs, answer_cache, monkeypatch
):
    given = settings(adapters=[str(adapter_dirs / "task")])

    def stop(progress):
        if progress.stage == "task cy" and progress.done > 4 * 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        analyze(given, on_progress=stop)
    kept = sorted(answer_cache.rglob("*"))
    assert [path.suffix for path in kept if path.is_file()] == [".safetensors"] * 4
    assert not given.out.exists()
    again = analyze(given)
    assert (again.extracted, again.reused) == (2, 4)
    monkeypatch.setattr("adaptermix.retrieval.representations.load_model", None)
    known = analyze(given, force=True)
    assert (known.extracted, known.reused) == (0, 6)
    assert known.pairs == again.pairs
    # Anything the representations depend on makes them new ones.
    for changes in (
        {"limit": 5},
        {"pooling": "weighted"},
        {"pool_skip": 1},
        {"dtype": "bfloat16"},
    ):
        assert plan(settings(**changes), force=True).missing == 3
    assert plan(settings(limit=12), force=True).missing == 0


def test_without_the_cache_nothing_is_kept(settings, answer_cache):
    seen = []
    assert analyze(settings(cache=False), on_progress=seen.append).extracted == 3
    check_progress(seen)
    assert not answer_cache.exists()


def test_a_model_that_does_not_return_its_embeddings_is_refused(settings, tmp_path):
    """Each layer of Mamba would be taken for the one before it."""
    tokenizer = make_tokenizer()
    config = MambaConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, state_size=4
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "mamba")
    tokenizer.save_pretrained(tmp_path / "mamba")
    with pytest.raises(ArtifactError, match="MambaModel: its hidden states are not"):
        analyze(settings(model=str(tmp_path / "mamba"), langs=("en", "cy")))


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_what_was_read_takes_no_memory(tmp_path):
    """Of 32 MB in 16 layers no more than a few are there at a time."""
    save_file({TENSOR: torch.ones(16, 1024, 512)}, tmp_path / "all.safetensors")
    mapped = lambda: 4096 * int(Path("/proc/self/statm").read_text().split()[2])  # noqa: E731
    before = mapped()
    held = read_layer(tmp_path / "all.safetensors", 0)
    assert held.sum() == held.numel()
    assert mapped() - before > 1 << 20  # or this would measure nothing
    for layer in range(1, 16):
        assert read_layer(tmp_path / "all.safetensors", layer).sum() == 1024 * 512
    assert mapped() - before < 8 << 20


def test_batches_are_halved_where_memory_lacks(settings, monkeypatch):
    original, sizes = Extractor._pooled, []

    def small(self, model, rows):
        sizes.append(len(rows))
        if len(rows) > 3:
            raise RuntimeError("CUDA out of memory.")
        return original(self, model, rows)

    expected = analyze(settings(cache=False))
    monkeypatch.setattr(Extractor, "_pooled", small)
    assert analyze(settings(cache=False), force=True).pairs == expected.pairs
    assert sizes[:4] == [12, 6, 3, 3]
    monkeypatch.setattr("accelerate.utils.memory.should_reduce_batch_size", lambda error: True)
    monkeypatch.setattr(Extractor, "_pooled", lambda *given: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(ResourceError, match="not enough memory for one sentence"):
        analyze(settings(cache=False), force=True)


def test_no_room_on_the_disk_is_told_before_the_model_is_loaded(settings, monkeypatch):
    monkeypatch.setattr("adaptermix.retrieval.representations.load_model", None)
    monkeypatch.setattr(
        "adaptermix.retrieval.representations.shutil.disk_usage",
        lambda f: shutil._ntuple_diskusage(9, 9, 9),
    )
    with pytest.raises(ResourceError, match="GB are free"):
        analyze(settings())


def test_the_record_sums_up_what_each_pair_scores(model_dir, settings, text_dir, tmp_path):
    langs = (*LANGS, "copy")
    groups = {"low-resource": ("cy", "sw"), "none": ("fi",), "whole": langs, "one": ("en",)}
    report = analyze(settings(langs=langs, groups=groups, neighbors=3))
    stems = {"en": "eng_Latn", "cy": "cym_Latn", "swh_Latn": "swh_Latn", "copy": "copy"}
    vectors = {
        lang: extracted(settings(), sentences(text_dir, stem), model_dir, tmp_path)
        for lang, stem in stems.items()
    }
    assert [(p.source, p.target) for p in report.pairs] == [
        (a, b) for a in langs for b in langs if a != b
    ]
    accuracy, mexa = {}, {}
    for pair in report.pairs:
        for at, layer in enumerate(report.layers):
            found = retrieve(
                *(normalized(vectors[lang][layer]) for lang in (pair.source, pair.target)), 3
            )
            assert pair.accuracy[at] == pytest.approx(found.forward_accuracy, abs=1e-6)
            assert pair.mexa[at] == pytest.approx(found.mexa, abs=1e-6)
            accuracy[pair.source, pair.target, layer] = found.forward_accuracy
            mexa[pair.source, pair.target, layer] = found.mexa
    identical = next(p for p in report.pairs if (p.source, p.target) == ("en", "copy"))
    assert identical.accuracy == identical.mexa == [1.0] * 5
    assert len(set(accuracy.values())) > 5  # or the sums below would mean little

    def mean(keep, layers):
        return pytest.approx(
            np.mean([v for (a, b, n), v in accuracy.items() if keep(a, b) and n in layers]),
            abs=2e-6,
        )

    cy = next(s for s in report.by_language if s.lang == "cy")
    assert cy.as_source[2] == mean(lambda a, b: a == "cy", [2])
    assert cy.as_target[2] == mean(lambda a, b: b == "cy", [2])
    assert cy.accuracy[2] == mean(lambda a, b: "cy" in (a, b), [2])
    assert report.groups == {"low-resource": ["cy", "swh_Latn"], "one": ["en"]}
    assert report.notes == ["groups without a member in this run: none"]
    whole, low, one = report.by_layer
    assert whole.accuracy[3] == mean(lambda a, b: True, [3])
    of_low = [s.accuracy[3] for s in report.by_language if s.lang in ("cy", "swh_Latn")]
    assert low.accuracy[3] == pytest.approx(np.mean(of_low), abs=2e-6)
    assert low.within[3] == mean(lambda a, b: {a, b} == {"cy", "swh_Latn"}, [3])
    of_cy = np.mean([value for (a, _, n), value in mexa.items() if a == "cy" and n == 1])
    assert of_cy != pytest.approx(cy.accuracy[1], abs=1e-3)
    assert cy.mexa[1] == pytest.approx(of_cy, abs=2e-6)
    assert whole.mexa[1] == pytest.approx(
        np.mean([value for (*_, n), value in mexa.items() if n == 1]), abs=2e-6
    )
    mexa_of_low = [s.mexa[1] for s in report.by_language if s.lang in ("cy", "swh_Latn")]
    assert low.mexa[1] == pytest.approx(np.mean(mexa_of_low), abs=2e-6)
    assert one.within is None
    found = {a.reading: a for a in report.aggregates if a.over == "all"}
    assert {r: a.layers for r, a in found.items()} == {
        "even layers": [2, 4],
        "all layers": [1, 2, 3, 4],
        "middle layer": [2],
    }
    for aggregate in found.values():
        assert aggregate.accuracy == mean(lambda a, b: True, aggregate.layers)
        curve = [whole.mexa[layer] for layer in aggregate.layers]
        assert aggregate.mexa == pytest.approx(np.mean(curve), abs=2e-6)


def test_the_folder_holds_the_record_and_the_tables(settings, adapter_dirs):
    given = settings(adapters=[str(adapter_dirs / "task")])
    report = analyze(given)
    record = json.loads((given.out / "retrieval.json").read_text(encoding="utf-8"))
    assert {**record, **report.as_record()} == record
    assert record["kind"] == "retrieval"
    assert record["settings"]["langs"] == list(LANGS)
    assert set(record["adapters"]) == {"task"}
    with (given.out / "pairs.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 6 * 5  # systems, ordered pairs, layers
    last = report.pairs[-1]
    assert (rows[-1]["system"], float(rows[-1]["accuracy"])) == ("task", last.accuracy[-1])
    assert sorted(path.name for path in given.out.iterdir()) == [
        "aggregates.csv",
        "languages.csv",
        "layers.csv",
        "pairs.csv",
        "retrieval.json",
    ]


def test_a_pivot_leaves_its_pairs_and_layers_can_be_chosen(settings):
    whole = analyze(settings())
    report = analyze(settings(pivot="eng_Latn", layers="4,0"), force=True)
    assert report.layers == [0, 4]
    assert {(p.source, p.target) for p in report.pairs} == {
        ("en", "cy"),
        ("en", "swh_Latn"),
        ("cy", "en"),
        ("swh_Latn", "en"),
    }
    known = {(p.source, p.target): p for p in whole.pairs}
    for pair in report.pairs:
        expected = known[pair.source, pair.target]
        assert pair.accuracy == [expected.accuracy[0], expected.accuracy[4]]
    assert {a.reading: a.layers for a in report.aggregates} == {"layers asked for": [0, 4]}


def write_scores(folder, scores, system="task"):
    cells = [
        {"system": system, "lang": lang, "score": {"name": "slot_f1", "value": value}}
        for lang, value in scores.items()
    ]
    folder.mkdir()
    (folder / "scores.json").write_text(json.dumps({"cells": cells}))
    return folder


@pytest.fixture
def few(monkeypatch):
    """Allow correlations of three languages, which is what there is data of."""
    for module in ("task_scores", "analysis"):
        monkeypatch.setattr(f"adaptermix.retrieval.{module}.LEAST", 3)


def test_few_languages_have_no_correlation(settings, tmp_path):
    scores = {"en": 0.8, "cym_Latn": 0.4, "sw": 0.5}
    report = analyze(settings(scores=write_scores(tmp_path / "eval", scores)))
    assert report.correlations == []
    assert report.notes == [
        "no correlation with task scores: it needs at least 8 languages with both; this run has 3"
    ]


def test_retrieval_is_correlated_with_task_scores(settings, tmp_path, few):
    scores = {"en": 0.8, "cym_Latn": 0.4, "sw": 0.5, "fi": 0.1}
    given = settings(scores=write_scores(tmp_path / "eval", scores))
    report = analyze(given)
    assert report.notes == ["languages with scores but no retrieval: fi"]
    middle = next(c for c in report.correlations if c.reading == "middle layer")
    values = {s.lang: s.accuracy[2] for s in report.by_language}
    assert [(p.lang, p.score) for p in middle.points] == [
        ("en", 0.8),
        ("cym_Latn", 0.4),
        ("sw", 0.5),
    ]
    assert [p.accuracy for p in middle.points] == pytest.approx([values[x] for x in LANGS])
    assert middle.pearson == pearson([values[x] for x in LANGS], [0.8, 0.4, 0.5])
    assert (middle.over, middle.scored, middle.metric) == ("all", "task", "slot_f1")


def test_scores_of_translation_stand_beside_their_pair(settings, tmp_path, few):
    scores = {"cy-en": 30.0, "en-cy": 20.0, "sw-en": 40.0, "ja-en": 10.0}
    report = analyze(settings(scores=write_scores(tmp_path / "eval", scores)))
    (first, *_) = report.correlations
    known = {(p.source, p.target): np.mean([p.accuracy[2], p.accuracy[4]]) for p in report.pairs}
    assert first.reading == "even layers"
    assert [p.accuracy for p in first.points] == pytest.approx(
        [known["cy", "en"], known["en", "cy"], known["swh_Latn", "en"]], abs=2e-6
    )


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"data_dir": None}, ConfigError, "needs a folder"),
        ({"langs": ("en", "xx")}, DataError, "no dev text in 'xx'"),
        ({"split": "devtest"}, DataError, "no devtest text in 'en'"),
        ({"pivot": "de"}, ConfigError, "--pivot de: not one of the languages"),
        ({"layers": (2, 5)}, ConfigError, "--layers 5: .* has 4 blocks"),
        ({"adapters": ("nowhere",)}, ArtifactError, "nowhere"),
        ({"model": "nowhere"}, Exception, "nowhere"),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded(settings, changes, error, words, monkeypatch):
    monkeypatch.setattr("adaptermix.retrieval.representations.load_model", None)
    with pytest.raises(error, match=words):
        analyze(settings(**changes))


def test_records_that_are_none_are_refused(settings, tmp_path):
    for text, words in (("[1", "not JSON"), ('{"cells": []}', "not a record of eval")):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(DataError, match=words):
            plan(settings(scores=tmp_path / "x.json"))
    with pytest.raises(DataError, match="none of its languages is analyzed"):
        plan(settings(scores=write_scores(tmp_path / "eval", {"is": 1, "fi": 1})))
    with pytest.raises(DataError, match="no such file"):
        plan(settings(scores=tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="contains the input"):
        plan(settings(scores=tmp_path / "x.json", out=tmp_path), force=True)


def test_numbers_that_are_not_finite_are_refused(model_dir, settings, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(model_dir, broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.layers.2.mlp.down_proj.weight"][0, 0] = float("inf")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ArtifactError, match="base: layer 3 has values that are not finite, for 'en'"
    ):
        analyze(settings(model=str(broken)))


def run(monkeypatch, capsys, *line):
    monkeypatch.setattr("sys.argv", ["adaptermix", "retrieval", *map(str, line)])
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    told = capsys.readouterr()
    return code, told.out, told.err


def test_the_command_prints_tables_json_and_one_line_for_a_mistake(
    model_dir, text_dir, adapter_dirs, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("COLUMNS", "100")
    line = ["--model", model_dir, "--data", text_dir, "--langs", "en,cy,sw", "-o", tmp_path / "out"]
    line += ["--adapter", adapter_dirs / "task", "--dtype", "float32"]
    code, out, err = run(monkeypatch, capsys, *line, "--dry-run")
    assert code == 0
    assert "to extract   6 of 6 languages" in out
    assert not (tmp_path / "out").exists()
    code, out, err = run(monkeypatch, capsys, *line)
    assert code == 0
    assert "record and tables" in err
    assert "even layers" in out
    assert "low-resource" in out
    code, out, err = run(monkeypatch, capsys, *line)
    assert code == 5
    assert "out exists" in err
    code, out, err = run(monkeypatch, capsys, *line, "--force", "--json")
    assert json.loads(out)["reused"] == 6
    (text_dir / "xx.txt").write_text("one\n")
    code, out, err = run(monkeypatch, capsys, *line, "--force", "--langs", "en,xx")
    (text_dir / "xx.txt").unlink()
    assert code == 4
    assert "eng_Latn.dev:2: eng_Latn.dev has 12 lines, but" in err
    code, out, err = run(monkeypatch, capsys, *line, "--exclude-base", "--scores", "eval")
    assert code == 3


def test_sentences_that_end_elsewhere_are_other_texts(settings, model_dir, tmp_path):
    texts = [Text("en", [[0, 20], [30, 40]], 0), Text("cy", [[0], [20, 30, 40]], 0)]
    texts += [Text("sw", [[0, 20], [30], [40]], 0)]
    extractor = Extractor(settings(cache=False), model_dir, 2, {}, tmp_path)
    assert len({*extractor.extract(["base"], texts).values()}) == 3


def test_a_plan_counts_what_is_missing(settings, adapter_dirs):
    """Twelve sentences of 64 numbers in five layers: 15,360 bytes of float32 a language."""
    made = plan(settings(adapters=[str(adapter_dirs / "task")]))
    assert (made.pairs, made.missing, made.known) == (6, 6, 0)
    assert made.missing_bytes == 6 * 12 * 64 * 5 * 4
    analyze(settings(limit=5))
    some = plan(settings(adapters=[str(adapter_dirs / "task")], limit=5), force=True)
    assert (some.sentences, some.missing, some.known) == (5, 3, 3)
    assert some.missing_bytes == 3 * 5 * 64 * 5 * 4


def test_the_record_says_how_vectors_were_made_and_what_was_noted(settings, adapter_dirs, tmp_path):
    adapter = shutil.copytree(adapter_dirs / "task", tmp_path / "task")
    make_tokenizer("<|other|>").save_pretrained(adapter)
    given = settings(adapters=[str(adapter)], pool_skip=1, pooling="weighted", langs=LANGS[:2])
    report = analyze(given)
    assert (report.depth, report.pooling, report.pool_skip) == (4, "weighted", 1)
    assert (report.sentences, report.langs) == (12, list(LANGS[:2]))
    (note,) = report.notes
    assert note.startswith("the folder of task has a different vocabulary")


def test_sentences_longer_than_the_context_are_cut_and_counted(model_dir):
    """One of exactly 256 tokens is whole."""
    rows = {"en": [256, 257, 9, 300], "cy": [3, 256, 4, 5], "sw": [1, 2, 3, 400]}
    texts = encode_texts(
        rows, lambda sizes, verbose: {"input_ids": [[1] * n for n in sizes]}, model_dir
    )
    assert [(text.lang, text.truncated) for text in texts] == [("en", 2), ("cy", 0), ("sw", 1)]
    for text, sizes in zip(texts, rows.values(), strict=True):
        assert [len(ids) for ids in text.ids] == [min(size, 256) for size in sizes]
    inputs = SimpleNamespace(texts=texts, scores=None, langs=list(rows))
    assert _notes(inputs, None) == [
        "cut 2 sentences in 'en' to the model's context",
        "cut 1 sentence in 'sw' to the model's context",
    ]
    with pytest.raises(ArtifactError, match="token"):
        encode_texts({"en": "a"}, lambda *_, verbose: {"input_ids": [[10**6]]}, model_dir)


def test_a_cached_file_is_of_its_base_and_library(settings, model_dir, tmp_path, monkeypatch):
    def path():
        extractor = Extractor(settings(cache=False), model_dir, 2, {}, tmp_path)
        return extractor._path("base", Text("en", [[0, 20]], 0))

    paths = {path()}
    for name in ("weights_hash", "version"):
        with monkeypatch.context() as patch:
            patch.setattr(f"adaptermix.retrieval.representations.{name}", lambda given: "another")
            paths.add(path())
    assert len(paths) == 3
    for at in ("1", "2"):  # two adapters of one name
        peft_adapter(model_dir, tmp_path / at / "same", seed=int(at))
        adapters = read_systems([tmp_path / at / "same"])
        extractor = Extractor(settings(cache=False), model_dir, 2, adapters, tmp_path)
        paths |= {extractor._path(system, Text("en", [[0, 20]], 0)) for system in adapters}
    assert len(paths) == 5


def test_there_must_be_room_for_all_files_and_one_that_is_written(
    settings, model_dir, tmp_path, monkeypatch
):
    extractor = Extractor(settings(cache=False), model_dir, 2, {}, tmp_path)
    texts = [Text("en", [[0, 20], [30, 40]], 0), Text("cy", [[0]], 0)]
    (path, _) = extractor.extract(["base"], texts).values()
    sizes = [extractor.size(text) for text in texts]
    assert TensorFile(path).specs[TENSOR].size == sizes[0] == 2 * sizes[1]
    missing = [("base", text) for text in texts]
    needed = sum(sizes) + max(sizes)
    for free in (needed, needed - 1):
        monkeypatch.setattr(
            "adaptermix.retrieval.representations.shutil.disk_usage",
            lambda f, free=free: shutil._ntuple_diskusage(9, 9, free),
        )
        if free == needed:
            extractor._check_room(missing)
    with pytest.raises(ResourceError, match="GB are free"):
        extractor._check_room(missing)


def test_languages_are_grouped_as_in_the_paper():
    langs = ["en", "zh", "cy", "jv", "de", "sw"]
    groups = groups_of_pairs(langs, None)
    assert groups["supervised"] == ["en", "zh"]
    assert groups["transfer"] == ["cy", "jv", "de", "sw"]
    assert groups["low-resource"] == [lang for lang in langs if lang in LOW_RESOURCE]
    assert groups_of_pairs(langs, {"mine": ["cym_Latn", "Swahili"]}) == {"mine": ["cy", "sw"]}


def test_languages_whose_script_is_not_known_have_several_names_too():
    langs = ["en", "fin_Latn", "eu", "pt-BR"]
    groups = {"mine": ["fi", "Basque"], "both": ["pt-PT"]}
    expected = {"mine": ["fin_Latn", "eu"], "both": ["pt-BR"]}
    assert groups_of_pairs(langs, groups) == expected
    assert language_pairs(langs, "Finnish") == [(1, 0), (1, 2), (1, 3)]
    assert (_indices("fi", langs), _indices("fi-eus", langs)) == ((1,), (1, 2))
    with pytest.raises(ConfigError, match="--pivot et: not one of the languages"):
        language_pairs(langs, "et")


def test_correlations_are_of_the_base_model_over_the_languages_of_a_group():
    """By plain formulas, on made-up numbers; the base model is not the first system."""
    rng = np.random.default_rng(0)
    langs = "en cy sw ja de fr es ru tr th".split()
    accuracy = rng.random((3, 10, 10, 2))
    accuracy[:, range(10), range(10)] = np.nan
    inputs = SimpleNamespace(layers=[0, 2], systems=["task", "base", "align"])
    values = {name: dict(zip(langs, rng.random(10), strict=True)) for name in ("one", "two")}
    scores = TaskScores("bleu", values, {lang: (at,) for at, lang in enumerate(langs)}, [])
    groups = {"eight": langs[2:], "few": langs[:3]}
    found = correlations_of(inputs, scores, Grid(accuracy, accuracy), groups, {"last": [2]})
    assert [(c.scored, c.over, len(c.points)) for c in found] == [
        *(("one", "all", 10), ("one", "eight", 8), ("two", "all", 10), ("two", "eight", 8)),
    ]
    base = accuracy[1, :, :, 1]
    of_langs = (np.nanmean(base, axis=1) + np.nanmean(base, axis=0)) / 2
    for c in found:
        first = 2 if c.over == "eight" else 0
        x, y = of_langs[first:], np.array([values[c.scored][lang] for lang in langs[first:]])
        assert [p.accuracy for p in c.points] == pytest.approx(x, abs=1e-6)
        assert [p.score for p in c.points] == y.tolist()
        assert c.pearson.r == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-4)
        ranks = [values.argsort().argsort() for values in (x, y)]
        assert c.spearman.r == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-9)


@pytest.mark.parametrize("depth", [1, 2, 5, 32, 33])
def test_the_middle_layer_is_the_one_that_alignment_takes(depth):
    sets = layer_sets(range(depth + 1), depth, is_asked=False)
    assert sets[MIDDLE] == [layer_index("middle", depth)]
    assert sets[EVERY] == list(range(1, depth + 1))
