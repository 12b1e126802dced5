import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adaptermix.models.pooling import (
    cosine_similarities,
    mean_pool,
    pool,
    pooling_weights,
    random_pair_cosine,
    retrieval_accuracy,
)


@given(left=st.integers(0, 3), right=st.integers(0, 3), seed=st.integers(0, 100))
def test_padding_on_either_side_does_not_change_the_mean(left, right, seed):
    torch.manual_seed(seed)
    sentence = torch.randn(1, 4, 8, dtype=torch.float64)
    noise = 1e6 * torch.randn(1, left + right, 8, dtype=torch.float64)
    padded = torch.cat([noise[:, :left], sentence, noise[:, left:]], dim=1)
    mask = torch.tensor([[0] * left + [1] * 4 + [0] * right])
    torch.testing.assert_close(mean_pool(padded, mask), sentence.mean(dim=1))


def test_bfloat16_states_are_summed_in_float32():
    states = torch.full((1, 512, 1), 1.0).bfloat16()  # a bfloat16 sum would stop at 256
    pooled = mean_pool(states, torch.ones(1, 512, dtype=torch.long))
    assert pooled.dtype == torch.float32
    assert pooled.item() == 1.0


@given(scale=st.floats(0.01, 100), seed=st.integers(0, 100))
def test_similarities_ignore_vector_length(scale, seed):
    torch.manual_seed(seed)
    sources, targets = torch.randn(2, 4, 8, dtype=torch.float64)
    torch.testing.assert_close(
        cosine_similarities(scale * sources, targets), cosine_similarities(sources, targets)
    )


def test_identical_sides_are_retrieved_and_shifted_ones_are_not():
    vectors = torch.eye(5)
    assert retrieval_accuracy(vectors, vectors) == 1.0
    assert retrieval_accuracy(vectors, vectors.roll(1, dims=0)) == 0.0


def plain_pool(tokens, pooling, skip):
    """Pool one sentence token by token; the weights of SGPT's equation 2 are 1, 2, 3 ..."""
    kept = tokens[skip:] or tokens[-1:]
    if pooling == "last":
        return kept[-1]
    counts = [at if pooling == "weighted" else 1 for at in range(1, len(kept) + 1)]
    return sum(count * token for count, token in zip(counts, kept, strict=True)) / sum(counts)


@given(
    length=st.integers(1, 6),
    left=st.integers(0, 2),
    right=st.integers(0, 2),
    pooling=st.sampled_from(["mean", "weighted", "last"]),
    skip=st.integers(0, 7),
)
def test_every_pooling_is_the_plain_one_wherever_the_padding_is(length, left, right, pooling, skip):
    torch.manual_seed(length)
    tokens = torch.randn(left + length + right, 4, dtype=torch.float64)
    mask = torch.tensor([[0] * left + [1] * length + [0] * right])
    weights = pooling_weights(mask, pooling, skip)
    assert weights.sum().item() == pytest.approx(1)
    assert not weights[mask == 0].any()
    expected = plain_pool([*tokens[left : left + length]], pooling, skip)
    torch.testing.assert_close(pool(tokens[None], weights)[0], expected)


def test_known_weights():
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    weighted = pooling_weights(mask, "weighted", skip=1)
    assert weighted.tolist() == [[0, 1 / 6, 2 / 6, 3 / 6], [0, 0, 0, 1]]
    assert pooling_weights(mask).tolist() == [[0.25] * 4, [0, 0, 0.5, 0.5]]
    assert pooling_weights(mask, "last").tolist() == [[0, 0, 0, 1], [0, 0, 0, 1]]


def test_the_random_cosine_leaves_translations_out():
    torch.manual_seed(0)
    sources, targets = torch.randn(2, 5, 3, dtype=torch.float64)
    cosines = [
        torch.nn.functional.cosine_similarity(sources[i], targets[j], dim=0).item()
        for i in range(5)
        for j in range(5)
        if i != j
    ]
    assert random_pair_cosine(sources, targets) == pytest.approx(sum(cosines) / 20)
    assert random_pair_cosine(torch.eye(4), torch.eye(4)) == 0
    assert random_pair_cosine(sources[:1], targets[:1]) == 0
    two = [float(torch.cosine_similarity(sources[i], targets[1 - i], dim=0)) for i in (0, 1)]
    assert random_pair_cosine(sources[:2], targets[:2]) == pytest.approx(sum(two) / 2)


def test_a_shared_component_shows_as_collapse():
    torch.manual_seed(0)
    sources, targets = torch.randn(2, 20, 16)
    assert abs(random_pair_cosine(sources, targets)) < 0.1
    assert random_pair_cosine(sources + 30, targets + 30) > 0.99
