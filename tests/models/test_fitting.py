"""What is done in parts for lack of memory comes out as what is done at once."""

import sys
from pathlib import Path

import pytest
import torch
from helpers.models import SHAPE
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, LlamaConfig

from adaptermix.errors import ResourceError
from adaptermix.models import fitting
from adaptermix.models.fitting import (
    RowLimit,
    give_back_between_blocks,
    give_back_memory,
    saved_gradients,
    unused_heap,
)


def squares(rows, capacity, undo):
    """Leave the gradient of a sum of squares in a model; return it, and the passes it took."""
    model = torch.nn.Linear(1, 1, bias=False).double()
    model.weight.grad = torch.ones_like(model.weight)  # of the batch before
    passes = []

    def attempt(most):
        for start in range(0, len(rows), most):
            part = rows[start : start + most]
            passes.append(len(part))
            model(part).square().sum().backward()
            if len(part) > capacity:  # after half of the work is done
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.")
        return model.weight.grad / model.weight.data

    limit = RowLimit(1 << 20)
    undo = saved_gradients(model) if undo else None
    refusal = lambda size, error: ResourceError(f"{size} do not fit")  # noqa: E731
    model.weight.data.fill_(2.0)
    return limit.run(len(rows), attempt, refusal, undo=undo), passes, limit


@pytest.mark.slow
@given(st.integers(1, 20), st.integers(1, 20))
def test_halving_gives_what_a_batch_that_fits_gives(count, capacity):
    rows = torch.linspace(-1, 1, count, dtype=torch.float64)[:, None]
    expected, _, _ = squares(rows, count, undo=True)
    found, passes, limit = squares(rows, capacity, undo=True)
    torch.testing.assert_close(found, expected)
    assert passes[-1] <= capacity
    assert 2 * limit.rows + 1 > capacity


def test_what_cannot_be_halved_is_refused():
    rows = torch.ones(4, 1, dtype=torch.float64)
    with pytest.raises(ResourceError, match="1 do not fit"):
        squares(rows, 0, undo=True)
    with pytest.raises(ResourceError, match="4 do not fit"):
        squares(rows, 2, undo=False)


@pytest.mark.slow
@given(st.lists(st.integers()), st.integers(1, 9))
def test_parts_are_all_rows_in_order(rows, capacity):
    def attempt(part):
        if len(part) > capacity:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.")
        return list(part)

    parts = list(RowLimit(1 << 20).parts(rows, attempt, None))
    assert [row for part in parts for row in part] == rows
    assert all(len(part) <= capacity for part in parts)


def test_other_errors_pass():
    def fail(rows):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        RowLimit(4).run(4, fail, lambda size, error: ResourceError("no memory"))


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's heap")
def test_free_pages_between_tensors_are_given_back():
    held = [torch.ones(25_000) for _ in range(800)]  # 100 kB each, too small for a mapping
    del held[::2]
    before = resident_bytes()
    give_back_memory()
    assert before - resident_bytes() > 20e6  # of 40
    assert all(each.sum() == 25_000 for each in held)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's heap")
def test_holes_between_tensors_are_counted():
    held = [torch.ones(25_000) for _ in range(800)]
    before = unused_heap()
    del held[::2]
    assert 35e6 < unused_heap() - before < 45e6  # half of 80 MB


def test_holes_that_cannot_be_counted_are_large(monkeypatch):
    monkeypatch.setattr(fitting.sys, "platform", "darwin")
    assert unused_heap() == float("inf")


@pytest.mark.parametrize("holes, times", [(192e6, 0), (202e6, 1)])
def test_large_holes_are_given_back_after_each_block_of_a_pass_with_gradients(
    monkeypatch, holes, times
):
    calls = []
    monkeypatch.setattr(fitting, "unused_heap", lambda: holes)
    monkeypatch.setattr(fitting, "give_back_memory", lambda: calls.append(1))
    config = LlamaConfig(**SHAPE, vocab_size=300)
    model = AutoModelForCausalLM.from_config(config)
    give_back_between_blocks(model)
    ids = torch.arange(3, 9)[None]
    with torch.no_grad():
        model(ids)
    assert not calls
    model(ids)
    assert len(calls) == times * config.num_hidden_layers
