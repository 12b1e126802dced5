"""What is computed from the vectors of dev pairs; test_align.py trains."""

import pytest
import torch

from adaptermix.training.alignment import PairVectors


def test_pairs_of_other_languages_do_not_compete():
    """Translations of the same English sentences, and vectors that are nearly aligned."""
    torch.manual_seed(0)
    english = torch.randn(3, 16)
    sources = torch.cat([english + 0.01 * torch.randn(3, 16), english])
    keys = torch.arange(3).repeat(2)
    vectors = PairVectors(sources, english.repeat(2, 1), torch.arange(6), keys)
    assert vectors.retrieval_accuracy([3, 0, 3]) == 1
    assert vectors._replace(target_keys=torch.arange(6)).retrieval_accuracy([6]) < 1
    cosines = torch.cosine_similarity(english[:, None], english[None], dim=-1)
    unrelated = cosines[~torch.eye(3, dtype=torch.bool)].mean().item()
    assert vectors.random_cosine([3, 0, 3]) == pytest.approx(unrelated, abs=0.02)
    assert vectors.random_cosine([1] * 6) == 0
    swapped = vectors._replace(sources=sources[[1, 0, 2, 3, 4, 5]])
    assert swapped.retrieval_accuracy([3, 3]) == pytest.approx(4 / 6)
