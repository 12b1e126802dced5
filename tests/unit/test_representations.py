import torch
from hypothesis import given
from hypothesis import strategies as st

from adaptermix.representations import cosine_similarities, mean_pool, retrieval_accuracy


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
