"""A run that is killed, stopped, or out of disk or memory loses nothing."""

import errno
import json
import os
import shutil
import signal
from dataclasses import replace

import pytest
import torch
from helpers.training import KINDS, assert_same, factors, task_settings
from transformers import LlamaForCausalLM

from adaptermix.errors import ArtifactError, ResourceError, StoppedError
from adaptermix.training.checkpoints import last_checkpoint
from adaptermix.training.task import train_task


@pytest.fixture(scope="module")
def whole(tmp_path_factory, model_dir, corpus_dir):
    """Adapters of runs that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    for name, (train, settings_for) in KINDS.items():
        train(settings_for(model_dir, corpus_dir, folder / name))
    return folder


def stop_at(step, how):
    def on_progress(progress):
        if progress.done == step:
            how()

    return on_progress


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_makes_a_checkpoint_at_once(tmp_path, model_dir, corpus_dir, whole, number):
    before = signal.getsignal(number)
    with pytest.raises(StoppedError, match=f"{number.name} after step 7") as stopped:
        train_task(
            task_settings(model_dir, corpus_dir, tmp_path / "cut"),
            on_progress=stop_at(7, lambda: os.kill(os.getpid(), number)),
        )
    assert stopped.value.exit_code == 128 + number
    assert "--resume" in stopped.value.hint
    assert signal.getsignal(number) is before
    seen = []
    settings = task_settings(model_dir, corpus_dir, tmp_path / "cut", resume=True)
    train_task(settings, on_progress=seen.append)
    assert seen[0].done == 8
    assert_same(whole / "task", tmp_path / "cut")


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(
    tmp_path, model_dir, corpus_dir, whole, monkeypatch
):
    save = torch.save

    def killed(content, path, *args):
        if "checkpoint-10" in str(path):
            raise KeyboardInterrupt
        save(content, path, *args)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            train_task(task_settings(model_dir, corpus_dir, tmp_path / "cut"))
    work = tmp_path / ".cut.training"
    assert (work / ".staging" / "checkpoint-10").is_dir()  # half of it
    assert last_checkpoint(work) == work / "checkpoint-5"
    train_task(task_settings(model_dir, corpus_dir, tmp_path / "cut", resume=True))
    assert_same(whole / "task", tmp_path / "cut")


def cut_run(tmp_path, model_dir, corpus_dir, step=12):
    with pytest.raises(KeyboardInterrupt):
        train_task(
            task_settings(model_dir, corpus_dir, tmp_path / "cut"),
            on_progress=stop_at(step, interrupt),
        )
    return tmp_path / ".cut.training"


@pytest.mark.parametrize("harm", ["state", "weights", "optimizer"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, model_dir, corpus_dir, harm):
    work = cut_run(tmp_path, model_dir, corpus_dir)
    newest = work / "checkpoint-10"
    assert last_checkpoint(work) == newest
    if harm == "optimizer":
        (newest / "optimizer.pt").unlink()
    else:
        name = {"state": "trainer_state.json", "weights": "adapter_model.safetensors"}[harm]
        content = (newest / name).read_bytes()
        (newest / name).write_bytes(content[: len(content) // 2])
    assert last_checkpoint(work) == work / "checkpoint-5"


def test_checkpoints_hold_no_pickle_that_is_opened_as_one(tmp_path, model_dir, corpus_dir):
    work = cut_run(tmp_path, model_dir, corpus_dir)
    names = {path.name for path in (work / "checkpoint-10").iterdir()}
    assert "training_args.bin" not in names
    pickles = {name for name in names if name.endswith((".pt", ".pth", ".bin"))}
    assert pickles == {"optimizer.pt", "scheduler.pt", "rng_state.pth"}

    class Malice:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "was-run"),)

    for name in pickles:
        harmful = tmp_path / f"harmful-{name}"
        shutil.copytree(work, harmful)
        torch.save(Malice(), harmful / "checkpoint-10" / name)
        shutil.rmtree(work)
        shutil.copytree(harmful, work)
        settings = task_settings(model_dir, corpus_dir, tmp_path / "cut", resume=True)
        with pytest.raises(Exception, match="[Ww]eights"):
            train_task(settings)
        assert not (tmp_path / "was-run").exists()


def test_a_full_disk_leaves_the_last_checkpoint(
    tmp_path, model_dir, corpus_dir, whole, monkeypatch
):
    save = torch.save

    def full(content, path, *args):
        if "checkpoint-10" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        save(content, path, *args)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(ResourceError, match="step 10 cannot be written.*No space") as lacking:
            train_task(task_settings(model_dir, corpus_dir, tmp_path / "cut"))
    assert "from step 5" in lacking.value.hint
    assert list((tmp_path / ".cut.training" / ".staging").iterdir()) == []
    train_task(task_settings(model_dir, corpus_dir, tmp_path / "cut", resume=True))
    assert_same(whole / "task", tmp_path / "cut")


def test_patience_is_counted_on_after_a_kill(tmp_path, model_dir, corpus_dir):
    """Early stopping comes at the same evaluation, and keeps the same adapter."""
    changes = {
        "eval_steps": 2,
        "patience": 3,
        "lr": 0.05,
        "max_steps": 60,
        "schedule": "constant_with_warmup",
    }
    whole = train_task(task_settings(model_dir, corpus_dir, tmp_path / "whole", **changes))
    assert whole.steps < 60
    cut = task_settings(model_dir, corpus_dir, tmp_path / "cut", **changes)
    with pytest.raises(KeyboardInterrupt):
        train_task(cut, on_progress=stop_at(whole.steps - 1, interrupt))
    again = cut.model_copy(update={"resume": True})
    assert train_task(again).steps == whole.steps
    assert_same(tmp_path / "whole", tmp_path / "cut")


def test_a_kill_after_the_last_step_trains_no_more(tmp_path, model_dir, corpus_dir, monkeypatch):
    changes = {"max_steps": 6, "eval_steps": 50}  # within an epoch of four steps
    train_task(task_settings(model_dir, corpus_dir, tmp_path / "whole", **changes))
    with monkeypatch.context() as patch:
        patch.setattr("adaptermix.training.run.stream_adapter", lambda *a, **o: interrupt())
        with pytest.raises(KeyboardInterrupt):
            train_task(task_settings(model_dir, corpus_dir, tmp_path / "cut", **changes))
    seen = []
    settings = task_settings(model_dir, corpus_dir, tmp_path / "cut", resume=True, **changes)
    report = train_task(settings, on_progress=seen.append)
    assert seen == []
    assert report.steps == settings.max_steps
    assert_same(tmp_path / "whole", tmp_path / "cut")
    # And once more: the adapter is there, of these settings.
    again = train_task(settings)
    assert again == replace(report, seconds=0.0)
    with pytest.raises(ArtifactError, match="exists"):
        train_task(settings.model_copy(update={"lr": 0.5}))


def test_the_log_of_a_resumed_run_has_every_step_once(tmp_path, model_dir, corpus_dir):
    cut_run(tmp_path, model_dir, corpus_dir, step=11)
    with (tmp_path / "cut.log.jsonl").open("a") as log:
        log.write('{"step": 12, "lo')  # as a kill may leave it
    train_task(task_settings(model_dir, corpus_dir, tmp_path / "cut", resume=True))
    rows = log_of(tmp_path / "cut")
    assert [row["step"] for row in rows if "eval_loss" in row] == [5, 10, 12]


def log_of(out):
    """Read a log, without times."""
    rows = [json.loads(line) for line in out.with_suffix(".log.jsonl").read_text().splitlines()]
    timed = ("_runtime", "_per_second")
    return [{k: v for k, v in row.items() if not k.endswith(timed)} for row in rows]


@pytest.mark.parametrize("how", [interrupt, lambda: os.kill(os.getpid(), signal.SIGTERM)])
@pytest.mark.parametrize("kind", KINDS)
def test_the_log_of_a_resumed_run_is_that_of_one_that_was_not_killed(
    tmp_path, model_dir, corpus_dir, whole, kind, how
):
    """Its losses are means since the last line, though the checkpoint is newer than that."""
    train, settings_for = KINDS[kind]
    with pytest.raises((KeyboardInterrupt, StoppedError)):
        settings = settings_for(model_dir, corpus_dir, tmp_path / kind)
        train(settings, on_progress=stop_at(8, how))
    train(settings.model_copy(update={"resume": True}))
    expected, found = log_of(whole / kind), log_of(tmp_path / kind)
    assert any("loss" in row for row in expected)
    assert found == expected


def test_an_error_of_another_kind_is_not_taken_for_a_full_disk(
    tmp_path, model_dir, corpus_dir, monkeypatch
):
    def broken(content, path, *args):
        raise RuntimeError("a fault of the program")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(RuntimeError, match="a fault of the program"):
        train_task(task_settings(model_dir, corpus_dir, tmp_path / "cut"))


def test_a_disk_that_takes_no_more_is_known_by_what_torch_says(
    tmp_path, model_dir, corpus_dir, monkeypatch
):
    save = torch.save
    monkeypatch.setattr(torch, "save", lambda content, path, *args: save(content, "/dev/full"))
    with pytest.raises(ResourceError, match="step 5 cannot be written"):
        train_task(task_settings(model_dir, corpus_dir, tmp_path / "cut"))


@pytest.mark.parametrize("kind", KINDS)
def test_workers_change_nothing(tmp_path, model_dir, corpus_dir, kind):
    train, settings_for = KINDS[kind]
    for workers in (0, 2):
        settings = settings_for(
            model_dir, corpus_dir, tmp_path / str(workers), workers=workers, max_steps=4
        )
        train(settings)
    assert_same(tmp_path / "0", tmp_path / "2")


def test_a_loss_that_is_not_a_number_names_the_step_and_the_examples(
    tmp_path, model_dir, corpus_dir, monkeypatch
):
    forward = LlamaForCausalLM.forward
    calls = []

    def spoilt(self, *args, **options):
        output = forward(self, *args, **options)
        calls.append(self.training)
        if self.training and sum(calls) == 5:  # the first of two batches of the third step
            output.loss = output.loss * float("nan")
        return output

    monkeypatch.setattr(LlamaForCausalLM, "forward", spoilt)
    with pytest.raises(ArtifactError, match=r"at step 3, for the examples (en:\d+, ){7}en:\d+$"):
        train_task(task_settings(model_dir, corpus_dir, tmp_path / "a"))


def test_weights_of_the_base_that_are_not_numbers_are_named(tmp_path, model_dir, corpus_dir):
    base = tmp_path / "base"
    shutil.copytree(model_dir, base)
    model = LlamaForCausalLM.from_pretrained(base)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = torch.nan
    model.save_pretrained(base)
    with pytest.raises(ArtifactError, match="at step 1, for the examples") as raised:
        train_task(task_settings(base, corpus_dir, tmp_path / "a"))
    assert "own weights contain NaN" in raised.value.hint
    assert "layers.0.mlp.up_proj" in raised.value.hint


class _Memory:
    """Stands for a GPU: a pass over more rows than fit fails, forward or halfway backward."""

    def __init__(self, rows, backward):
        self.rows = rows
        self.backward = backward
        self.refused = 0

    def __call__(self, forward):
        def limited(model, *args, **options):
            rows = len(options["input_ids"])
            if not model.training or rows <= self.rows:
                return forward(model, *args, **options)
            if not self.backward:
                self.fail(None)
            middle = model.model.layers[2].register_forward_hook(
                lambda module, inputs, output: output.register_hook(self.fail) and None
            )
            output = forward(model, *args, **options)
            middle.remove()
            return output

        return limited

    def fail(self, gradient):
        self.refused += 1
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")


@pytest.mark.parametrize("backward", [False, True])
def test_out_of_memory_keeps_the_gradient(tmp_path, model_dir, corpus_dir, monkeypatch, backward):
    """Eight rows at once do not fit, two do: the adapter is that of eight at once."""
    changes = {"dropout": 0.0, "max_steps": 3}
    train_task(task_settings(model_dir, corpus_dir, tmp_path / "whole", **changes))
    memory = _Memory(2, backward)
    monkeypatch.setattr(LlamaForCausalLM, "forward", memory(LlamaForCausalLM.forward))
    train_task(task_settings(model_dir, corpus_dir, tmp_path / "halved", **changes))
    assert memory.refused == 2  # eight, then four; what fits is remembered
    whole, halved = factors(tmp_path / "whole"), factors(tmp_path / "halved")
    for key in whole:
        torch.testing.assert_close(halved[key], whole[key], rtol=1e-4, atol=1e-6)


def test_a_row_that_does_not_fit_is_said(tmp_path, model_dir, corpus_dir, monkeypatch):
    memory = _Memory(0, backward=False)
    monkeypatch.setattr(LlamaForCausalLM, "forward", memory(LlamaForCausalLM.forward))
    with pytest.raises(ResourceError, match="not enough memory for a forward pass of 1 of 8 rows"):
        train_task(task_settings(model_dir, corpus_dir, tmp_path / "a"))
