"""DeBERTa's distances, against Hugging Face's of both versions."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from transformers.models.deberta import modeling_deberta as first
from transformers.models.deberta_v2 import modeling_deberta_v2 as second

from helpers.deberta import distance_rows, log_buckets
from tests.models import small_config


@pytest.mark.parametrize(
    ("buckets", "farthest"),
    [(256, 512), (256, 1024), (32, 128), (8, 66), (7, 66), (2, 66), (64, 512), (64, 40), (64, 32), (64, 33), (1000, 512)],
)
def test_log_buckets(buckets: int, farthest: int) -> None:
    """Of every distance, as far as the rows go; without a warning where none is far."""
    relative = np.arange(511, -512, -1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = log_buckets(relative, buckets, farthest)
    theirs = second.make_log_bucket_position(torch.from_numpy(relative), buckets, farthest).numpy()
    told = np.isfinite(theirs)  # which a distance beyond the farthest is not where that is no farther than the near ones
    assert told.sum() > 2 * min(farthest, buckets // 2)
    assert np.array_equal(found[told], theirs[told].astype(np.int64))


@pytest.mark.parametrize(("buckets", "most"), [(-1, -1), (-1, 20), (8, -1), (8, 40), (64, -1), (0, 0)])
def test_rows_of_distances(buckets: int, most: int) -> None:
    """As attention itself looks them up, for each query and key of the longest sequence."""
    config = small_config(extra={"position_buckets": buckets, "max_relative_positions": most})
    positions = config.max_position_embeddings
    reach = most if most > 0 else positions
    states = torch.zeros(1, positions, 1)  # of which only the number counts
    plain, bucketed = (
        first.build_relative_position(states, states),
        second.build_relative_position(states, states, buckets, reach),
    )
    assert torch.equal(plain, bucketed) == (buckets <= 0)
    span = buckets if buckets > 0 else reach
    rows = torch.clamp(bucketed[0] + span, 0, 2 * span - 1).long().numpy()
    found = distance_rows(config)
    assert found.shape == (2 * positions - 1,)
    query, key = np.indices(rows.shape)
    assert np.array_equal(found[key - query + positions - 1], rows)
