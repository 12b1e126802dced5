import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adaptermix.retrieval.margin import nearest, normalized, retrieve


def plain(sources, targets, k):
    """Return what xsim's definition retrieves for every source, by loops in float64."""
    cosine = [
        [float(x @ y / np.linalg.norm(x) / np.linalg.norm(y)) for y in targets] for x in sources
    ]
    size = len(cosine)
    column = [[cosine[i][j] for i in range(size)] for j in range(size)]
    near = [sorted(range(size), key=lambda j: -cosine[i][j])[:k] for i in range(size)]
    own = [np.mean([cosine[i][j] for j in near[i]]) for i in range(size)]
    other = [np.mean(sorted(column[j], reverse=True)[:k]) for j in range(size)]
    margin = [{j: cosine[i][j] / ((own[i] + other[j]) / 2) for j in near[i]} for i in range(size)]
    is_mexa = [
        all(
            cosine[i][i] > c
            for c in [
                *(cosine[i][j] for j in range(size) if j != i),
                *(cosine[j][i] for j in range(size) if j != i),
            ]
        )
        for i in range(size)
    ]
    return [max(scores, key=scores.__getitem__) for scores in margin], is_mexa


def some_sides(seed, size, noise):
    """Return translations that resemble each other, around a mean that makes cosines positive."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(size, 6, generator=generator, dtype=torch.float64)  # noqa: E731
    meaning = draw() + 0.5
    return meaning + noise * draw(), meaning + noise * draw()


@given(
    seed=st.integers(0, 1000),
    size=st.integers(1, 12),
    k=st.integers(1, 6),
    noise=st.sampled_from([0.3, 1.0, 3.0]),
    cells=st.sampled_from([1, 20, 1000]),
)
def test_both_directions_and_mexa_equal_a_double_loop(seed, size, k, noise, cells):
    sources, targets = some_sides(seed, size, noise)
    found = retrieve(normalized(sources), normalized(targets), k, cells=cells)
    forward, is_mexa = plain(sources.numpy(), targets.numpy(), k)
    backward, _ = plain(targets.numpy(), sources.numpy(), k)
    assert found.targets.tolist() == forward
    assert found.sources.tolist() == backward
    assert found.forward_accuracy == pytest.approx(np.mean(np.array(forward) == range(size)))
    assert found.backward_accuracy == pytest.approx(np.mean(np.array(backward) == range(size)))
    assert found.mexa == pytest.approx(np.mean(is_mexa))


def test_the_margin_finds_what_the_cosine_alone_misses():
    # Target 0 is near to every source: by cosine it would be the answer of all three.
    directions = torch.tensor([[0.0, 40.0, -40.0], [0.0, 85.0, -85.0]]).deg2rad()
    sources, targets = torch.stack([directions.cos(), directions.sin()], dim=-1)
    assert (sources @ targets.mT).argmax(dim=1).tolist() == [0, 0, 0]
    found = retrieve(sources, targets, 2)
    assert found.targets.tolist() == [0, 1, 2]
    assert found.mexa == pytest.approx(1 / 3)
    assert retrieve(sources, targets, 1).targets.tolist() == [0, 0, 0]  # one candidate each


def test_no_sentences_are_refused():
    nothing = torch.empty(0, 3)
    with pytest.raises(ValueError, match="^there are no sentences$"):
        retrieve(nothing, nothing)


@given(seed=st.integers(0, 1000), size=st.integers(2, 40))
def test_identical_representations_are_always_retrieved(seed, size):
    vectors = normalized(torch.randn(size, 8, generator=torch.Generator().manual_seed(seed)))
    found = retrieve(vectors, vectors)
    assert (found.forward_accuracy, found.backward_accuracy, found.mexa) == (1, 1, 1)


def test_shuffled_representations_are_retrieved_by_chance():
    generator = torch.Generator().manual_seed(0)
    sources, targets = torch.randn(2, 500, 16, generator=generator)
    found = retrieve(normalized(sources), normalized(targets))
    assert found.forward_accuracy < 0.015  # chance is 0.002: one in 500
    shuffled = sources[torch.randperm(500, generator=generator)]
    assert retrieve(normalized(sources), normalized(shuffled)).forward_accuracy < 0.015


@given(seed=st.integers(0, 1000))
def test_the_order_of_sentences_does_not_matter(seed):
    sources, targets = map(normalized, some_sides(seed, 12, 1.0))
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    straight, moved = retrieve(sources, targets), retrieve(sources[order], targets[order])
    assert moved.forward_accuracy == straight.forward_accuracy
    assert moved.mexa == straight.mexa
    assert order[moved.targets].tolist() == straight.targets[order].tolist()


@given(
    values=st.lists(st.lists(st.integers(0, 2), min_size=9, max_size=9), min_size=1, max_size=6),
    count=st.integers(1, 9),
)
def test_of_equal_neighbors_the_first_is_nearer(values, count):
    found = nearest(torch.tensor(values, dtype=torch.float32), count)
    for row, indices in zip(values, found.indices.tolist(), strict=True):
        assert indices == sorted(range(9), key=lambda at: (-row[at], at))[:count]


def test_equal_translations_count_for_neither_mexa_nor_the_second_of_them():
    vectors = torch.eye(4)[[0, 0, 1, 2]]
    found = retrieve(vectors, vectors, cells=4)
    assert found.targets.tolist() == [0, 0, 2, 3]
    assert found.mexa == 0.5


@given(
    seed=st.integers(0, 1000),
    size=st.integers(2, 40),
    kinds=st.integers(1, 4),
    k=st.integers(1, 4),
    cells=st.sampled_from([1, 20, 100]),
)
def test_ties_are_broken_in_the_same_way_however_the_matrix_is_cut(seed, size, kinds, k, cells):
    rng = np.random.default_rng(seed)
    sources, targets = (torch.eye(4)[rng.integers(kinds, size=size)] for _ in range(2))
    whole, cut = (retrieve(sources, targets, k, cells=c) for c in (1 << 20, cells))
    assert cut.targets.tolist() == whole.targets.tolist()
    assert cut.sources.tolist() == whole.sources.tolist()
    assert cut.mexa == whole.mexa


@pytest.mark.parametrize("neighbors", [1, 2, 4, 9])
def test_mexa_counts_no_ties_whatever_the_number_of_neighbors(neighbors):
    """Of eight sentences that equal their translations, two are the same."""
    torch.manual_seed(3)
    sentences = normalized(torch.randn(8, 3))
    sentences[7] = sentences[2]
    assert retrieve(sentences, sentences, neighbors).mexa == 6 / 8
