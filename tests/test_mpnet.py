"""MPNet's distances, against Hugging Face's."""

from __future__ import annotations

import numpy as np
import torch
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

from helpers.mpnet import BUCKETS, buckets


def test_buckets() -> None:
    """Of every distance from query to key."""
    found = buckets(512)
    assert found.tolist() == MPNetEncoder.relative_position_bucket(torch.arange(-511, 512)).tolist()
    assert set(found) == {*range(BUCKETS)} - {BUCKETS // 2}  # each is some distance's, but that of zero to the other side
    assert np.array_equal(buckets(3), found[509:514])
    assert len(buckets(1)) == 1
