import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adaptermix.models.pooling import (
    cosine_similarities,
    mean_pool,
    pool,
    pooling_weights,
    retrieval_accuracy,
    retrieval_hits,
    unrelated_cosines,
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


def test_unrelated_cosines_leave_translations_out():
    torch.manual_seed(0)
    sources, targets = torch.randn(2, 5, 3, dtype=torch.float64)
    cosines = torch.cosine_similarity(sources[:, None], targets[None], dim=-1)

    def found(count=5, **keys):
        keys = {name: torch.tensor(values) for name, values in keys.items()}
        return unrelated_cosines(sources[:count], targets[:count], **keys).tolist()

    def expected(*left_out, count=5):
        every = [(i, j) for i in range(count) for j in range(count)]
        return [cosines[i, j].item() for i, j in every if i != j and (i, j) not in left_out]

    assert found() == pytest.approx(expected())
    assert found(2) == pytest.approx(expected(count=2))
    assert found(1) == []
    equal = {"source_keys": [7, 8, 7, 9, 5], "target_keys": [1, 3, 2, 4, 3]}
    others = [(0, 2), (2, 0), (1, 4), (4, 1)]
    assert found(**equal) == pytest.approx(expected(*others))


def test_of_equal_targets_each_is_the_translation():
    vectors = torch.eye(4)[[0, 1, 1, 2]]
    keys = torch.tensor([5, 9, 9, 7])
    assert retrieval_hits(vectors, vectors).tolist() == [True, True, False, True]
    assert retrieval_hits(vectors, vectors, keys).all()
    assert retrieval_hits(vectors.roll(2, dims=0), vectors, keys).tolist() == [False] * 4


def test_a_shared_component_shows_as_collapse():
    torch.manual_seed(0)
    sources, targets = torch.randn(2, 20, 16)
    assert abs(unrelated_cosines(sources, targets).mean()) < 0.1
    assert unrelated_cosines(sources + 30, targets + 30).mean() > 0.99
