"""What every loader ends with: tensors are held against their configuration, and become BertWeights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers.checkpoints.assembly import assemble, check_depth, check_tensors
from helpers.config import BertConfig
from helpers.errors import InputError
from helpers.weights import BertWeights, random_weights
from tests.models import arrays_of, random_model, small_config

ARRAYS = arrays_of(random_model(small_config()))
Arrays = dict[str, np.ndarray]


def assembled(arrays: Arrays, config: BertConfig) -> BertWeights:
    return assemble(arrays, config, Path("weights"), dict.fromkeys(arrays, "float32"))


def test_assemble() -> None:
    ranges = {"bert.encoder.final_input_quantizer": 4.5}
    wide = {name: array.astype(np.float64, order="F") for name, array in ARRAYS.items()}
    beside = {"bert.pooler.dense.bias": np.full(32, np.nan)}
    weights = assemble(
        {**wide, **beside}, small_config(), Path("weights"), dict.fromkeys([*wide, *beside], "float64"), ranges=ranges
    )
    found = weights.tensors()
    assert set(found) == set(ARRAYS)
    assert all(array.dtype == np.float32 and array.flags["C_CONTIGUOUS"] for array in found.values())
    assert all(np.array_equal(found[name], array) for name, array in ARRAYS.items())
    assert weights.ranges == ranges


@pytest.mark.parametrize(
    "beside",
    ["head.layers.7.weight", "bert.pooler.layer.7.weight", "cls/layer_7/kernel", "bert.encoder.layer.7x.bias"],
)
def test_layers_of_other_parts_are_not_counted(beside: str) -> None:
    weights = assemble(ARRAYS, small_config(), Path("weights"), dict.fromkeys([*ARRAYS, beside], "float32"))
    assert len(weights.layers) == 2


Change = Callable[[Arrays], None]


def put(name: str, array: np.ndarray) -> Change:
    return lambda arrays: arrays.update({name: array})


def spoil(name: str, value: float) -> Change:
    def change(arrays: Arrays) -> None:
        arrays[name].flat[-1] = value

    return change


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            [put("qa_outputs.weight", np.ones((3, 32)))],
            "does not fit its configuration: qa_outputs.weight: expected [2, 32], found [3, 32]",
        ),
        (
            [
                put("bert.embeddings.position_embeddings.weight", np.ones((32, 64))),
                put("bert.encoder.layer.1.output.dense.bias", np.ones(())),
            ],
            "does not fit its configuration: bert.embeddings.position_embeddings.weight: expected [64, 32], found [32, 64]; "
            "bert.encoder.layer.1.output.dense.bias: expected [32], found []",
        ),
        ([spoil("qa_outputs.bias", np.nan)], "holds NaN or infinity in qa_outputs.bias"),
        (
            [spoil("bert.encoder.layer.0.attention.self.key.weight", np.inf), spoil("bert.embeddings.LayerNorm.bias", -np.inf)],
            "holds NaN or infinity in bert.embeddings.LayerNorm.bias, bert.encoder.layer.0.attention.self.key.weight",
        ),
    ],
    ids=["shape", "two shapes", "NaN", "infinities"],
)
def test_all_that_is_wrong_is_listed(changes: list[Change], expected: str) -> None:
    arrays = {name: array.copy() for name, array in ARRAYS.items()}
    for change in changes:
        change(arrays)
    for check in (
        lambda: assembled(arrays, small_config()),
        lambda: check_tensors(arrays, small_config(), "weights"),
    ):
        with pytest.raises(InputError) as caught:
            check()
        assert str(caught.value) == f"weights {expected}"


def test_layers_are_counted() -> None:
    with pytest.raises(InputError, match=r"^weights has 2 encoder layers, its configuration 1$"):
        assembled(ARRAYS, small_config(num_hidden_layers=1))
    one = {name: array for name, array in ARRAYS.items() if ".layer.1." not in name}
    with pytest.raises(InputError) as caught:
        assembled(one, small_config())
    first = [f"bert.encoder.layer.1.attention.self.{part}" for part in ("query.weight", "query.bias", "key.weight")]
    assert str(caught.value) == f"weights lacks 16 of 39 tensors: {', '.join(first)}, and 13 more"


@pytest.mark.parametrize(
    ("size", "count"),
    [("vocab_size", 1), ("hidden_size", 36), ("intermediate_size", 6), ("max_position_embeddings", 1), ("type_vocab_size", 1)],
)
def test_every_size_is_held_against_the_tensors(size: str, count: int) -> None:
    """The first three that do not fit are told, and how many more there are."""
    config = small_config()
    twice = replace(config, **{size: 2 * getattr(config, size)})
    with pytest.raises(InputError) as caught:
        check_tensors(random_weights(config).tensors(), twice, "weights")
    assert str(caught.value).count("expected [") == min(count, 3)
    assert str(caught.value).endswith(f"; and {count - 3} more") == (count > 3)


def test_check_tensors_names_source_and_spelling() -> None:
    arrays = {**ARRAYS, "bert.pooler.dense.bias": np.array([np.nan])}
    check_tensors(arrays, small_config(), "model.bin")
    del arrays["qa_outputs.bias"], arrays["bert.encoder.layer.0.attention.self.key.bias"]
    with pytest.raises(InputError) as caught:
        check_tensors(arrays, small_config(), "model.bin", str.upper)
    assert str(caught.value) == "model.bin lacks 2 of 39 tensors: BERT.ENCODER.LAYER.0.ATTENTION.SELF.KEY.BIAS, QA_OUTPUTS.BIAS"


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_check_depth_leaves_fewer_layers_to_check_tensors(depth: int) -> None:
    def layers(count: int) -> list[str]:
        return ["bert.embeddings.LayerNorm.bias", *(f"bert.encoder.layer.{i}.output.dense.bias" for i in range(count))]

    check_depth(layers(depth), small_config(), "model.bin")
    with pytest.raises(InputError, match=r"^model.bin has 3 encoder layers, its configuration 2$"):
        check_depth(layers(3), small_config(), "model.bin")


# Spelled otherwise


def test_the_names_of_an_encoder_alone() -> None:
    """Without the model's prefix, beside which a head may stand."""
    bare = {name[len("bert.") :] if name.startswith("bert.") else name: array for name, array in ARRAYS.items()}
    assert {name for name in bare if name in ARRAYS} == {"qa_outputs.weight", "qa_outputs.bias"}
    found = assembled(bare, small_config()).tensors()
    assert all(found[name] is array or np.array_equal(found[name], array) for name, array in ARRAYS.items())
    assert found.keys() == ARRAYS.keys()
    with pytest.raises(InputError, match=r"^weights has 2 encoder layers, its configuration 1$"):
        assembled(bare, small_config(num_hidden_layers=1))


def test_ranges_of_another_family_s_names() -> None:
    config = small_config(model_type="ernie", extra={"use_task_id": False})
    arrays = {name.replace("bert.", "ernie.", 1): array for name, array in ARRAYS.items()}
    amax = {"ernie.encoder.final_input_quantizer": 4.5, "ernie.encoder.layer.0.attention.self.query._input_quantizer": 2.0}
    weights = assemble(arrays, config, Path("weights"), dict.fromkeys(arrays, "float32"), ranges=amax)
    assert weights.ranges == {name.replace("ernie.", "bert."): value for name, value in amax.items()}
