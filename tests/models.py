"""Small BERT models for tests: every tensor is random, so that two that were swapped show."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from safetensors.numpy import save_file

from helpers.config import BertConfig
from helpers.weights import BertWeights, random_weights

if TYPE_CHECKING:
    import transformers

VOCAB = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", "?", *ascii_lowercase, *(f"##{c}" for c in ascii_lowercase))


def small_config(**changes: Any) -> BertConfig:
    """Two layers of four heads of eight; `changes` replace what they name."""
    sizes: dict[str, Any] = {
        "vocab_size": len(VOCAB),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        "hidden_act": "gelu_new",
    }
    return BertConfig(**{**sizes, **changes})


def shaped(heads: int, head_size: int, layers: int, inner: int, **changes: Any) -> BertConfig:
    """A configuration of other sizes than the small one."""
    sizes = {"num_attention_heads": heads, "hidden_size": heads * head_size, "num_hidden_layers": layers}
    return small_config(**sizes, intermediate_size=inner, **changes)


SHAPES = (
    shaped(2, 16, 1, 40),
    shaped(5, 16, 3, 96, max_position_embeddings=9),
    shaped(3, 32, 2, 80, layer_norm_eps=1e-2),
    shaped(1, 32, 4, 200, type_vocab_size=3),
    shaped(1, 64, 2, 24),
    shaped(2, 64, 1, 256, layer_norm_eps=1e-5),
    shaped(1, 80, 2, 64),
    shaped(2, 80, 1, 33, vocab_size=7),
    shaped(4, 8, 4, 7, hidden_act="gelu_pytorch_tanh"),
    shaped(3, 1, 2, 5),
    shaped(2, 24, 2, 64, hidden_act="gelu"),
)


def shape_name(config: BertConfig) -> str:
    """For the names of tests."""
    return f"{config.num_attention_heads}x{config.head_size}-{config.num_hidden_layers}layers"


def random_model(config: BertConfig, seed: int = 0) -> transformers.BertForQuestionAnswering:
    """Hugging Face's model, to be asked for logits, in evaluation mode; LayerNorms and biases are random too."""
    import transformers

    values = {name: value for name, value in config.to_dict().items() if name != "model_type"}
    return randomized(transformers.BertForQuestionAnswering(transformers.BertConfig(**values)), seed)


def randomized(model: Any, seed: int) -> Any:
    """A model of Hugging Face's in evaluation mode, with every parameter random, those of layer norms too."""
    import torch

    torch.set_num_threads(1)  # ONNX Runtime's own threads take the rest
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if name.lower().endswith(("layernorm.weight", "layer_norm.weight")) else 0.0
            parameter.copy_(centre + 0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def weights_of(model: transformers.BertForQuestionAnswering, ranges: Mapping[str, float] | None = None) -> BertWeights:
    """What every loader must give for a file of this model."""
    return BertWeights.from_tensors(arrays_of(model), ranges)


def arrays_of(model: transformers.BertForQuestionAnswering) -> dict[str, np.ndarray]:
    """The model's own names and float32 arrays."""
    return {name: tensor.numpy().copy() for name, tensor in model.state_dict().items() if tensor.is_floating_point()}


def write_vocab(path: Path, size: int = len(VOCAB)) -> None:
    """Writes a vocabulary that spells every lower-case word, letter by letter; beyond its tokens it has [unusedN]."""
    tokens = [*VOCAB, *(f"[unused{i}]" for i in range(size - len(VOCAB)))][:size]
    path.write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")


def small_tensors(**changes: Any) -> dict[str, np.ndarray]:
    """Weights of the small configuration that are large enough for a model to prefer some tokens over others."""
    tensors = random_weights(small_config(**changes)).tensors()
    return {name: array * np.float32(1 if "LayerNorm" in name else 10) for name, array in tensors.items()}


# Files


def write_model(folder: Path, config: BertConfig, arrays: Mapping[str, np.ndarray]) -> None:
    """A Hugging Face folder: weights, configuration and a vocabulary of letters."""
    folder.mkdir(exist_ok=True)
    save_file(dict(arrays), str(folder / "model.safetensors"))
    (folder / "config.json").write_text(json.dumps(config.to_dict()), encoding="utf-8")
    write_vocab(folder / "vocab.txt", config.vocab_size)


def write_onnx(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """An ONNX file with the arrays as initializers, and no network."""
    initializers = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = onnx.helper.make_graph([], "bert", [], [], initializers)
    onnx.save(onnx.helper.make_model(graph), str(path))


# TensorFlow's names of BERT (google-research/bert), N being the layer; kernels are [in, out].
TENSORFLOW_NAMES = {
    "bert.embeddings.word_embeddings.weight": "bert/embeddings/word_embeddings",
    "bert.embeddings.position_embeddings.weight": "bert/embeddings/position_embeddings",
    "bert.embeddings.token_type_embeddings.weight": "bert/embeddings/token_type_embeddings",
    "bert.embeddings.LayerNorm.weight": "bert/embeddings/LayerNorm/gamma",
    "bert.embeddings.LayerNorm.bias": "bert/embeddings/LayerNorm/beta",
    "bert.encoder.layer.N.attention.self.query.weight": "bert/encoder/layer_N/attention/self/query/kernel",
    "bert.encoder.layer.N.attention.self.query.bias": "bert/encoder/layer_N/attention/self/query/bias",
    "bert.encoder.layer.N.attention.self.key.weight": "bert/encoder/layer_N/attention/self/key/kernel",
    "bert.encoder.layer.N.attention.self.key.bias": "bert/encoder/layer_N/attention/self/key/bias",
    "bert.encoder.layer.N.attention.self.value.weight": "bert/encoder/layer_N/attention/self/value/kernel",
    "bert.encoder.layer.N.attention.self.value.bias": "bert/encoder/layer_N/attention/self/value/bias",
    "bert.encoder.layer.N.attention.output.dense.weight": "bert/encoder/layer_N/attention/output/dense/kernel",
    "bert.encoder.layer.N.attention.output.dense.bias": "bert/encoder/layer_N/attention/output/dense/bias",
    "bert.encoder.layer.N.attention.output.LayerNorm.weight": "bert/encoder/layer_N/attention/output/LayerNorm/gamma",
    "bert.encoder.layer.N.attention.output.LayerNorm.bias": "bert/encoder/layer_N/attention/output/LayerNorm/beta",
    "bert.encoder.layer.N.intermediate.dense.weight": "bert/encoder/layer_N/intermediate/dense/kernel",
    "bert.encoder.layer.N.intermediate.dense.bias": "bert/encoder/layer_N/intermediate/dense/bias",
    "bert.encoder.layer.N.output.dense.weight": "bert/encoder/layer_N/output/dense/kernel",
    "bert.encoder.layer.N.output.dense.bias": "bert/encoder/layer_N/output/dense/bias",
    "bert.encoder.layer.N.output.LayerNorm.weight": "bert/encoder/layer_N/output/LayerNorm/gamma",
    "bert.encoder.layer.N.output.LayerNorm.bias": "bert/encoder/layer_N/output/LayerNorm/beta",
    "qa_outputs.weight": "cls/squad/output_weights",
    "qa_outputs.bias": "cls/squad/output_bias",
}


def tensorflow_name(name: str) -> str:
    layer = re.search(r"\d+", name)
    number = layer[0] if layer else ""
    return TENSORFLOW_NAMES[re.sub(r"\.\d+\.", ".N.", name)].replace("_N", f"_{number}")


def write_variables(path: Path, variables: Mapping[str, np.ndarray]) -> None:
    """A TensorFlow 1 checkpoint with the prefix `path`."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow

    tf1 = tensorflow.compat.v1
    with tensorflow.Graph().as_default(), tf1.Session() as session:
        made = [tf1.Variable(array, name=name) for name, array in variables.items()]
        session.run(tf1.global_variables_initializer())
        tf1.train.Saver(made).save(session, str(path), write_meta_graph=False)


def write_tensorflow(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    names = {name: tensorflow_name(name) for name in arrays}
    write_variables(path, {to: arrays[name].T if to.endswith("kernel") else arrays[name] for name, to in names.items()})
