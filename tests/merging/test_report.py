"""What the report and the record of a merge tell."""

from types import SimpleNamespace

import numpy as np
import pytest
from blake3 import blake3
from helpers.adapters import peft_adapter
from helpers.cards import ALIGNED, TRAINED, write
from helpers.merging import our_deltas, reconfigure, trained, untrained_above

from adaptermix.adapters.adapter import read_adapter
from adaptermix.errors import ConfigError
from adaptermix.merging.merge import _fingerprint, merge, plan_merge, write_merge
from adaptermix.merging.report import MergeReport, MergeSource
from adaptermix.merging.weights import Weighting
from adaptermix.settings.merging import MergeSettings
from adaptermix.version import __version__


@pytest.mark.parametrize("out", ["m", "m.safetensors"])
def test_the_sources_are_told_in_the_report_and_in_the_record(tmp_path, model_dir, out):
    paths = [
        trained(model_dir, tmp_path / "task", 1),
        untrained_above(trained(model_dir, tmp_path / "align", 2), 2),
    ]
    report = merge(paths, MergeSettings(weight=0.8, out=tmp_path / out))
    files = [(path / "adapter_model.safetensors").read_bytes() for path in paths]
    assert [source.blake3 for source in report.sources] == [blake3(f).hexdigest() for f in files]
    assert [source.inactive for source in report.sources] == [0, 4]
    record = read_adapter(tmp_path / out).record
    assert record["sources"] == report.as_record()["sources"]


METHODS = ["exact", "peft-svd", "factor-average", "peft-linear", "ties", "dare", "knots", "tsv"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dry_run", [False, True])
def test_the_reported_error_is_that_of_the_whole_adapter(tmp_path, model_dir, method, dry_run):
    paths = [
        trained(model_dir, tmp_path / str(seed), seed, lora_alpha=4 * seed + 4) for seed in (0, 1)
    ]
    settings = MergeSettings(weight=0.7, method=method, out=tmp_path / "m")
    report = merge(paths, settings, dry_run=dry_run)
    assert report.written == (tmp_path / "m").exists() == (not dry_run)
    if dry_run:
        merge(paths, settings)
    first, second, merged = map(our_deltas, (*paths, tmp_path / "m"))
    lost = total = crossed = 0.0
    factors = [dict(read_adapter(path).updates()) for path in paths]
    for name, delta in merged.items():
        exact = 0.7 * first[name].double() + 0.3 * second[name].double()
        lost += float((delta - exact).square().sum())
        total += float(exact.square().sum())
        a, b = (updates[name] for updates in factors)
        roots = (0.7 * 0.3 * a.scaling * b.scaling) ** 0.5
        u, v = (roots, roots) if method == "peft-linear" else (0.21 * a.scaling, 0.21 * b.scaling)
        crossed += float(np.square(u * a.b @ b.a + v * b.b @ a.a).sum())
    assert report.relative_error == pytest.approx((lost / total) ** 0.5, rel=1e-4, abs=1e-6)
    has_cross_terms = method in ("factor-average", "peft-linear")
    assert report.cross_term_energy == pytest.approx(
        crossed / total if has_cross_terms else 0, rel=1e-4
    )


def test_what_looks_like_a_slip_is_noted(tmp_path, model_dir):
    paths = [tmp_path / name for name in ("task", "align", "copy")]
    for seed, path in zip((1, 2, 1), paths, strict=True):
        peft_adapter(model_dir, path, seed=seed)

    def notes(*chosen, **settings):
        return merge(chosen, MergeSettings(out=tmp_path / "out", **settings), dry_run=True).notes

    task, align, copy = paths
    assert notes(task, align, weight=0.9) == []
    assert notes(task, align, weights="1,0") == []
    assert notes(task, align, weights="1,-0.5") == [
        f"the weight -0.5 of {align} is not between 0 and 1"
    ]
    assert notes(task, copy, weight=0.9) == [f"{task} and {copy} are the same adapter"]
    aligned = tmp_path / "aligned.safetensors"
    write(aligned, ALIGNED)
    (note,) = notes(aligned, aligned, weight=0.9)[:1]
    assert "was trained for alignment and has the largest weight" in note


@pytest.mark.parametrize(
    ("prints", "expected"),
    [(("x", "x"), "x"), (("x", "y"), None), (("x", None), None), ((None, None), None)],
)
def test_a_merge_names_the_base_that_all_its_adapters_name(prints, expected):
    adapters = [SimpleNamespace(record={"base_fingerprint": one} if one else {}) for one in prints]
    assert _fingerprint(adapters) == expected
    assert _fingerprint(adapters[::-1]) == expected


def test_each_source_has_its_own_rank_and_modules(tmp_path, model_dir):
    first = trained(model_dir, tmp_path / "task", 1, r=3)
    other = trained(model_dir, tmp_path / "align", 2, r=5, target_modules=["q_proj"])
    report = merge([first, other], MergeSettings(weight=0.8, out=tmp_path / "m"))
    assert [(source.rank, source.modules) for source in report.sources] == [(3, 8), (5, 4)]
    assert (report.rank, report.modules) == (8, 8)
    (table, _) = report.view().shown
    assert [[str(cell) for cell in row] for row in table.rows] == [
        [str(first), "0.8", "3", "8"],
        [str(other), "0.2", "5", "4"],
    ]


def view_of(**changes):
    sources = [MergeSource("a", "00", 0.9, 2, 30, 0), MergeSource("b", "11", 0.1, 4, 20, 7)]
    given = {
        **{"out": "m", "method": "ties", "sources": sources, "weighting": {"weights": [0.9, 0.1]}},
        **{"rank": 6, "modules": 31, "relative_error": 0.25, "cross_term_energy": 0.5},
        **{"inactive": "average", "written": True, "notes": ["a note"]},
    }
    return MergeReport(**given | changes).view()


def test_what_is_shown_has_the_numbers_of_the_report():
    view = view_of()
    assert view.shown[1] == "ties merge of rank 6 in 31 modules: m"
    assert view.remarks == [
        "note: a note",
        "b has no effect in 7 of 31 modules; the other adapters keep their weights there "
        "(--inactive keep raises the weights)",
        "differs from the exact weighted sum by 25.00% of its norm",
        "the cross terms have 50.00% of the energy of the exact sum",
    ]
    assert view_of(written=False).shown[1].endswith("31 modules: would write m")
    kept = view_of(inactive="keep").remarks[1]
    assert kept.endswith("the other adapters keep full strength there")
    exact = view_of(relative_error=0.0, cross_term_energy=0.0, notes=[])
    assert len(exact.remarks) == 1


def test_weights_of_rules_are_shown_as_such():
    sources = [MergeSource("a", "00", 1.0, 2, 30, 0), MergeSource("b", "11", 0.0, 4, 20, 7)]
    rule = {"weights": [0.5, 0.5]}
    for count, words in ((1, "1 rule in"), (3, "3 rules in")):
        weighting = {"weights": [1.0, 0.0], "rules": [rule] * count}
        remarks = view_of(sources=sources, weighting=weighting).remarks
        assert words in remarks[1]
        assert remarks[2].startswith("b has no effect in 7 of 31 modules"), "it has a weight there"
    assert "b has no effect" not in str(view_of(sources=sources).remarks)


def test_the_record_says_with_what_the_merge_can_be_repeated(tmp_path, model_dir):
    paths = [trained(model_dir, tmp_path / str(seed), seed) for seed in (1, 2)]
    settings = MergeSettings(
        weight=0.7, method="della", seed=9, density=0.4, epsilon=0.2, rank=3, out=tmp_path / "m"
    )
    merge(paths, settings)
    record = read_adapter(tmp_path / "m").record
    assert (record["command"], record["method"], record["seed"]) == ("merge", "della", 9)
    assert record["options"] == {"rank": 3, "density": 0.4, "epsilon": 0.2, "isotropic": False}
    assert (record["adaptermix"], record["numpy"]) == (__version__, np.__version__)


def test_the_record_has_a_base_only_if_all_sources_have_it(tmp_path):
    paths = [tmp_path / name for name in ("a", "b", "c")]
    for path, base in zip(paths, ("x", "x", "y"), strict=True):
        write(path, ALIGNED | {"base_fingerprint": base})
    for second, expected in ((1, "x"), (2, None)):
        out = tmp_path / f"m{second}"
        settings = MergeSettings(weight=0.5, out=out, ignore_base=True)
        merge([paths[0], paths[second]], settings)
        assert read_adapter(out).record["base_fingerprint"] == expected


def test_a_merge_has_a_revision_only_if_all_sources_have_it(tmp_path):
    paths = [tmp_path / name for name in ("a", "b", "c", "d")]
    for seed, (path, revision) in enumerate(zip(paths, ("v1", "v1", "v2", None), strict=True)):
        reconfigure(write(path, TRAINED, seed=seed), revision=revision)
    for second, expected in ((1, "v1"), (2, None), (3, None)):
        for pair in ([paths[0], paths[second]], [paths[second], paths[0]]):
            merge(pair, MergeSettings(weight=0.5, out=tmp_path / "m"), force=True)
            assert read_adapter(tmp_path / "m").config.get("revision") == expected


def notes_of(tmp_path, paths, weights, rules=""):
    (tmp_path / "w.toml").write_text(f"weights = {weights}\n{rules}")
    settings = MergeSettings(weights_file=tmp_path / "w.toml", out=tmp_path / "out")
    return merge(paths, settings, dry_run=True).notes


def test_weights_of_rules_that_look_like_slips_are_noted_too(tmp_path, model_dir):
    paths = [trained(model_dir, tmp_path / str(seed), seed) for seed in (1, 2)]
    rule = '[[rule]]\nlayers = "0"\nweights = [1.5, 0.5]\n'
    assert notes_of(tmp_path, paths, [0.5, -0.25], rule) == [
        f"the weight 1.5 of {paths[0]} is not between 0 and 1",
        f"the weight -0.25 of {paths[1]} is not between 0 and 1",
    ]
    rule += '[[rule]]\nlayers = "1"\nweights = [1.25, -0.25]\n'
    assert notes_of(tmp_path, paths, [2.0, -0.25], rule) == [
        f"3 weights of {paths[0]}, from 1.25 to 2, are not between 0 and 1",
        f"the weight -0.25 of {paths[1]} is not between 0 and 1",
    ]


def test_options_of_other_methods_are_noted(tmp_path):
    paths = [write(tmp_path / "a", {}), write(tmp_path / "b", {}, seed=1)]
    options = {"weight": 0.5, "density": 0.1, "epsilon": 0.05, "seed": 9}
    noted = {
        method: [note.partition(" ")[0] for note in found.notes]
        for method in ("exact", "dare", "della")
        for settings in [MergeSettings(**options, method=method, out=tmp_path / "m")]
        for found in [merge(paths, settings, dry_run=True)]
    }
    assert noted == {
        "exact": ["--density", "--epsilon", "--seed"],
        "dare": ["--epsilon"],
        "della": [],
    }
    sources = {"weight": 0.5, "source_rank": 2, "source_alpha": 4.0, "out": tmp_path / "m"}
    (note,) = merge(paths, MergeSettings(**sources), dry_run=True).notes
    assert note.startswith("--source-rank and --source-alpha have no effect")
    settings = MergeSettings(weights=(-0.5,), method="factor-average", out=tmp_path / "m")
    with pytest.raises(ConfigError, match=r"by the weight -0\.5, so the sign has no effect"):
        merge(paths[:1], settings)


@pytest.mark.parametrize(
    ("weights", "is_noted"), [([0.9, 0.1], False), ([0.1, 0.9], True), ([0.5, 0.5], False)]
)
def test_an_alignment_with_the_largest_weight_is_noted_wherever_it_stands(
    tmp_path, weights, is_noted
):
    task = write(tmp_path / "task", {"command": "train-task"})
    align = write(tmp_path / "align", ALIGNED, seed=1)
    for paths, given in (([task, align], weights), ([align, task], weights[::-1])):
        notes = notes_of(tmp_path, paths, given)
        assert bool(notes) == is_noted
        assert all(f"{align} was trained for alignment" in note for note in notes)


def test_an_adapter_that_was_trained_on_another_is_noted_without_it(tmp_path):
    """The weights of one adapter that is given twice count together."""
    lower = write(tmp_path / "lower", {"command": "train-task"})
    on = [{"path": "lower", "blake3": read_adapter(lower).weights_hash, "weight": 0.5}]
    upper = write(tmp_path / "upper", {"command": "train-task", "on": on}, seed=1)
    assert notes_of(tmp_path, [lower, upper], [0.5, 1.0]) == []
    (note,) = notes_of(tmp_path, [lower, upper], [0.25, 1.0])
    assert note.endswith("was trained on lower at weight 0.5, but it has 0.25 here")
    twice = notes_of(tmp_path, [lower, upper, lower], [0.5, 1.0, 0.25])
    assert any("but it has 0.5 and 0.25 here" in note for note in twice)


def test_a_copy_of_an_adapter_has_its_record(tmp_path):
    lower = write(tmp_path / "lower", {"command": "train-task"})
    on = [{"path": "lower", "blake3": read_adapter(lower).weights_hash, "weight": 0.5}]
    record = {**ALIGNED, "on": on, "base_fingerprint": "0123"}
    align = write(tmp_path / "align.safetensors", record, seed=1)
    for weight, is_kept in ((1, True), (0.5, False)):
        merge([align], MergeSettings(weights=(weight,), out=tmp_path / f"at-{weight}"))
        found = read_adapter(tmp_path / f"at-{weight}").record
        assert (found == record) is is_kept
        assert found["base_fingerprint"] == "0123"
    notes = notes_of(tmp_path, [lower, tmp_path / "at-1"], [0.5, 0.5])
    assert notes == notes_of(tmp_path, [lower, align], [0.5, 0.5]) == []
    settings = MergeSettings(weights=(1,), out=tmp_path / "searched")
    plan = plan_merge([read_adapter(align)], Weighting((1.0,)), settings)
    write_merge(plan, settings, found={"dev": 0.5})
    searched = read_adapter(tmp_path / "searched").record
    assert [each["weight"] for each in searched["sources"]] == [1.0], "it is compared with these"
    bare = write(tmp_path / "bare.safetensors", {})
    merge([bare], MergeSettings(weights=(1,), out=tmp_path / "dressed"))
    assert read_adapter(tmp_path / "dressed").record["command"] == "merge"


def test_the_base_is_that_of_the_adapter_that_names_one(tmp_path):
    nameless, named = write(tmp_path / "a", ALIGNED, base=None), write(tmp_path / "b", ALIGNED)
    for paths in ([nameless, named], [named, nameless]):
        merge(paths, MergeSettings(weight=0.5, out=tmp_path / "m"), force=True)
        assert read_adapter(tmp_path / "m").base == "somebody/llama"
