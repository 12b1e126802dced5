import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from adaptermix.objectives import contrastive_loss


def plain_loss(sources, targets, temperature):
    """The paper's equation 1 as a double loop in float64, averaged over the sources."""
    total = 0.0
    for i in range(len(sources)):
        cosines = []
        for j in range(len(targets)):
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
