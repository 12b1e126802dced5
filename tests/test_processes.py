"""What is refused where several processes train, and which of them reports."""

import os
from types import SimpleNamespace

import pytest
from helpers.training import KINDS, align_settings, joint_settings, task_settings

from adaptermix.cli import console
from adaptermix.errors import ConfigError
from adaptermix.training.align import train_align
from adaptermix.training.joint import train_joint
from adaptermix.training.task import train_task

TRAININGS = (*KINDS.values(), (train_joint, joint_settings))


def test_a_batch_is_shared_evenly(tmp_path, model_dir, corpus_dir, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match="--batch-size 16 cannot be divided among 3 processes"):
        train_task(task_settings(model_dir, corpus_dir, tmp_path / "a"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="6 does not divide --batch-size 16 split over 2 proc"):
        train_task(task_settings(model_dir, corpus_dir, tmp_path / "a", micro_batch_size=6))


def test_a_contrastive_batch_is_shared_evenly(tmp_path, model_dir, corpus_dir, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    settings = align_settings(
        model_dir, corpus_dir, tmp_path / "a", contrastive_batch=5, batch_size=20
    )
    with pytest.raises(ConfigError, match="--contrastive-batch 5 cannot be divided among 2 proc"):
        train_align(settings)


def test_the_first_version_of_sharding_is_refused(tmp_path, model_dir, corpus_dir, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    for train, settings_for in TRAININGS:
        with pytest.raises(ConfigError, match="FSDP version 1") as raised:
            train(settings_for(model_dir, corpus_dir, tmp_path / "a"))
        assert "--fsdp_version 2" in raised.value.hint


def test_only_the_first_process_shows_the_report(monkeypatch):
    shown = []
    monkeypatch.setattr(console, "show_json", shown.append)
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        console.show(
            SimpleNamespace(as_record=lambda: os.environ["RANK"], notices=()), as_json=True
        )
    assert shown == ["0"]
