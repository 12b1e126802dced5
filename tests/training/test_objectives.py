import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from adaptermix.training.objectives import (
    AlignmentLoss,
    contrastive_loss,
    duplicate_pairs,
    preservation_loss,
)


def plain_loss(sources, targets, temperature, is_masked=lambda i, j: False):
    """The paper's equation 1 as a double loop in float64, averaged over the sources."""
    total = 0.0
    for i in range(len(sources)):
        cosines = []
        for j in range(len(targets)):
            if is_masked(i, j):
                cosines.append(-math.inf)
                continue
            dot = sum(a * b for a, b in zip(sources[i].tolist(), targets[j].tolist(), strict=True))
            lengths = math.sqrt(sum(a * a for a in sources[i].tolist()))
            lengths *= math.sqrt(sum(b * b for b in targets[j].tolist()))
            cosines.append(dot / lengths / temperature)
        total -= cosines[i] - math.log(sum(math.exp(c) for c in cosines))
    return total / len(sources)


@given(
    batch=st.integers(1, 6),
    hidden=st.integers(1, 5),
    temperature=st.sampled_from([0.1, 1.0, 1.5]),
    seed=st.integers(0, 1000),
)
def test_the_loss_equals_the_formula(batch, hidden, temperature, seed):
    torch.manual_seed(seed)
    sources, targets = torch.randn(2, batch, hidden, dtype=torch.float64)
    loss = contrastive_loss(sources, targets, temperature)
    assert math.isclose(loss.item(), plain_loss(sources, targets, temperature), rel_tol=1e-10)


def test_candidates_are_the_targets_and_not_the_other_sources():
    # The authors' code: softmax over the targets for each source (their "LogSoftmax(0)").
    torch.manual_seed(0)
    sources, targets = torch.randn(2, 4, 8, dtype=torch.float64)
    similarities = functional.cosine_similarity(sources[:, None], targets[None], dim=-1) / 0.1
    expected = functional.cross_entropy(similarities, torch.arange(4))
    reverse = functional.cross_entropy(similarities.T, torch.arange(4))
    assert torch.isclose(contrastive_loss(sources, targets, 0.1), expected)
    assert not torch.isclose(contrastive_loss(sources, targets, 0.1), reverse)


def test_equal_similarities_cost_the_logarithm_of_the_batch():
    same = torch.ones(32, 4)
    assert math.isclose(contrastive_loss(same, same, 0.1).item(), math.log(32), rel_tol=1e-6)


def test_perfect_pairs_cost_nothing_in_the_limit():
    assert contrastive_loss(torch.eye(8), torch.eye(8), 0.01).item() < 1e-6


@given(seed=st.integers(0, 100))
def test_the_order_of_the_pairs_does_not_matter(seed):
    torch.manual_seed(seed)
    sources, targets = torch.randn(2, 5, 4, dtype=torch.float64)
    order = torch.randperm(5)
    shuffled = contrastive_loss(sources[order], targets[order], 0.5)
    assert torch.isclose(contrastive_loss(sources, targets, 0.5), shuffled)


def test_bfloat16_vectors_are_compared_in_float32():
    torch.manual_seed(0)
    sink = 100 * torch.ones(64)  # a shared component makes all cosines nearly 1
    sources, targets = (torch.randn(2, 16, 64) + sink).bfloat16()
    loss = contrastive_loss(sources, targets, 0.1)
    exact = contrastive_loss(sources.double(), targets.double(), 0.1)
    assert loss.dtype == torch.float32
    assert abs(loss.item() - exact.item()) < 1e-5


def test_both_sides_get_a_gradient():
    sources = torch.randn(4, 8, requires_grad=True)
    targets = torch.randn(4, 8, requires_grad=True)
    contrastive_loss(sources, targets, 0.1).backward()
    assert sources.grad.abs().sum() > 0
    assert targets.grad.abs().sum() > 0


def test_both_directions_are_the_mean_of_the_formula_each_way():
    torch.manual_seed(0)
    sources, targets = torch.randn(2, 5, 4, dtype=torch.float64)
    there, back = plain_loss(sources, targets, 0.3), plain_loss(targets, sources, 0.3)
    loss = AlignmentLoss(0.3, directions="both")(sources, targets).item()
    assert not math.isclose(there, back, rel_tol=1e-3)
    assert math.isclose(loss, (there + back) / 2, rel_tol=1e-10)


def test_known_values():
    # Orthonormal pairs: cosines 1 and 0, so each row costs log(1 + (B - 1) exp(-1 / tau)).
    for batch, temperature in [(2, 1.0), (32, 0.1), (32, 1.5)]:
        expected = math.log(1 + (batch - 1) * math.exp(-1 / temperature))
        for directions in ("one", "both"):
            loss = AlignmentLoss(temperature, directions)(torch.eye(batch), torch.eye(batch))
            assert math.isclose(loss.item(), expected, rel_tol=1e-5)
    assert math.isclose(expected, 2.829, abs_tol=1e-3)  # the floor at 1.5 is far from zero


@given(
    texts=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=6),
    directions=st.sampled_from(["one", "both"]),
    seed=st.integers(0, 100),
)
def test_duplicates_of_either_side_are_no_negatives(texts, directions, seed):
    torch.manual_seed(seed)
    sources, targets = torch.randn(2, len(texts), 3, dtype=torch.float64)

    def is_masked(i, j):
        return i != j and (texts[i][0] == texts[j][0] or texts[i][1] == texts[j][1])

    expected = plain_loss(sources, targets, 0.5, is_masked)
    if directions == "both":
        expected = (expected + plain_loss(targets, sources, 0.5, is_masked)) / 2
    keys = torch.tensor(texts).unbind(1)
    objective = AlignmentLoss(0.5, directions, mask_duplicates=True)
    assert math.isclose(
        objective(sources, targets, *keys).item(), expected, rel_tol=1e-10, abs_tol=1e-12
    )
    unmasked = AlignmentLoss(0.5)(sources, targets, *keys)
    assert torch.equal(unmasked, contrastive_loss(sources, targets, 0.5))


@pytest.mark.parametrize("directions", ["one", "both"])
@pytest.mark.parametrize("is_masked", [False, True])
def test_the_loss_of_a_large_batch_is_made_block_by_block(monkeypatch, directions, is_masked):
    torch.manual_seed(0)
    sources, targets = torch.randn(2, 10, 4, dtype=torch.float64, requires_grad=True)
    keys = torch.randint(0, 5, (2, 10))
    duplicates = duplicate_pairs(*keys) if is_masked else None

    def loss_and_gradients():
        loss = contrastive_loss(sources, targets, 0.1, directions=directions, duplicates=duplicates)
        return loss, *torch.autograd.grad(loss, (sources, targets))

    whole = loss_and_gradients()
    for rows in (3, 5):  # four blocks, and two
        monkeypatch.setattr("adaptermix.training.objectives._ROWS", rows)
        for found, expected in zip(loss_and_gradients(), whole, strict=True):
            assert torch.allclose(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("directions", ["one", "both"])
def test_every_pair_of_a_batch_of_any_size_counts(directions):
    torch.manual_seed(0)
    sources, targets = torch.randn(2, 1100, 4)
    logits = functional.normalize(sources) @ functional.normalize(targets).mT / 0.1
    expected = functional.cross_entropy(logits, torch.arange(1100))
    if directions == "both":
        expected = (expected + functional.cross_entropy(logits.mT, torch.arange(1100))) / 2
    loss = contrastive_loss(sources, targets, 0.1, directions=directions)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)


def test_the_cosines_of_a_large_batch_are_not_held(monkeypatch):
    monkeypatch.setattr("adaptermix.training.objectives._ROWS", 8)
    sources, targets = torch.randn(2, 100, 4, requires_grad=True)
    kept = []

    def keep(tensor):
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        contrastive_loss(sources, targets, 0.1, directions="both")
    assert max(kept, default=0) <= 100 * 4


def test_a_pair_is_not_its_own_duplicate():
    keys = torch.tensor([7, 7, 8])
    expected = torch.tensor([[False, True, False], [True, False, False], [False, False, False]])
    assert torch.equal(duplicate_pairs(keys, torch.arange(3)), expected)
    assert torch.equal(duplicate_pairs(torch.arange(3), keys), expected)


def test_a_stopped_gradient_leaves_the_targets_alone_and_the_sources_as_they_were():
    torch.manual_seed(0)
    gradients = []
    for stop in (False, True):
        sources, targets = torch.randn(2, 4, 8, generator=torch.manual_seed(0)).unbind()
        sources.requires_grad_()
        targets.requires_grad_()
        AlignmentLoss(0.1, stop_gradient=stop)(sources, targets).backward()
        gradients.append((sources.grad, targets.grad))
    assert torch.equal(gradients[0][0], gradients[1][0])
    assert gradients[0][1].abs().sum() > 0
    assert gradients[1][1] is None


@given(tokens=st.integers(1, 5), seed=st.integers(0, 100))
def test_preservation_is_the_mean_squared_distance_in_units_of_the_base(tokens, seed):
    torch.manual_seed(seed)
    states, base = torch.randn(2, tokens, 3, dtype=torch.float64)
    total = 0.0
    for moved, old in zip(states.tolist(), base.tolist(), strict=True):
        total += sum((a - b) ** 2 for a, b in zip(moved, old, strict=True)) / sum(
            b * b for b in old
        )
    assert math.isclose(preservation_loss(states, base).item(), total / tokens, rel_tol=1e-10)


def test_preservation_counts_an_attention_sink_as_one_token():
    base = torch.tensor([[1e4, 0.0], [0.0, 1.0]])
    assert preservation_loss(base, base) == 0
    assert preservation_loss(0 * base, base) == 1
    assert preservation_loss(base * torch.tensor([[1.0], [2.0]]), base) == 0.5


def test_no_gradient_flows_to_the_base():
    states, base = torch.ones(2, 3, requires_grad=True), torch.zeros(2, 3, requires_grad=True)
    preservation_loss(states, base + 2).backward()
    assert states.grad.abs().sum() > 0
    assert base.grad is None
