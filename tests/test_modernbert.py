"""ModernBERT's rotary positions, against Hugging Face's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import transformers
from transformers.models.modernbert.modeling_modernbert import ModernBertRotaryEmbedding

from helpers.modernbert import rotary_frequencies


@pytest.mark.parametrize("theta", [10_000.0, 160_000.0, 7.0])
@pytest.mark.parametrize("head_size", [2, 8, 64])
def test_rotary_frequencies(theta: float, head_size: int) -> None:
    rope: Any = {kind: {"rope_type": "default", "rope_theta": theta} for kind in ("full_attention", "sliding_attention")}
    config = transformers.ModernBertConfig(hidden_size=4 * head_size, num_attention_heads=4, rope_parameters=rope)
    theirs: Any = ModernBertRotaryEmbedding(config)
    found = rotary_frequencies(theta, head_size)
    assert (found.dtype, found.shape) == (np.dtype(np.float32), (head_size // 2,))
    np.testing.assert_allclose(found, theirs.full_attention_inv_freq.numpy(), rtol=1e-6)
