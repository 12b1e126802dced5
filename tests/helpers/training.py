"""Small trainings: their settings, and the weights that come out of them."""

import json

import torch

from adaptermix.adapters.adapter import read_adapter
from adaptermix.data.pairs import ParallelPair
from adaptermix.settings.training import TrainAlignSettings, TrainJointSettings, TrainTaskSettings
from adaptermix.training.align import train_align
from adaptermix.training.joint import train_joint
from adaptermix.training.task import train_task

PAIRS = [
    ParallelPair("deffra fi am bump", "wake me up at five", "cy-en"),
    ParallelPair("helo", "hello", "cy-en"),
    ParallelPair("chwarae jazz yn y gegin nawr", "play jazz in the kitchen", "cy-en"),
]


def align_settings(model_dir, corpus_dir, out, **changes):
    return TrainAlignSettings(
        **{
            "model": str(model_dir),
            "data_dir": corpus_dir,
            "pairs": ("cy-en",),
            "batch_size": 32,
            "contrastive_batch": 16,
            "max_steps": 12,
            "eval_steps": 5,
            "lr": 1e-3,
            "out": out,
            **changes,
        }
    )


def task_settings(model_dir, corpus_dir, out, **changes):
    return TrainTaskSettings(
        **{
            "model": str(model_dir),
            "data_dir": corpus_dir,
            "langs": ("en",),
            "system_prompt": "",
            "batch_size": 16,
            "micro_batch_size": 8,
            "max_steps": 12,
            "eval_steps": 5,
            "lr": 1e-3,
            "out": out,
            **changes,
        }
    )


def randomize(model):
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.2)


KINDS = {"task": (train_task, task_settings), "align": (train_align, align_settings)}


def factors(path):
    return {
        f"{module}.{side}": torch.from_numpy(getattr(update, side))
        for module, update in read_adapter(path).updates()
        for side in ("a", "b")
    }


def joint_settings(model_dir, corpus_dir, out, **changes):
    return TrainJointSettings(
        **{
            "model": str(model_dir),
            "data_dir": corpus_dir,
            "langs": ("en",),
            "system_prompt": "",
            "pairs": ("cy-en",),
            "batch_size": 16,
            "contrastive_batch": 4,
            "max_steps": 6,
            "eval_steps": 3,
            "dev_limit": 4,
            "lr": 1e-3,
            "out": out,
            **changes,
        }
    )


ALL_KINDS = {**KINDS, "joint": (train_joint, joint_settings)}


def assert_same(one, other):
    one, other = factors(one), factors(other)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def write_own_task(folder):
    """Write a task whose scores are fine enough to change with any other answer."""
    rows = [{"asked": f"say {n}", "answered": f"lamp {n} kitchen red"} for n in range(24)]
    for lang in ("en", "cy"):
        for split, part in (("train", rows[:20]), ("dev", rows[20:])):
            text = "".join(f"{json.dumps(row)}\n" for row in part)
            (folder / f"{lang}.{split}.jsonl").write_text(text)
    path = folder / "own.toml"
    path.write_text(
        'name = "own"\nmetrics = ["chrf"]\nprompt = "{asked}"\nanswer = "answered"\n[files]\n'
        'train = "{lang}.train.jsonl"\ndev = "{lang}.dev.jsonl"\ntest = "{lang}.dev.jsonl"\n'
    )
    return {"task": str(path), "data_dir": folder}
