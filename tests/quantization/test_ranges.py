"""Which range is whose, in a checkpoint's spelling and in the network's, and where a range follows its tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from helpers.errors import InputError
from helpers.quantization import ranges
from helpers.sites import bert_sites
from helpers.transforms import pad_heads, widen
from helpers.weights import random_weights
from tests.batches import ragged
from tests.models import random_model, small_config, weights_of
from tests.quantized import LAYER, NEXT, QUANTIZERS, SITES, SITES_WITH_SUMS, SUMS, TENSORS, largest, tensors_of

OWN = {name: 1.0 + i for i, name in enumerate(QUANTIZERS)}  # a range of its own for each, so that two that were swapped show
QUERY = f"{LAYER}.attention.self.qv_a_input_quantizer"


def test_quantizers() -> None:
    assert ranges.quantizers(SITES) == TENSORS
    assert len(ranges.quantizers(bert_sites(12))) == 12 * 8 + 1
    only = ranges.quantizers(bert_sites(1))
    assert only[f"{LAYER}.output.LayerNorm"] == ("bert.encoder.final_input_quantizer",)
    assert set(only) == {name for name in TENSORS if not name.startswith(NEXT)}


def test_from_checkpoint() -> None:
    found = ranges.from_checkpoint({**OWN, f"{LAYER}.attention.self.key._input_quantizer": 99.0, "other": 98.0}, SITES)
    numbers = iter(range(1, 22))
    assert found == {tensor: float([next(numbers) for _ in names][-1]) for tensor, names in TENSORS.items()}


@pytest.mark.parametrize("greatest", ["qv_a", "qv_b", "av_b"])
def test_query_key_and_value_share_the_largest_range(greatest: str) -> None:
    given = {name: 2.0 if "self." in name else 1.0 for name in QUANTIZERS}
    given[f"{NEXT}.attention.self.{greatest}_input_quantizer"] = 5.0
    given[f"{NEXT}.attention.self.av_a_input_quantizer"] = 7.0  # probabilities are none of the three
    found = ranges.from_checkpoint(given, SITES)
    assert (found[f"{LAYER}.attention.self.qkv"], found[f"{NEXT}.attention.self.qkv"]) == (2.0, 5.0)
    assert found[f"{NEXT}.attention.self.probabilities"] == 7.0


@pytest.mark.parametrize("lacks", [[0], [20], [1, 2, 3], [4, 7, 11, 20], range(21)], ids=str)
def test_missing_ranges(lacks: Sequence[int]) -> None:
    missing = {QUANTIZERS[i] for i in lacks}
    with pytest.raises(InputError, match=rf"^int8 needs {len(missing)} activation ranges that the checkpoint lacks: ") as e:
        ranges.from_checkpoint({name: 1.0 for name in QUANTIZERS if name not in missing}, SITES)
    told = [f"{name}._amax" for name in sorted(missing)[:3]]
    assert str(e.value).split(": ")[1] == ", ".join(told + [f"and {len(missing) - 3} more"] * (len(missing) > 3))


def test_to_checkpoint_and_back() -> None:
    found = {name: 1.0 + i for i, name in enumerate(TENSORS)}
    given = ranges.to_checkpoint(found, SITES)
    assert given == {quantizer: found[name] for name, names in TENSORS.items() for quantizer in names}
    assert ranges.from_checkpoint(given, SITES) == found


def test_of_projections() -> None:
    given = {name: 1.0 + i for i, name in enumerate({**TENSORS, **SUMS})}
    kept = ["bert.embeddings"]
    for layer in (LAYER, NEXT):
        kept += [f"{layer}.{part}" for part in ("attention.output.LayerNorm", "intermediate.gelu", "output.LayerNorm")]
        kept.append(f"{layer}.attention.self")  # the context
    for sites in (SITES, SITES_WITH_SUMS):
        assert ranges.of_projections(given, sites) == {name: given[name] for name in kept}


def test_ranges_of_megatrons_sums() -> None:
    assert ranges.quantizers(SITES_WITH_SUMS) == {**TENSORS, **SUMS}
    given = {**OWN, **{quantizer: 50.0 + i for i, [quantizer] in enumerate(SUMS.values())}}
    found = ranges.from_checkpoint(given, SITES_WITH_SUMS)
    assert {name: found[name] for name in SUMS} == {name: given[quantizer] for name, [quantizer] in SUMS.items()}
    assert ranges.from_checkpoint(given, SITES) == {name: amax for name, amax in found.items() if name not in SUMS}
    back = ranges.to_checkpoint(found, SITES_WITH_SUMS)
    assert set(back) == set(given)
    assert ranges.from_checkpoint(back, SITES_WITH_SUMS) == found
    assert not any("residual" in name for name in ranges.to_checkpoint(found, SITES))


# Ranges of transformed models


def test_transforms_scale_the_range_of_the_query_only() -> None:
    config = small_config()  # heads of 8
    weights = replace(random_weights(config), ranges=OWN)
    wide, _ = widen(weights, config, 4)
    assert wide.ranges == {name: amax / 2 if ".qv_a_" in name else amax for name, amax in OWN.items()}
    padded = pad_heads(weights, 4, 32)
    assert padded.ranges == {name: amax * 2 if ".qv_a_" in name else amax for name, amax in OWN.items()}
    assert weights.ranges == OWN


@pytest.mark.parametrize("transform", ["pad_heads", "widen"])
def test_a_transformed_query_keeps_to_its_scaled_range(transform: str) -> None:
    """The largest query of the transformed model is as far within its range as that of the model before."""
    config = small_config()
    model = random_model(config, 2)
    before = tensors_of(model, ragged(config, 3, 12, 0))
    weights = weights_of(model, {QUERY: largest(before["query"])})
    x = before["bert.embeddings"]
    if transform == "widen":
        weights, _ = widen(weights, config, 2)
        x = np.concatenate([x, x], -1)
    else:
        weights = pad_heads(weights, 4, 32)
    query = x @ weights.layers[0].query.weight.T + weights.layers[0].query.bias
    np.testing.assert_allclose(largest(query), weights.ranges[QUERY], rtol=1e-4)
