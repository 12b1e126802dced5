"""What the report and the record of a merge tell."""

from types import SimpleNamespace

import numpy as np
import pytest
from blake3 import blake3
from helpers.adapters import peft_adapter
from helpers.cards import ALIGNED, write
from helpers.merging import our_deltas, trained, untrained_above

from adaptermix.adapters.adapter import read_adapter
from adaptermix.merging.merge import _fingerprint, merge
from adaptermix.settings.merging import MergeSettings


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
