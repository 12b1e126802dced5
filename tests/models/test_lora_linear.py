import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import nn

from adaptermix.models.lora_linear import (
    LoraLinear,
    Scratch,
    hashed,
    kept_elements,
    speed_up,
    token_keys,
)


class Layer(nn.Module):
    def __init__(self, bias):
        super().__init__()
        self.proj = nn.Linear(6, 5, bias=bias)

    def forward(self, x):
        return self.proj(x)


def make_layer(bias=True, dropout=0.0, **options):
    torch.manual_seed(0)
    config = LoraConfig(r=2, lora_alpha=6, lora_dropout=dropout, target_modules=["proj"], **options)
    model = get_peft_model(Layer(bias).double(), config, autocast_adapter_dtype=False)
    nn.init.normal_(model.base_model.model.proj.lora_B["default"].weight)
    return model


def outcome(model, x):
    x = x.clone().requires_grad_()
    out = model(x)
    model.zero_grad()
    (out * torch.arange(out.numel()).view_as(out)).sum().backward()
    grads = [p.grad for p in model.parameters() if p.requires_grad]
    return [out, x.grad, *grads]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(2, 3, 6), (5, 6)])  # a router of experts gets tokens alone
def test_values_and_gradients_equal_pefts_without_dropout(bias, shape):
    plain, fast = make_layer(bias), make_layer(bias)
    speed_up(fast)
    assert type(fast.base_model.model.proj) is LoraLinear
    x = torch.randn(shape, dtype=torch.float64)
    for one, other in zip(outcome(fast, x), outcome(plain, x), strict=True):
        torch.testing.assert_close(one, other)


def test_dropout_takes_elements_of_the_input_and_scales_the_rest():
    fast = make_layer(dropout=0.5).train()
    dropout = speed_up(fast)
    layer = fast.base_model.model.proj
    dropout.tokens = token_keys(3, torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0]))
    kept = kept_elements(dropout.tokens, layer.features, 0.5, dtype=torch.float64)
    assert 0 < kept.sum() < kept.numel()
    x = torch.randn(1, 3, 6, dtype=torch.float64)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight

    def plain(x):
        return layer.base_layer(x) + 3 * (x * kept / 0.5) @ a.T @ b.T

    found = outcome(fast, x)
    fast.forward = plain
    for one, other in zip(found, outcome(fast, x), strict=True):
        torch.testing.assert_close(one, other)


def test_a_model_that_is_judged_drops_nothing():
    x = torch.randn(1, 3, 6, dtype=torch.float64)
    plain, fast = make_layer(), make_layer(dropout=0.5)
    dropout = speed_up(fast)
    dropout.tokens = token_keys(3, torch.arange(3), torch.arange(3))
    assert not torch.allclose(fast.train()(x), plain(x))
    torch.testing.assert_close(fast.eval()(x), plain(x))


def test_pefts_own_layer_runs_where_this_one_does_not_do():
    x = torch.randn(3, 6, dtype=torch.float64)
    plain, fast = make_layer(dropout=0.9).train(), make_layer(dropout=0.9).train()
    dropout = speed_up(fast)
    torch.manual_seed(1)  # no keys: the dropout of torch's random stream
    with_stream = fast(x)
    torch.manual_seed(1)
    torch.testing.assert_close(with_stream, plain(x))
    dropout.tokens = token_keys(1, torch.arange(3), torch.arange(3))
    assert not torch.equal(fast(x), with_stream)
    with fast.disable_adapter():
        torch.testing.assert_close(fast(x), fast.base_model.model.proj.base_layer(x))
    weight_decomposed = make_layer(use_dora=True)
    expected = copy.deepcopy(weight_decomposed)(x)
    speed_up(weight_decomposed)
    torch.testing.assert_close(weight_decomposed(x), expected)


def test_frozen_inputs_cost_no_gradient():
    model = make_layer()
    speed_up(model)
    model(torch.randn(3, 6, dtype=torch.float64)).sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_a_model_may_add_to_the_output_in_place():
    """Llama 4 adds the experts to the shared expert's output like this."""
    model = make_layer()
    speed_up(model)
    model(torch.randn(3, 6, dtype=torch.float64)).add_(1).sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_half_precision_runs_under_autocast():
    model = make_layer().float()
    speed_up(model)
    x = torch.randn(3, 6)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(x)
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    torch.testing.assert_close(out.float(), model(x), rtol=0.05, atol=0.05)


@given(rate=st.sampled_from([0.05, 0.1, 0.5, 0.9]), seed=st.integers(0, 2**31 - 1))
def test_each_element_is_dropped_at_the_rate_and_by_itself(rate, seed):
    """Shares of elements, rows, columns, and of all corners of random rectangles."""
    tokens = token_keys(seed, torch.arange(32).repeat_interleave(16), torch.arange(16).repeat(32))
    features = hashed(torch.arange(512, dtype=torch.int32) * 7919)
    dropped = 1 - kept_elements(tokens, features, rate, dtype=torch.float64)
    z = (rate * (1 - rate)) ** 0.5
    assert abs(dropped.mean() - rate) < 5 * z / dropped.numel() ** 0.5
    assert (dropped.mean(0) - rate).abs().max() < 6 * z / 512**0.5
    assert (dropped.mean(1) - rate).abs().max() < 6 * z / 512**0.5 + 0.01
    centred = (dropped - rate) / z
    pairs = centred @ centred.T / 512
    pairs.fill_diagonal_(0)
    assert pairs.pow(2).mean() * 512 == pytest.approx(1, abs=0.1)  # as of independent rows
    corners = centred[:256] * centred[256:]  # products over the corners of rectangles
    corners = corners[:, :256] * corners[:, 256:]
    assert abs(corners.mean() / corners.std()) < 6 / corners.numel() ** 0.5


def test_a_sentence_loses_the_same_elements_in_any_company():
    sentences, positions = torch.tensor([4, 4, 9, 9, 9]), torch.tensor([0, 1, 0, 1, 2])
    keys = token_keys(5, sentences, positions)
    assert torch.equal(token_keys(5, sentences[2:], positions[2:]), keys[2:])
    assert len({*keys.tolist(), *token_keys(6, sentences, positions).tolist()}) == 10


def test_room_that_was_used_before_changes_nothing():
    scratch = Scratch()
    for tokens, features in ((5, 7), (2, 3), (9, 8)):
        keys = token_keys(1, torch.arange(tokens), torch.arange(tokens)), torch.arange(features)
        expected = kept_elements(*keys, 0.5, dtype=torch.float32)
        found = kept_elements(*keys, 0.5, dtype=torch.float32, scratch=scratch)
        assert torch.equal(found, expected)
        found.zero_()
