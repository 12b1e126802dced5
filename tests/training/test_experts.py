"""Experts are trained, merged and evaluated."""

import pytest
from helpers.evaluation import eval_settings
from helpers.experts import FUSED, fused_adapter, save_experts
from helpers.models import make_tokenizer
from helpers.training import align_settings, joint_settings, task_settings

from adaptermix.adapters.adapter import read_adapter
from adaptermix.adapters.matching import check_fits
from adaptermix.errors import ArtifactError
from adaptermix.evaluation.evaluate import evaluate
from adaptermix.merging.merge import merge
from adaptermix.models.files import weight_shapes
from adaptermix.settings.merging import MergeSettings
from adaptermix.training.align import train_align
from adaptermix.training.joint import train_joint
from adaptermix.training.task import train_task


@pytest.fixture(scope="module", params=["qwen3_moe", "mixtral", "gpt_oss"])
def base(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "base"
    return save_experts(folder, request.param, make_tokenizer())


@pytest.mark.slow
def test_experts_are_trained_merged_and_evaluated(base, tmp_path, corpus_dir):
    steps = {"max_steps": 2, "eval_steps": 1, "dropout": 0.0, "target_parameters": FUSED}
    train_task(task_settings(base, corpus_dir, tmp_path / "task", **steps))
    train_align(align_settings(base, corpus_dir, tmp_path / "align", layer=1, **steps))
    train_joint(joint_settings(base, corpus_dir, tmp_path / "joint", layer=1, **steps))
    for name, layers in (("task", {0, 1}), ("align", {0}), ("joint", {0, 1})):
        adapter = read_adapter(tmp_path / name)
        experts = [m for m in adapter.modules if adapter.factors[m].experts]
        assert len(experts) == len(layers) * 4 * 2
        assert any(map(adapter.is_active, experts))
    merge(
        [tmp_path / "task", tmp_path / "align"],
        MergeSettings(weights=(0.7, 0.3), out=tmp_path / "merged"),
    )
    adapters = tuple(str(tmp_path / name) for name in ("task", "align", "merged", "joint"))
    report = evaluate(eval_settings(base, corpus_dir, tmp_path / "eval", adapters=adapters))
    assert report.systems == ["base", "task", "align", "merged", "joint"]
    assert len(report.cells) == 5 * 2


def test_an_adapter_of_another_shape_is_refused(base, tmp_path):
    adapter = read_adapter(fused_adapter(base, tmp_path / "a", 1))
    shapes = weight_shapes(base)
    check_fits(adapter, shapes, "base")
    for name in shapes:
        if "experts" in name:
            wrong = shapes | {name: tuple(side + 1 for side in shapes[name])}
            if "bias" not in name:
                with pytest.raises(ArtifactError, match="but '.*experts.*' of base is"):
                    check_fits(adapter, wrong, "base")
    dense = {name: shape for name, shape in shapes.items() if "experts" not in name}
    with pytest.raises(ArtifactError, match=r"base has no fused experts '.*experts\.down_proj'"):
        check_fits(adapter, dense, "base")
