"""Adapters whose modules are named or stored differently."""

import pytest
import torch
from helpers.adapters import IDS, logits_through_peft
from helpers.merging import CONV1D, check_merge, rewrite, sum_of_folded_models, trained
from helpers.updates import assert_close, dense
from peft import PeftModel
from transformers import AutoModel

from adaptermix.adapters.adapter import read_adapter
from adaptermix.errors import ArtifactError
from adaptermix.merging.merge import merge
from adaptermix.settings.merging import MergeSettings


def test_the_heads_of_names_may_differ(tmp_path, model_dir):
    """An adapter of the bare decoder, and one whose keys name the adapter ``default``."""
    task = trained(model_dir, tmp_path / "task", 1)
    align = trained(model_dir, tmp_path / "align", 2, target_modules=["q_proj", "up_proj"])
    expected = sum_of_folded_models(model_dir, [task, align], (0.6, 0.5))
    rewrite(
        align,
        lambda ts: {k.replace("model.model.model.", "model.model."): t for k, t in ts.items()},
    )
    rewrite(task, lambda ts: {k.replace(".weight", ".default.weight"): t for k, t in ts.items()})
    bare = trained(model_dir, tmp_path / "bare", 2, kind=AutoModel)
    assert read_adapter(bare).modules[0] == read_adapter(align).modules[
        0
    ] == "layers.0.mlp.up_proj" or (read_adapter(bare).modules[0].startswith("layers.0."))
    for order in ((0, 1), (1, 0)):
        paths, weights = [task, align], [0.6, 0.5]
        merge(
            [paths[at] for at in order],
            MergeSettings(weights=tuple(weights[at] for at in order), out=tmp_path / str(order)),
        )
        found = logits_through_peft(model_dir, tmp_path / str(order))
        torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-3)


def test_patterns_know_modules_by_the_names_they_were_trained_with(tmp_path, model_dir):
    """One of the bare decoder is renamed for the merge; its ``^layers`` is still what it was."""
    name = "layers.1.mlp.down_proj"
    task = trained(model_dir, tmp_path / "task", 1)
    patterns = {"rank_pattern": {f"^{name}": 7}, "alpha_pattern": {f"^{name}": 21}}
    bare = trained(model_dir, tmp_path / "bare", 2, kind=AutoModel, **patterns)
    merge([task, bare], MergeSettings(weights=(0.6, 0.5), out=tmp_path / "m"))
    sources = [read_adapter(task).update(f"model.{name}"), read_adapter(bare).update(name)]
    assert sources[1].scaling == 3
    expected = 0.6 * dense(sources[0]) + 0.5 * dense(sources[1])
    found = dense(read_adapter(tmp_path / "m").update(f"model.{name}"))
    assert_close(found, expected, atol=1e-6)


def test_adapters_of_the_bare_decoder_stay_so(tmp_path, model_dir):
    """Some layers only, too: PEFT cannot tell layers by index when nothing stands before them."""
    paths = [
        trained(
            model_dir,
            tmp_path / str(seed),
            seed,
            kind=AutoModel,
            target_modules=[f"layers.{seed}.mlp.up_proj"],
        )
        for seed in (1, 2)
    ]
    merge(paths, MergeSettings(weights=(1, 0.5), out=tmp_path / "m"))
    states = []
    for sources in (paths, [tmp_path / "m"]):
        model = AutoModel.from_pretrained(model_dir)
        base = {name: weight.clone() for name, weight in model.state_dict().items()}
        for path, weight in zip(sources, (1, 0.5), strict=False):
            folded = PeftModel.from_pretrained(AutoModel.from_pretrained(model_dir), str(path))
            for name, value in folded.merge_and_unload().state_dict().items():
                model.state_dict()[name] += weight * (value - base[name])
        states.append(model(IDS).last_hidden_state.detach())
    torch.testing.assert_close(states[1], states[0], rtol=1e-4, atol=1e-4)


def test_a_head_has_one_name(tmp_path, model_dir):
    """Updates under two names would stay apart, and a model loads only one of them."""
    paths = [trained(model_dir, tmp_path / str(s), s, target_modules=["lm_head"]) for s in (1, 2)]
    expected = sum_of_folded_models(model_dir, paths, (0.6, 0.5))
    rewrite(
        paths[1], lambda ts: {k.replace("lm_head", "language_model.lm_head"): ts[k] for k in ts}
    )
    settings = MergeSettings(weights=(0.6, 0.5), out=tmp_path / "m")
    merge(paths, settings)
    found = logits_through_peft(model_dir, tmp_path / "m")
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-3)
    rewrite(
        paths[0],
        lambda ts: ts | {f"base_model.model.language_model.{k[17:]}": t + 0 for k, t in ts.items()},
    )
    with pytest.raises(ArtifactError, match="lm_head' are two names of one module"):
        merge(paths[:1], settings.model_copy(update={"weights": (1,)}), force=True)


def test_transposed_layers_are_merged(tmp_path, gpt2_dir):
    paths = [
        trained(gpt2_dir, tmp_path / str(seed), seed, **CONV1D, r=2 + seed) for seed in range(2)
    ]
    check_merge(tmp_path, gpt2_dir, paths, (0.6, 0.7))
    assert read_adapter(tmp_path / "merged").config["fan_in_fan_out"] is True
