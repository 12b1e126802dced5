"""Sums of models that PEFT has folded its adapters into, and checks of folded merges."""

import json
import warnings

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from adaptermix.adapters.adapter import read_adapter
from adaptermix.merging.fold import merge_into
from adaptermix.merging.merge import merge
from adaptermix.settings.merging import MergeSettings
from helpers.adapters import IDS, logits_through_peft
from helpers.updates import dense


def trained(model_dir, folder, seed=0, dtype=None, kind=AutoModelForCausalLM, **options):
    """Let PEFT make an adapter, move everything that trains, and save it; biases included."""
    torch.manual_seed(seed)
    options = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], **options}
    task = "CAUSAL_LM" if kind is AutoModelForCausalLM else "FEATURE_EXTRACTION"
    model = get_peft_model(kind.from_pretrained(model_dir), LoraConfig(task_type=task, **options))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += torch.randn_like(parameter) * 0.2
    model.save_pretrained(folder)
    if dtype:
        rewrite(folder, lambda tensors: {name: t.to(dtype) for name, t in tensors.items()})
    return folder


def rewrite(folder, change):
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(change(tensors), folder / "adapter_model.safetensors")


def untrained_above(path, layer, side="B"):
    """Zero the B of all layers from one on, as a loss on a middle layer leaves them.

    Where training starts from singular vectors in B (MiCA), it leaves zeros in A.
    """

    def change(tensors):
        for name, tensor in tensors.items():
            if f"lora_{side}" in name and int(name.split("layers.")[1].split(".")[0]) >= layer:
                tensor.zero_()
        return tensors

    rewrite(path, change)
    return path


def base_model(model_dir):
    return AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float64)


def sum_of_folded_models(model_dir, paths, weights):
    """Logits of W + sum_i w_i (W_i - W) in float64, where PEFT folded adapter i into W_i."""
    base = base_model(model_dir).state_dict()
    total = {name: weight.clone() for name, weight in base.items()}
    for path, weight in zip(paths, weights, strict=True):
        folded = PeftModel.from_pretrained(base_model(model_dir), str(path)).merge_and_unload()
        for name, value in folded.state_dict().items():
            total[name] += weight * (value - base[name])
    model = base_model(model_dir)
    model.load_state_dict(total)
    return model(IDS).logits.detach().float()


def reconfigure(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def check_merge(tmp_path, model_dir, paths, weights, tolerance=2e-4):
    """Merge, load the result with PEFT, without a word from it, and compare logits."""
    merge(paths, MergeSettings(weights=weights, out=tmp_path / "merged"))
    expected = sum_of_folded_models(model_dir, paths, weights)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*(missing|unexpected|Unexpected).*")
        found = logits_through_peft(model_dir, tmp_path / "merged")
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * 10)
    plain = base_model(model_dir)(IDS).logits.float()
    for path, weight in zip(paths, weights, strict=True):  # every part of the sum matters
        alone = sum_of_folded_models(model_dir, [path], [weight])
        assert (alone - plain).abs().max() > 20 * tolerance
        assert len(paths) == 1 or (alone - expected).abs().max() > 20 * tolerance


def our_deltas(path):
    return {name: torch.from_numpy(dense(u)).float() for name, u in read_adapter(path).updates()}


def logits_of(model_dir, dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(model_dir, dtype=dtype)(IDS).logits.detach().float()


def check_fold(tmp_path, model_dir, paths, weights, **options):
    """Fold, and compare with the sum of models and with the merged adapter through PEFT."""
    report = merge_into(
        paths,
        MergeSettings(weights=weights, into=str(model_dir), out=tmp_path / "model", **options),
    )
    assert report.written
    found = logits_of(tmp_path / "model")
    merge(paths, MergeSettings(weights=weights, out=tmp_path / "merged", **options))
    through_peft = logits_through_peft(model_dir, tmp_path / "merged")
    torch.testing.assert_close(found, through_peft, rtol=2e-4, atol=2e-3)
    if not options:
        expected = sum_of_folded_models(model_dir, paths, weights)
        torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-3)
    assert (found - logits_of(model_dir)).abs().max() > 0.1
    return report


ATTENTION = {"target_modules": ["q_proj", "v_proj"]}
CONV1D = {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}
