"""2:4 sparsity: what counts as it, and what pruning keeps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from helpers.quantization.sparsity import is_sparse, matrices, prune
from helpers.weights import Linear, random_weights
from tests.models import small_config


def of_encoder(name: str) -> bool:
    return name.startswith("bert.encoder") and name.endswith("weight") and "LayerNorm" not in name


@pytest.mark.parametrize(
    ("rows", "sparse"),
    [
        ([[1, 2, 0, 0]], True),
        ([[0, 2, 0, -1]], True),
        ([[1, 0, 0, 0], [0, 0, 0, 0]], True),
        ([[1, 2, 3, 0]], False),
        ([[0, 0, 1, 2, 3, 4, 0, 0]], True),
        ([[1, 0, 2, 3, 0, 0, 0, 0]], False),  # half are zero, but not of each four
        ([[1, 2, 0, 0], [1, 1, 1, 0]], False),
        ([[1, 2], [1, 2], [0, 0], [0, 0]], False),  # along the output
        ([[1, 1], [0, 0]], False),  # a row is no multiple of four
        ([[1, 2, 0, 0, 0, 0]], False),
    ],
)
def test_is_sparse(rows: list[list[float]], sparse: bool) -> None:
    assert is_sparse(np.array(rows, np.float32)) is sparse


def test_matrices_are_the_encoders() -> None:
    weights = random_weights(small_config(num_hidden_layers=3))
    expected = [array for name, array in weights.tensors().items() if of_encoder(name)]
    found = matrices(weights)
    assert len(found) == 3 * 6
    assert {id(matrix) for matrix in found} == {id(array) for array in expected}


# Pruned


def test_prune_keeps_the_two_largest_of_every_four() -> None:
    config = small_config(intermediate_size=20)
    dense = random_weights(config, 2)
    sparse = prune(dense).tensors()
    for name, array in dense.tensors().items():
        if not of_encoder(name):
            np.testing.assert_array_equal(sparse[name], array, name)
            continue
        assert sparse[name].shape == array.shape
        for row, kept in zip(array, sparse[name]):
            for i in range(0, len(row), 4):
                largest = sorted(range(i, i + 4), key=lambda place: -abs(row[place]))[:2]
                assert kept[i : i + 4].tolist() == [row[place] if place in largest else 0 for place in range(i, i + 4)]


@pytest.mark.parametrize("value", [0.0, 1.0, -2.0])
def test_prune_where_four_are_alike(value: float) -> None:
    weights = random_weights(small_config())
    layer = replace(weights.layers[0], output=Linear(np.full((32, 48), value, np.float32), weights.layers[0].output.bias))
    pruned = prune(replace(weights, layers=(layer, weights.layers[1])))
    found = pruned.layers[0].output.weight
    assert (np.sort(np.abs(found).reshape(-1, 4)) == [0, 0, abs(value), abs(value)]).all()
    assert all(map(is_sparse, matrices(pruned)))
    assert not any(map(is_sparse, matrices(weights)))


def test_prune_again_and_ranges() -> None:
    once = prune(replace(random_weights(small_config()), ranges={"bert.encoder.final_input_quantizer": 2.0}))
    again = prune(once)
    assert again.ranges == once.ranges == {"bert.encoder.final_input_quantizer": 2.0}
    assert all(np.array_equal(array, again.tensors()[name]) for name, array in once.tensors().items())
