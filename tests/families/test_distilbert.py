"""DistilBERT: a small model that Hugging Face saves, built and asked by the scripts, against Hugging Face's own logits."""

from __future__ import annotations

import json
import shutil
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import safetensors.numpy
import transformers

from helpers import checkpoints
from helpers.checkpoints import pytorch
from helpers.config import ACTIVATIONS, BertConfig
from helpers.errors import InputError
from helpers.qa.windows import Options
from helpers.reader import Reader
from helpers.transforms import widen
from helpers.weights import tensor_shapes
from tests.batches import difference, of_lengths, ragged, run, session_of, theirs
from tests.inputs import SQUAD, change, questions_of, read
from tests.models import arrays_of, randomized, write_onnx
from tests.oracle import Expected, check, expect
from tests.running import MODEL, refused, succeeds

BOUND = 1e-4  # of a logit
LONGEST = 96
SIZES: dict[str, Any] = {
    "dim": 32,
    "n_layers": 3,
    "n_heads": 4,
    "hidden_dim": 48,
    "max_position_embeddings": LONGEST,
    "vocab_size": 30522,
}


class Distilled(NamedTuple):
    """Hugging Face's model, and the folder that it was saved in, with its vocabulary and its engines."""

    model: Any
    folder: Path


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> Distilled:
    folder = tmp_path_factory.mktemp("distilled")
    config = transformers.DistilBertConfig(**SIZES)
    model = randomized(transformers.DistilBertForQuestionAnswering(config), seed=5)
    model.save_pretrained(folder / "model")
    shutil.copy(MODEL / "vocab.txt", folder / "model")
    args = f"-pt model -b 8 -s {LONGEST} --backend onnxruntime"
    succeeds("builder.py", f"{args} -o padded.engine", folder)
    succeeds("builder_varseqlen.py", f"{args} -o packed.engine", folder)
    return Distilled(model, folder)


@pytest.fixture(params=["padded", "packed"])
def reader(request: pytest.FixtureRequest, distilled: Distilled) -> Reader:
    return Reader.open(distilled.folder / f"{request.param}.engine")


@pytest.fixture
def config(distilled: Distilled) -> BertConfig:
    return BertConfig.load(distilled.folder / "model")


# Engines


def test_the_description(reader: Reader) -> None:
    assert reader.description
    assert (reader.description.model_type, reader.description.activation) == ("distilbert", "erf")
    assert reader.description.vocab_size == SIZES["vocab_size"]


@pytest.mark.parametrize("lengths", [[1], [LONGEST] * 3, [5, 90, 1, 33, 64, 2], [17] * 8])
def test_logits(distilled: Distilled, reader: Reader, config: BertConfig, lengths: list[int]) -> None:
    batch = of_lengths(lengths, config, len(lengths))
    expected = theirs(distilled.model, batch)
    assert expected.std() > 1000 * BOUND  # so that equal means something
    assert difference(run(reader.session, batch), expected, batch) <= BOUND


def test_segment_ids_do_not_matter(reader: Reader, config: BertConfig) -> None:
    batch = ragged(config, 4, LONGEST, 3)
    logits = [run(reader.session, batch._replace(segment_ids=np.full_like(batch.segment_ids, i))) for i in (0, 1)]
    np.testing.assert_array_equal(logits[0], logits[1])
    np.testing.assert_array_equal(logits[0], run(reader.session, batch))


# Answers

OPTIONS = Options(sequence_length=64, doc_stride=24, top_k=10)


@pytest.fixture(scope="module")
def asked() -> list[tuple[str, str]]:
    """30 questions, each with its own passage or another one."""
    pairs = list(questions_of(read(SQUAD)).values())
    passages = list(dict.fromkeys(passage for _, passage in pairs))
    others = [(question, passage) for passage, (question, own) in product(passages, pairs) if passage != own]
    return [*pairs, *others[:: len(others) // 18]][:30]


@pytest.fixture(scope="module")
def expected(distilled: Distilled, asked: list[tuple[str, str]]) -> list[Expected]:
    with Reader.open(distilled.folder / "padded.engine") as reader:
        return [expect(distilled.model, reader.tokenizer, passage, question, OPTIONS) for question, passage in asked]


def test_answers(reader: Reader, asked: list[tuple[str, str]], expected: list[Expected]) -> None:
    encoded = reader.encode([passage for _, passage in asked], [question for question, _ in asked], range(len(asked)), OPTIONS)
    assert len(encoded.windows) > 2 * len(asked) == 60
    found = dict(reader.answers(encoded, OPTIONS))
    for i, each in enumerate(expected):
        check(found[i], each, OPTIONS)
    assert len({answer.text for answer in found.values()}) > 5


def test_windows_have_no_segments(reader: Reader, small: Path) -> None:
    def segments(reader: Reader) -> set[int]:
        encoded = reader.encode(["the cat sat"], ["where", "why"], [0, 0], Options(24))
        return set(encoded.batch(encoded.windows).segment_ids.tolist())

    assert segments(reader) == {0}
    assert segments(Reader.open(small / "padded.engine")) == {0, 1}  # of BERT's


def test_a_question_at_the_command_line(distilled: Distilled, reader: Reader) -> None:
    """It is asked by the family that the description names."""
    passage = "The cat sat on the mat, and nobody knew why it did."
    printed = succeeds("inference.py", ["-e", "padded.engine", "-p", passage, "-q", "Who?"], distilled.folder)
    assert f"Answer: '{reader.answer('Who?', passage).text}'\n" in printed


# The configuration


def test_the_configuration(config: BertConfig) -> None:
    assert config == BertConfig(30522, 32, 3, 4, 48, LONGEST, 0, "gelu", 1e-12, "distilbert")
    assert (config.activation, config.head_size) == ("erf", 8)


def test_to_dict_and_back(distilled: Distilled, config: BertConfig) -> None:
    values = config.to_dict()
    assert values == {**SIZES, "activation": "gelu", "model_type": "distilbert"}
    assert values.items() <= read(distilled.folder / "model/config.json").items()
    assert BertConfig.from_dict(values, Path("config.json")) == config


@pytest.mark.parametrize(
    ("changes", "without", "message"),
    [
        ({}, ["dim", "n_layers"], " lacks dim, n_layers: add what the model was trained with"),
        (
            {"hidden_size": 32, "num_hidden_layers": 3},  # BERT's keys are not DistilBERT's
            [*SIZES],
            " lacks vocab_size, dim, n_layers, n_heads, hidden_dim, max_position_embeddings: add what the model was trained with",
        ),
        *[({name: 0}, [], f": {name} must be a positive whole number, not 0") for name in SIZES],
        ({"n_heads": 5}, [], ": dim 32 is not a multiple of n_heads 5"),
        ({"activation": "selu"}, [], f": activation 'selu' is not supported; use one of {', '.join(ACTIVATIONS)}"),
    ],
)
def test_keys_are_named_as_its_own(config: BertConfig, changes: dict[str, Any], without: list[str], message: str) -> None:
    values = {name: value for name, value in config.to_dict().items() if name not in without} | changes
    with pytest.raises(InputError) as error:
        BertConfig.from_dict(values, Path("config.json"))
    assert str(error.value) == f"configuration config.json{message}"


def test_what_its_code_fixes(config: BertConfig) -> None:
    values = {**config.to_dict(), "type_vocab_size": 1, "layer_norm_eps": 0.1}
    assert BertConfig.from_dict(values, Path("config.json")) == config


# Its tensors


def test_tensors(distilled: Distilled, config: BertConfig, tmp_path: Path) -> None:
    """Each of the model's, from either format, and no segment embeddings."""
    weights = checkpoints.load("pytorch", distilled.folder / "model", config)
    write_onnx(tmp_path / "model.onnx", arrays_of(distilled.model))
    found, exported = weights.tensors(), checkpoints.load("onnx", tmp_path / "model.onnx", config).tensors()
    assert {name: array.shape for name, array in found.items()} == tensor_shapes(config)
    assert weights.embeddings.token_type is None
    assert all(np.array_equal(array, exported[name]) for name, array in found.items())
    arrays = arrays_of(distilled.model)
    assert {array.tobytes() for array in found.values()} == {array.tobytes() for array in arrays.values()}
    attention, layer = distilled.model.distilbert.transformer.layer[2].attention, weights.layers[2]
    for ours, module in ((layer.query, attention.q_lin), (layer.key, attention.k_lin), (layer.value, attention.v_lin)):
        np.testing.assert_array_equal(ours.weight, module.weight.detach().numpy())


def spoiled(folder: Path, distilled: Distilled, **changes: Any) -> Path:
    """A copy of the checkpoint with some tensors replaced, or left out where None."""
    shutil.copytree(distilled.folder / "model", folder / "model")
    arrays = {**arrays_of(distilled.model), **changes}
    kept = {name: array for name, array in arrays.items() if array is not None}
    safetensors.numpy.save_file(kept, folder / "model/model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"distilbert.transformer.layer.1.attention.q_lin.weight": None}, "lacks 1 of 54 tensors: {}"),
        ({"distilbert.transformer.layer.0.sa_layer_norm.bias": None}, "lacks 1 of 54 tensors: {}"),
        ({"distilbert.embeddings.LayerNorm.weight": None, "qa_outputs.bias": None}, "lacks 2 of 54 tensors: {}, {}"),
        ({"distilbert.transformer.layer.2.ffn.lin1.bias": np.ones(47, np.float32)}, "{}: expected [48], found [47]"),
        ({"distilbert.transformer.layer.2.ffn.lin2.bias": np.full(32, np.nan, np.float32)}, "holds NaN or infinity in {}"),
        ({"distilbert.transformer.layer.3.ffn.lin2.bias": np.ones(32, np.float32)}, "has 4 encoder layers, its configuration 3"),
    ],
    ids=["query", "layer norm", "two", "shape", "NaN", "layers"],
)
def test_tensors_are_named_as_its_own(distilled: Distilled, tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    folder = spoiled(tmp_path, distilled, **changes)
    told = refused("builder.py", "-pt model -o new.engine -s 64 --backend onnxruntime", folder, says.format(*changes))
    assert told.startswith("error: model/model.safetensors ")


def test_a_bert_that_calls_itself_a_distilbert(work: Path) -> None:
    """And the other way round: no tensor is found, and none is taken for another."""
    change(work / "model/config.json", "hidden_size", "num_hidden_layers", "num_attention_heads", **{**SIZES, "vocab_size": 60})
    change(work / "model/config.json", model_type="distilbert")
    names = ("embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight", "embeddings.LayerNorm.weight")
    says = f"lacks 52 of 54 tensors: {', '.join(f'distilbert.{name}' for name in names)}, and 49 more\n"
    refused("builder.py", "-pt model -o new.engine -s 64 --backend onnxruntime", work, says)


# Written again


def test_save(distilled: Distilled, config: BertConfig, tmp_path: Path) -> None:
    """A wider one is again a DistilBERT of the same logits, also for Hugging Face."""
    weights, wide = widen(checkpoints.load("pytorch", distilled.folder / "model", config), config, 2)
    pytorch.save(tmp_path, weights, wide, distilled.folder / "model/vocab.txt")
    assert json.loads((tmp_path / "config.json").read_text()) == {**config.to_dict(), "dim": 64, "hidden_dim": 96}
    again = checkpoints.load("pytorch", tmp_path, BertConfig.load(tmp_path))
    batch = ragged(config, 3, 40, 9)
    logits = run(session_of(again, wide, tmp_path), batch)
    assert difference(logits, theirs(distilled.model, batch), batch) <= 2e-2  # weights were rounded to float16
    model = transformers.DistilBertForQuestionAnswering.from_pretrained(tmp_path).float().eval()
    assert difference(logits, theirs(model, batch), batch) <= BOUND
