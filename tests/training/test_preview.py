"""The first examples of a training as people see them before it."""

import json
import re

import pytest
import torch
from helpers.models import make_tokenizer
from helpers.tables import write_rows
from helpers.training import align_settings, joint_settings, task_settings
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from adaptermix.cli import console
from adaptermix.cli.main import program
from adaptermix.models.pooling import pooling_weights
from adaptermix.settings.training import TrainAlignSettings
from adaptermix.training.align import train_align
from adaptermix.training.batches import IGNORED, EncodedExample, EncodedPair
from adaptermix.training.joint import train_joint
from adaptermix.training.preview import preview, preview_lines, token_texts
from adaptermix.training.task import train_task

ROWS = [{"prompt": f"play {n}", "completion": f"mwsig 水 {n}"} for n in range(20)]
PAIRS = [{"cy": f"helo {n}", "en": f"hello {n}"} for n in range(20)]


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_the_texts_of_tokens_are_the_text(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    texts = token_texts(ids, tokenizer)
    assert len(texts) == len(ids)
    assert "".join(texts) == tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def test_a_plan_shows_three_examples_with_their_answers(tmp_path, model_dir):
    chat = write_rows(tmp_path / "chat.csv", ROWS)
    report = train_task(task_settings(model_dir, None, tmp_path / "a", chat=chat), dry_run=True)
    assert len(report.preview) == 3
    for shown in report.preview:
        row = ROWS[int(shown.name.rpartition(":")[2]) - 2]
        trained = [t for t, on in zip(shown.tokens, shown.trained, strict=True) if on]
        assert "".join(trained) == f"{row['completion']}<|end|>"
        assert "".join(shown.tokens).startswith(f"<|bos|><|user|>{row['prompt']}<|end|>")
    assert (
        "preview"
        not in train_task(
            task_settings(model_dir, None, tmp_path / "a", chat=chat, max_steps=1)
        ).as_record()
    )


def test_a_plan_of_an_alignment_shows_what_is_pooled(tmp_path, model_dir):
    place = {"pairs_dir": write_rows(tmp_path / "p.csv", PAIRS)}
    for changes, expected in [({}, 0), ({"pool_skip": 1}, 1), ({"pooling": "last"}, None)]:
        settings = align_settings(model_dir, None, tmp_path / "a", **place, **changes)
        report = train_align(settings, dry_run=True)
        assert [shown.side for shown in report.preview] == ["source", "target"] * 3
        for shown in report.preview:
            left_out = len(shown.tokens) - 1 if expected is None else expected
            assert shown.trained == [0] * left_out + [1] * (len(shown.tokens) - left_out)


@given(
    lengths=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    pooling=st.sampled_from(["mean", "weighted", "last"]),
    skip=st.integers(0, 7),
)
def test_the_marked_tokens_are_those_that_have_a_weight(tokenizer, lengths, pooling, skip):
    """Also where a sentence is not longer than what is left out."""
    settings = TrainAlignSettings(pooling=pooling, pool_skip=skip)
    pair = EncodedPair(*([20] * length for length in lengths), "f:1")
    for shown, length in zip(preview([pair], tokenizer, settings), lengths, strict=True):
        weights = pooling_weights(torch.ones(1, length, dtype=torch.long), pooling, skip)
        assert shown.trained == (weights[0] > 0).int().tolist()


def test_a_joint_plan_shows_both(tmp_path, model_dir):
    settings = joint_settings(
        model_dir,
        None,
        tmp_path / "a",
        chat=write_rows(tmp_path / "chat.csv", ROWS),
        pairs_dir=write_rows(tmp_path / "p.csv", PAIRS),
    )
    report = train_joint(settings, dry_run=True)
    sides = [shown.side for shown in report.preview]
    assert sides == [None] * 3 + ["source", "target"] * 3


def test_without_colors_brackets_mark_what_is_trained(tmp_path, model_dir, monkeypatch):
    chat = write_rows(tmp_path / "chat.csv", ROWS)
    line = ["train-task", "--model", str(model_dir), "--chat", str(chat), "--dry-run"]
    result = CliRunner().invoke(program(), line)
    assert "chat.csv:2: " in result.stdout
    assert "<|assistant|>[[mwsig 水 0<|end|>]]" in result.stdout
    shown = json.loads(CliRunner().invoke(program(), [*line, "--json"]).stdout)["preview"][0]
    assert len(shown["tokens"]) == len(shown["trained"])
    report = train_task(task_settings(model_dir, None, tmp_path / "a", chat=chat), dry_run=True)
    screen = Console(force_terminal=True, color_system="standard", record=True, width=200)
    monkeypatch.setattr(console, "results", screen)
    console.show(report)
    text = screen.export_text(styles=True)
    assert "[[" not in text
    assert "\x1b[30;42mmwsig 水 0<|end|>\x1b[0m" in text


def test_long_texts_are_cut_in_the_middle(tokenizer):
    ids = tokenizer("wake me up " * 500)["input_ids"]
    row = EncodedExample([*ids, 5, 6], [*[IGNORED] * len(ids), 5, 6], "f:1")
    (heading, (context, answer)) = preview_lines(preview([row], tokenizer))[1:]
    assert f"f:1: {len(ids) + 2:,} tokens, 2 trained" == heading.text
    hidden = int(
        re.search(r" \[\.\.\. ([\d,]+) characters \.\.\.\] ", context.text)[1].replace(",", "")
    )
    around = re.sub(r" \[\.\.\. .* characters \.\.\.\] ", "", context.text)
    assert hidden + len(around) == len(tokenizer.decode(ids))
    assert len(context.text) < 1300
    assert (answer.look, context.look) == ("trained", "")
