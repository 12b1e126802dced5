import json
import math
import time

import numpy as np
import pytest
from helpers.merging import ATTENTION, trained
from helpers.models import save_model
from safetensors.numpy import load_file, save_file

from adaptermix.adapters.adapter import read_adapter
from adaptermix.adapters.deltas import LoraUpdate
from adaptermix.adapters.format import CONFIG_KEY, describe_config, spec_of
from adaptermix.adapters.inspection import inspect
from adaptermix.adapters.writing import write_adapter
from adaptermix.cli import console
from adaptermix.errors import ArtifactError
from adaptermix.merging.merge import merge
from adaptermix.settings.merging import MergeSettings
from adaptermix.settings.reports import InspectSettings

SHAPES = {"self_attn.q_proj": (12, 16), "self_attn.v_proj": (6, 16), "mlp.down_proj": (16, 20)}


def random_updates(seed, rank=3, scaling=2.0, layers=(0, 1), shapes=SHAPES):
    generator = np.random.default_rng(seed)

    def normal(*shape):
        return generator.standard_normal(shape, np.float32)

    return {
        f"model.layers.{layer}.{name}": LoraUpdate(normal(rank, cols), normal(rows, rank), scaling)
        for layer in layers
        for name, (rows, cols) in shapes.items()
    }


def save(folder, name, updates, base="meta/base", record=None):
    specs = {module: spec_of(update) for module, update in updates.items()}
    path = folder / name
    write_adapter(path, updates, describe_config(specs, base, True), record or {}, force=True)
    return path


def look(*paths, **settings):
    return inspect(paths, InspectSettings(**settings))


def dense(updates):
    return {m: u.scaling * (u.b.astype(float) @ u.a.astype(float)) for m, u in updates.items()}


def dense_overlap(one, other):
    """Overlaps of column and row spaces by the SVD of the whole matrices."""
    overlaps = []
    for x, y in ((one, other), (one.T, other.T)):
        bases = []
        for matrix in (x, y):
            u, values, _ = np.linalg.svd(matrix)
            bases.append(u[:, : int((values > 1e-6 * values[0]).sum())])
        cosines = np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)
        overlaps.append(float(np.square(cosines).mean()))
    return overlaps


def expected(one, other, modules):
    """Cosine and weighted overlaps over some modules, from dense delta weights."""
    inner = sum(float((one[m] * other[m]).sum()) for m in modules)
    norms = [math.sqrt(sum(float(np.square(d[m]).sum()) for m in modules)) for d in (one, other)]
    weights = [float(np.linalg.norm(one[m]) * np.linalg.norm(other[m])) for m in modules]
    overlaps = [dense_overlap(one[m], other[m]) for m in modules]
    means = [
        sum(w * overlap[side] for w, overlap in zip(weights, overlaps, strict=True)) / sum(weights)
        for side in (0, 1)
    ]
    return inner, inner / math.prod(norms), *means


def test_every_number_is_that_of_the_dense_delta_weights(tmp_path):
    first = random_updates(1, rank=3, scaling=2.0, layers=(0, 1))
    second = random_updates(2, rank=5, scaling=0.7, layers=(1, 2))
    del second["model.layers.1.mlp.down_proj"]
    report = look(save(tmp_path, "a", first), save(tmp_path, "b.safetensors", second))
    one, other = dense(first), dense(second)
    groups = [(report.total, "")]
    groups += [(row, row.name + ".") for row in report.layers]
    groups += [(row, "." + row.name) for row in report.kinds]
    groups += [(row, row.name) for row in report.modules]
    assert len(groups) == 1 + 3 + 3 + 9
    for row, part in groups:
        for norm, deltas in zip(row.norms, (one, other), strict=True):
            own = [np.square(delta).sum() for module, delta in deltas.items() if part in module]
            assert (norm is None) == (not own)
            assert norm is None or norm == pytest.approx(math.sqrt(sum(own)), rel=1e-6)
        shared = [module for module in one if module in other and part in module]
        met = row.comparison((0, 1))
        assert (met is None) == (not shared)
        if met:
            found = met.inner_product, met.cosine, met.overlap_out, met.overlap_in
            assert found == pytest.approx(expected(one, other, shared), rel=1e-5, abs=1e-6)
            assert met.modules == len(shared)


def test_the_same_the_opposite_and_the_orthogonal(tmp_path):
    updates = random_updates(1)
    paths = [save(tmp_path, "same", updates)]
    opposite = {m: LoraUpdate(u.a * 0.5, u.b * -3, 1.0) for m, u in updates.items()}
    paths.append(save(tmp_path, "opposite", opposite))
    orthogonal = {}
    for module, update in updates.items():
        columns, rows = (np.linalg.svd(x.astype(float))[0] for x in (update.b, update.a.T))
        b, a = columns[:, update.rank :][:, :3], rows[:, update.rank :][:, :3].T
        orthogonal[module] = LoraUpdate(a.astype(np.float32), b.astype(np.float32), 1.0)
    paths.append(save(tmp_path, "orthogonal", orthogonal))
    report = look(paths[0], *paths)
    for pair, cosine, overlap in [((0, 1), 1, 1), ((0, 2), -1, 1), ((0, 3), 0, 0)]:
        for row in (report.total, *report.layers, *report.modules):
            met = row.comparison(pair)
            assert met.cosine == pytest.approx(cosine, abs=1e-6)
            assert (met.overlap_out, met.overlap_in) == pytest.approx((overlap,) * 2, abs=1e-6)


def test_a_smaller_subspace_in_a_larger_one_overlaps_fully(tmp_path):
    updates = random_updates(1, rank=5)
    part = {m: LoraUpdate(u.a[:2], u.b[:, :2], 1.0) for m, u in updates.items()}
    met = look(save(tmp_path, "a", updates), save(tmp_path, "b", part)).total.comparison((0, 1))
    assert (met.overlap_out, met.overlap_in) == pytest.approx((1, 1), abs=1e-6)
    assert 0 < met.cosine < 1


def test_directions_that_the_product_does_not_use_do_not_count(tmp_path):
    """B has three columns, but A sends nothing to the last one."""
    updates = random_updates(1)
    for update in updates.values():
        update.a[2] = 0
    cut = {m: LoraUpdate(u.a[:2], u.b[:, :2], 1.0) for m, u in updates.items()}
    other = save(tmp_path, "other", random_updates(2))
    mets = [
        look(save(tmp_path, "x", some), other).total.comparison((0, 1)) for some in (updates, cut)
    ]
    assert mets[0].overlap_out == pytest.approx(mets[1].overlap_out, rel=1e-5)
    assert mets[0].overlap_in == pytest.approx(mets[1].overlap_in, rel=1e-5)


def test_random_subspaces_overlap_as_announced(tmp_path):
    shapes = {"self_attn.q_proj": (64, 48)}
    layers = range(60)
    first = save(tmp_path, "a", random_updates(1, rank=2, layers=layers, shapes=shapes))
    second = save(tmp_path, "b", random_updates(2, rank=6, layers=layers, shapes=shapes))
    met = look(first, second).total.comparison((0, 1))
    assert (met.random_out, met.random_in) == pytest.approx((6 / 64, 6 / 48))
    assert met.overlap_out == pytest.approx(met.random_out, rel=0.15)
    assert met.overlap_in == pytest.approx(met.random_in, rel=0.15)


def test_the_energy_of_a_merge_follows_from_the_inner_product(tmp_path):
    paths = [save(tmp_path, f"{seed}.safetensors", random_updates(seed)) for seed in (1, 2)]
    weights = (0.9, -0.4)
    merge(paths, MergeSettings(weights=weights, out=tmp_path / "merged"))
    both = look(*paths)
    energy = 2 * math.prod(weights) * both.total.comparison((0, 1)).inner_product
    energy += sum((w * n) ** 2 for w, n in zip(weights, both.total.norms, strict=True))
    assert look(tmp_path / "merged").total.norms[0] == pytest.approx(math.sqrt(energy), rel=1e-6)


def test_an_untrained_layer_is_inactive_and_meets_nobody(tmp_path):
    updates = random_updates(1)
    for module, update in updates.items():
        if ".1." in module:
            update.b[:] = 0
    report = look(save(tmp_path, "a", updates), save(tmp_path, "b", random_updates(2)))
    first, second = report.adapters
    assert (first.layers, first.active_layers, second.active_layers) == ([0, 1], [0], [0, 1])
    assert first.inactive_modules == sorted(module for module in updates if ".1." in module)
    row = report.layers[1]
    assert (row.name, row.norms[0], row.comparisons) == ("model.layers.1", 0.0, [])
    assert report.total.comparison((0, 1)).modules == 3


def test_an_adapter_that_does_nothing_at_all(tmp_path):
    updates = {m: LoraUpdate(u.a, u.b * 0, 1.0) for m, u in random_updates(1).items()}
    report = look(save(tmp_path, "a", updates), save(tmp_path, "b", random_updates(2)))
    assert report.adapters[0].norm == 0
    assert report.adapters[0].active_layers == []
    assert report.total.comparisons == []


def test_terms_that_cancel_meet_nobody(tmp_path):
    other = save(tmp_path, "other", random_updates(2))
    updates = random_updates(1, rank=2)
    kept = {m: LoraUpdate(u.a[:1], u.b[:, :1], 1.0) for m, u in updates.items()}
    partly = {
        m: LoraUpdate(np.concatenate([u.a, u.a[1:]]), np.hstack([u.b, -u.b[:, 1:]]), 1.0)
        for m, u in updates.items()
    }
    wholly = {
        m: LoraUpdate(np.concatenate([u.a, u.a * 3]), np.hstack([u.b, -u.b / 3]), 1.0)
        for m, u in updates.items()
    }
    names = {"kept": kept, "partly": partly, "wholly": wholly}
    totals = {name: look(save(tmp_path, name, some), other).total for name, some in names.items()}
    assert 0 < totals["wholly"].norms[0] < 1e-6 * totals["kept"].norms[0]
    assert totals["wholly"].comparisons == []
    one, same = (totals[name].comparison((0, 1)) for name in ("kept", "partly"))
    for field in ("cosine", "overlap_out", "overlap_in", "random_out", "random_in"):
        assert getattr(same, field) == pytest.approx(getattr(one, field), rel=1e-4)


def test_rank_alpha_and_rslora_are_read_as_peft_reads_them(tmp_path):
    updates = random_updates(1, rank=4)
    path = save(tmp_path, "plain", updates)
    config = json.loads((path / "adapter_config.json").read_text())
    tensors = {
        f"base_model.model.{module}.lora_{side}.weight": factor
        for module, u in updates.items()
        for side, factor in (("A", u.a), ("B", u.b))
    }
    config |= {"lora_alpha": 6, "use_rslora": True, "r": 4}
    config |= {"alpha_pattern": {"v_proj": 1}}
    path = tmp_path / "rslora.safetensors"
    save_file(tensors, path, {CONFIG_KEY: json.dumps(config)})
    report = look(path)
    (adapter,) = report.adapters
    assert (adapter.ranks, adapter.alpha, adapter.rslora) == ([4], 6, True)
    assert adapter.scalings == [0.5, 3.0]
    kinds = {row.name: row.norms[0] for row in report.kinds}
    for name, scaling in (("v_proj", 0.5), ("q_proj", 3.0)):
        own = [scaling * (u.b @ u.a) for module, u in updates.items() if name in module]
        assert kinds[name] == pytest.approx(
            math.sqrt(sum(np.square(d).sum() for d in own)), rel=1e-5
        )


def test_modules_outside_blocks_have_rows_of_their_own(tmp_path):
    updates = random_updates(1, layers=(0,))
    updates["lm_head"] = LoraUpdate(np.ones((2, 16)), np.ones((30, 2)), 1.0)
    report = look(save(tmp_path, "a", updates))
    assert [row.name for row in report.layers] == ["lm_head", "model.layers.0"]
    assert report.adapters[0].ranks == [2, 3]


def test_adapters_of_the_bare_decoder_meet_those_of_the_whole_model(tmp_path):
    updates = random_updates(1)
    bare = {module.removeprefix("model."): update for module, update in updates.items()}
    report = look(save(tmp_path, "a", updates), save(tmp_path, "b", bare))
    assert report.total.comparison((0, 1)).cosine == pytest.approx(1)
    assert [row.name for row in report.layers] == ["model.layers.0", "model.layers.1"]


def test_what_is_known_of_an_adapter(tmp_path):
    record = {"adaptermix": "0.1.0", "command": "train-task", "base_fingerprint": "f00"}
    updates = {
        m: LoraUpdate(u.a.astype(np.float16), u.b.astype(np.float16), 1.0)
        for m, u in random_updates(1).items()
    }
    path = save(tmp_path, "a.safetensors", updates, record=record | {"dev": {"loss": 0.1234}})
    (adapter,) = look(path).adapters
    assert adapter.origin == "adaptermix 0.1.0, train-task: dev loss 0.1234"
    assert (adapter.base, adapter.base_fingerprint) == ("meta/base", "f00")
    assert adapter.parameters == sum(u.a.size + u.b.size for u in updates.values())
    assert adapter.dtypes == ["float16"]
    assert adapter.bytes == path.stat().st_size
    merge([path, path], MergeSettings(weights=(0.5, 1 - 0.9), out=tmp_path / "m"))
    merged = look(tmp_path / "m").adapters[0]
    assert merged.origin.endswith(f", merge: exact, 0.5 x {path} + 0.1 x {path}")
    assert merged.record["sources"][0]["blake3"] == adapter.blake3


def test_layers_are_those_of_the_decoder(tmp_path):
    update = next(iter(random_updates(1).values()))
    names = ("model.visual.blocks.5.attn.qkv", "model.language_model.layers.2.self_attn.q_proj")
    (adapter,) = look(save(tmp_path, "a", dict.fromkeys(names, update))).adapters
    assert adapter.layers == adapter.active_layers == [2]
    assert adapter.modules == 2


@pytest.mark.parametrize(
    "record",
    [
        {"adaptermix": 3, "sources": ["x", 1, None], "dev": []},
        {"adaptermix": None, "sources": {}, "dev": {"loss": "low"}, "command": ["x"]},
        {"adaptermix": [], "base_fingerprint": {"x": 1}},
    ],
)
def test_a_record_of_another_hand_may_hold_anything(tmp_path, record, capsys):
    report = look(save(tmp_path, "a.safetensors", random_updates(1), record=record))
    console.show(report)
    assert report.adapters[0].origin.startswith("adaptermix")


def test_different_bases_are_noted_and_different_shapes_refused(tmp_path):
    first = save(tmp_path, "a", random_updates(1))
    second = save(tmp_path, "b", random_updates(2), base="other/base")
    assert any("other/base" in note for note in look(first, second).notes)
    wide = save(tmp_path, "c", random_updates(2, shapes={"self_attn.q_proj": (12, 20)}))
    with pytest.raises(
        ArtifactError, match="q_proj has different shapes, 12 x 16 and 12 x 20, in the"
    ):
        look(first, wide)
    same = save(tmp_path, "d", random_updates(3))
    paths = [first, second, wide, same]
    known = inspect(paths, InspectSettings(), may_differ=True)
    assert [comparison.adapters for comparison in known.total.comparisons] == [(0, 3)]
    assert known.total.comparisons[0].cosine == look(first, same).total.comparisons[0].cosine
    assert (
        f"{second} was trained on other/base, {first} on meta/base; they are not compared"
        in known.notes
    )


def test_a_bare_file_needs_rank_and_alpha(tmp_path):
    updates = random_updates(1, layers=(0,))
    tensors = {
        f"{module}.lora_{side}.weight": factor
        for module, u in updates.items()
        for side, factor in (("A", u.a), ("B", u.b))
    }
    save_file(tensors, tmp_path / "bare.safetensors")
    with pytest.raises(ArtifactError, match="has no LoRA config"):
        look(tmp_path / "bare.safetensors")
    report = look(tmp_path / "bare.safetensors", source_rank=3, source_alpha=6)
    assert report.adapters[0].scalings == [2.0]
    assert report.adapters[0].base is None


@pytest.mark.parametrize("by", ["layer", "module", "kind"])
def test_tables_fit_100_columns_and_escape_names(tmp_path, by, capsys, monkeypatch):
    monkeypatch.setattr(console.results, "_width", 100)
    shapes = {"self_attn.q_proj": (12, 16), "mlp.gate_proj": (20, 16)}
    paths = [
        save(tmp_path, name, random_updates(seed, layers=(0, 31), shapes=shapes))
        for seed, name in enumerate(["[red]a[bold]", "b [bold", "c"])
    ]
    monkeypatch.chdir(tmp_path)
    console.show(look(*[p.relative_to(tmp_path) for p in paths], by=by))
    shown = capsys.readouterr()
    assert max(map(len, shown.out.splitlines())) <= 100
    assert "[red]a[bold]" in shown.out
    assert "b [bold" in shown.out
    row = {"layer": "\nlayers.31 ", "module": "31.mlp.gate_proj ", "kind": "\ngate_proj "}[by]
    assert shown.out.count(row) == 3
    assert "norm 3" in shown.out
    assert "Cosine: above 0 the updates add up" in shown.err


def test_rows_of_a_layer_fit_80_columns(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(console.results, "_width", 80)
    decoder = random_updates(1, layers=(31,))
    tower = {name.replace("model.layers", "model.visual.layers"): u for name, u in decoder.items()}
    paths = [save(tmp_path, name, decoder) for name in "ab"]
    console.show(look(*paths))
    assert "\nlayers.31 " in capsys.readouterr().out
    console.show(look(save(tmp_path, "c", decoder | tower)))
    shown = capsys.readouterr().out
    assert "model.layers.31" in shown
    assert "model.visual.layers.31" in shown


def test_json_holds_everything(tmp_path):
    paths = [save(tmp_path, f"{seed}", random_updates(seed)) for seed in (1, 2)]
    record = json.loads(json.dumps(look(*paths).as_record()))
    assert set(record) == {"adapters", "total", "layers", "kinds", "modules", "notes"}
    assert len(record["modules"]) == 6
    assert record["total"]["comparisons"][0]["adapters"] == [0, 1]


def test_adapters_of_an_8b_models_shape_take_seconds(tmp_path):
    hidden, wide, narrow = 4096, 14336, 1024
    shapes = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (narrow, hidden),
        "mlp.up_proj": (wide, hidden),
        "mlp.down_proj": (hidden, wide),
    }
    paths = [
        save(tmp_path, f"{seed}.safetensors", random_updates(seed, 8, layers=[0], shapes=shapes))
        for seed in (1, 2)
    ]
    look(*paths)
    started = time.process_time()
    look(*paths)
    assert time.process_time() - started < 1  # measured: 0.03; forming a delta weight takes 0.5


def table_of(view, number=0):
    """Return an adapter's table of properties as a dictionary."""
    tables = [part for part in view.shown if getattr(part, "columns", None) == ()]
    return {str(row[0]): str(row[1]) for row in tables[number].rows}


def test_what_is_shown_of_an_adapter_is_its_own(tmp_path):
    """Numbers that differ everywhere: rank, alpha, scaling, modules, parameters and bytes."""
    updates = random_updates(1, rank=3, scaling=4.0, layers=(0, 1, 2, 5))
    for module, update in updates.items():
        if ".5." in module:
            update.b[:] = 0
    on = [{"path": "lower", "blake3": "abcdef0123456789", "weight": 0.5}]
    path = save(tmp_path, "a.safetensors", updates, record={"command": "train-task", "on": on})
    report = look(path)
    (adapter,) = report.adapters
    shown = table_of(report.view())
    parameters = sum(u.a.size + u.b.size for u in updates.values())
    assert shown == {
        "base": "meta/base",
        "made by": "not recorded",
        "trained on": "0.5 x lower (BLAKE3 abcdef012345)",
        "rank": "3",
        "alpha": "12",
        "scaling": "4",
        "modules": "12: down_proj q_proj v_proj",
        "layers": "0-2, 5",
        "active in": "0-2; no effect in 3 modules",
        "norm": f"{adapter.norm:#.4g}",
        "parameters": f"{parameters:,} in float32",
        "file": f"{path.stat().st_size:,} bytes",
        "BLAKE3": adapter.blake3,
    }
    norms = report.view().shown[-1]
    assert [[str(cell) for cell in row] for row in norms.rows] == [
        [row.name.removeprefix("model."), f"{row.norms[0]:#.4g}"]
        for row in (*report.layers, report.total)
    ]


def test_the_table_of_a_pair_has_the_pairs_numbers(tmp_path):
    paths = [
        save(tmp_path, name, random_updates(seed, rank=rank, layers=layers))
        for seed, (name, rank, layers) in enumerate(
            (("a", 2, (0, 1)), ("b", 3, (0, 1)), ("c", 4, (1, 2)))
        )
    ]
    report = look(*paths)
    tables = [part for part in report.view().shown if getattr(part, "name", "") == "meeting"]
    for pair, table in zip([(0, 1), (0, 2), (1, 2)], tables, strict=True):
        assert table.columns[1:3] == [f"norm {at + 1}" for at in pair]
        for row, cells in zip((*report.layers, report.total), table.rows, strict=True):
            norms = ["-" if row.norms[at] is None else f"{row.norms[at]:#.4g}" for at in pair]
            met = row.comparison(pair)
            numbers = ["-"] * 6
            if met:
                overlaps = (met.overlap_out, met.random_out, met.overlap_in, met.random_in)
                numbers = [f"{met.cosine:+.3f}", str(met.modules), *(f"{o:.4f}" for o in overlaps)]
            assert [str(cell) for cell in cells[1:]] == [*norms, *numbers]


def test_parameters_count_biases_and_whole_weights(tmp_path):
    """As PEFT's file holds them."""
    qwen_dir = save_model(tmp_path / "base", "qwen2")
    options = {"lora_bias": True, "modules_to_save": ["lm_head"], **ATTENTION}
    path = trained(qwen_dir, tmp_path / "a", 1, **options)
    (adapter,) = look(path).adapters
    tensors = load_file(path / "adapter_model.safetensors").values()
    assert adapter.parameters == sum(tensor.size for tensor in tensors)
    assert adapter.whole_weights == ["lm_head.weight"]
    assert any("also replaces 1 whole weight, not measured" in note for note in look(path).notes)


def test_notes_say_what_is_odd_about_each_adapter_and_about_all(tmp_path):
    first = save(tmp_path, "a", random_updates(1))
    lower = save(tmp_path, "lower", random_updates(3))
    on = [{"path": "lower", "blake3": read_adapter(lower).weights_hash, "weight": 0.5}]
    record = {"command": "train-task", "on": on}
    steps = tmp_path / "steps"
    save(steps, "checkpoint-9", random_updates(2), record=record)
    save(steps, "checkpoint-10", random_updates(2), record=record)
    found = look(first, steps).notes
    assert [note for note in found if "using the last one, checkpoint-10" in note]
    assert [note for note in found if "lower, which is not among these adapters" in note]
    assert not [note for note in look(first, steps, lower).notes if "not among these" in note]
    unknown = save(tmp_path, "b", random_updates(2), base="merged/model")
    local = save(tmp_path, "c", random_updates(2), base="/runs/merged")
    assert any("says little" in note for note in look(unknown, local).notes)
    nameless = save(tmp_path, "n", random_updates(2), base=None)
    assert any("says little" in note for note in look(nameless, unknown, local).notes)
    plain = save(tmp_path, "d", random_updates(4))
    assert look(first, plain).notes == []
