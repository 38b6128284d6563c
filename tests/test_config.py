"""BertConfig: files that TensorFlow's and Hugging Face's models come with, and what is said of those that do not fit."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Callable

import pytest
import torch
import transformers

from helpers.commands.flags import FLAGS
from helpers.config import (
    ACTIVATIONS,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TASKS,
    TOKEN_CLASSIFICATION,
    BertConfig,
    check_heads,
    find_config,
)
from helpers.errors import InputError
from tests.models import small_config

# bert_config.json of google-research/bert, uncased_L-24_H-1024_A-16.
GOOGLE = {
    "attention_probs_dropout_prob": 0.1,
    "directionality": "bidi",
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 1024,
    "initializer_range": 0.02,
    "intermediate_size": 4096,
    "max_position_embeddings": 512,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "pooler_fc_size": 768,
    "pooler_num_attention_heads": 12,
    "pooler_num_fc_layers": 3,
    "pooler_size_per_head": 128,
    "pooler_type": "first_token_transform",
    "type_vocab_size": 2,
    "vocab_size": 30522,
}
REQUIRED = [
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
]


def write(folder: Path, values: Any, name: str = "config.json") -> Path:
    path = folder / name
    path.write_text(values if isinstance(values, str) else json.dumps(values), encoding="utf-8")
    return path


def message_of(folder: Path) -> str:
    """The message of the InputError that loading must raise, as commands tell it: one line."""
    with pytest.raises(InputError) as caught:
        BertConfig.load(folder)
    message = caught.value.told(FLAGS)
    assert message.isprintable()
    return message


def test_tensorflow_config(tmp_path: Path) -> None:
    write(tmp_path, GOOGLE, "bert_config.json")
    config = BertConfig.load(tmp_path)
    assert config == BertConfig(30522, 1024, 24, 16, 4096, 512, type_vocab_size=2, hidden_act="gelu", layer_norm_eps=1e-12)
    assert config.head_size == 64


def test_hugging_face_config(tmp_path: Path) -> None:
    changed: dict[str, Any] = {"layer_norm_eps": 1e-5, "type_vocab_size": 3, "hidden_act": "gelu_pytorch_tanh"}
    made = transformers.BertConfig(
        vocab_size=61,
        hidden_size=36,
        num_hidden_layers=5,
        num_attention_heads=3,
        intermediate_size=44,
        max_position_embeddings=70,
        **changed,
    )
    made.save_pretrained(tmp_path)
    config = BertConfig.load(tmp_path)
    assert config == BertConfig(61, 36, 5, 3, 44, 70, **changed)
    assert config.head_size == 12


def test_defaults(tmp_path: Path) -> None:
    write(tmp_path, {name: GOOGLE[name] for name in REQUIRED})
    config = BertConfig.load(tmp_path)
    assert (config.type_vocab_size, config.hidden_act, config.layer_norm_eps) == (2, "gelu", 1e-12)
    assert config.model_type == "bert"


def test_bert_config_comes_before_config(tmp_path: Path) -> None:
    """What only one of them says, and what is nothing to us, may differ."""
    write(tmp_path, {**GOOGLE, "layer_norm_eps": 1e-5, "initializer_range": 7})
    assert BertConfig.load(tmp_path).layer_norm_eps == 1e-5
    write(tmp_path, GOOGLE, "bert_config.json")
    assert BertConfig.load(tmp_path).layer_norm_eps == 1e-12
    assert find_config(tmp_path) == tmp_path / "bert_config.json"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_attention_heads": 8}, "num_attention_heads is 16 and 8"),
        ({"hidden_act": "relu", "hidden_size": 512}, "hidden_size is 1024 and 512, hidden_act is 'gelu' and 'relu'"),
        (dict.fromkeys(REQUIRED, 1), "vocab_size is 30522 and 1, hidden_size is 1024 and 1, num_hidden_layers is 24 and 1"),
    ],
)
def test_two_configurations_that_differ(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    """Weights do not show which one is theirs."""
    first, second = write(tmp_path, GOOGLE, "bert_config.json"), write(tmp_path, {**GOOGLE, **changes})
    assert message_of(tmp_path) == f"configurations {first} and {second} differ: {told}; remove the one that is not the model's"
    second.write_text("{")
    assert message_of(tmp_path).startswith(f"configuration {second} is not JSON: ")


@pytest.mark.parametrize("key", [*REQUIRED, "type_vocab_size"])
@pytest.mark.parametrize("value", [2**31, 10**12, 10**400])
def test_absurd_sizes(key: str, value: int, tmp_path: Path) -> None:
    path = write(tmp_path, {**GOOGLE, key: value})
    kind = "whole number" if key == "type_vocab_size" else "positive whole number"
    most = "1,000" if key == "num_hidden_layers" else "2,147,483,647"
    assert message_of(tmp_path) == f"configuration {path}: {key} must be a {kind} up to {most}, not {value!r:.60}"


@pytest.mark.parametrize("layers", [1001, 10**6, 10**8])
def test_more_layers_than_any_model_has(layers: int, tmp_path: Path) -> None:
    """They are refused before anything is made for each."""
    path, start = write(tmp_path, {**GOOGLE, "num_hidden_layers": layers}), time.process_time()
    assert (
        message_of(tmp_path)
        == f"configuration {path}: num_hidden_layers must be a positive whole number up to 1,000, not {layers}"
    )
    assert time.process_time() - start < 0.1
    write(tmp_path, {**GOOGLE, "num_hidden_layers": 1000})
    assert BertConfig.load(tmp_path).num_hidden_layers == 1000


@pytest.mark.parametrize(
    ("key", "fine", "refused"),
    [
        ("is_decoder", (False, None), (True, "false", 1)),
        ("add_cross_attention", (False, None), (True,)),
        ("is_encoder_decoder", (False,), (True,)),
        ("pruned_heads", ({}, None), ({"0": [1, 2]}, [1])),
    ],
)
def test_another_network(key: str, fine: tuple[Any, ...], refused: tuple[Any, ...], tmp_path: Path) -> None:
    for value in fine:
        write(tmp_path, {**GOOGLE, key: value})
        assert BertConfig.load(tmp_path).hidden_size == 1024
    for value in refused:
        path = write(tmp_path, {**GOOGLE, key: value})
        assert message_of(tmp_path) == f"configuration {path}: {key} is not supported; take a plain encoder"


@pytest.mark.parametrize(("heads", "told"), [(12, 32), (6, 64), (3, 128), (4, 96), (24, 16), (1, 384), (8, 48), (2, 192)])
def test_a_number_of_heads_that_may_be_wrong(heads: int, told: int) -> None:
    said: list[str] = []
    check_heads(small_config(hidden_size=384, num_attention_heads=heads), Path("model"), said.append)
    if told in (32, 64, 80, 96, 128):
        assert said == []
        return
    assert said == [
        f"the configuration in model says num_attention_heads {heads}, which makes heads of {told} channels: "
        "most models have 32, 64, 80, 96 or 128, and weights do not show it"
    ]


def test_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(GOOGLE), encoding="utf-8-sig")
    assert BertConfig.load(tmp_path).hidden_size == 1024


def test_a_key_twice(tmp_path: Path) -> None:
    path = write(tmp_path, json.dumps(GOOGLE)[:-1] + ', "hidden_size": 512}')
    assert message_of(tmp_path) == f"configuration {path} is not JSON that can be read: it has 'hidden_size' twice in one object"


@pytest.mark.parametrize("missing", [["hidden_size"], ["num_attention_heads", "vocab_size"], REQUIRED], ids=["one", "two", "all"])
@pytest.mark.parametrize("name", ["bert_config.json", "config.json"])
def test_missing_keys_are_all_listed(missing: list[str], name: str, tmp_path: Path) -> None:
    path = write(tmp_path, {key: value for key, value in GOOGLE.items() if key not in missing}, name)
    in_order = ", ".join(key for key in REQUIRED if key in missing)
    assert message_of(tmp_path) == f"configuration {path} lacks {in_order}: add what the model was trained with"


@pytest.mark.parametrize("value", [True, False, "1024", 0, -1, 1024.0, None, [1024], {}], ids=repr)
@pytest.mark.parametrize("key", REQUIRED)
def test_size_of_the_wrong_kind(key: str, value: Any, tmp_path: Path) -> None:
    path = write(tmp_path, {**GOOGLE, key: value})
    assert message_of(tmp_path) == f"configuration {path}: {key} must be a positive whole number, not {value!r}"


@pytest.mark.parametrize("value", [True, False, "2", -1, 2.0, None, [2]], ids=repr)
def test_segments_of_the_wrong_kind(value: Any, tmp_path: Path) -> None:
    """There may be none, as some families have it."""
    path = write(tmp_path, {**GOOGLE, "type_vocab_size": value})
    assert message_of(tmp_path) == f"configuration {path}: type_vocab_size must be a whole number, not {value!r}"
    write(tmp_path, {**GOOGLE, "type_vocab_size": 0})
    assert BertConfig.load(tmp_path).type_vocab_size == 0


@pytest.mark.parametrize("value", [True, "1e-12", 0, 0.0, -1e-12, 1, float("nan"), None, []], ids=repr)
def test_odd_epsilon(value: Any, tmp_path: Path) -> None:
    path = write(tmp_path, {**GOOGLE, "layer_norm_eps": value})
    assert message_of(tmp_path) == f"configuration {path}: layer_norm_eps must lie between 0 and 1, not {value!r}"


@pytest.mark.parametrize(("hidden", "heads"), [(1024, 15), (1024, 2048), (1000, 16)])
def test_heads_that_do_not_divide(hidden: int, heads: int, tmp_path: Path) -> None:
    path = write(tmp_path, {**GOOGLE, "hidden_size": hidden, "num_attention_heads": heads})
    expected = f"configuration {path}: hidden_size {hidden} is not a multiple of num_attention_heads {heads}"
    assert message_of(tmp_path) == expected


# Of each form, what it computes
FORMS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "erf": lambda x: x / 2 * (1 + torch.erf(x / 2**0.5)),
    "tanh": lambda x: x / 2 * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))),
    "quick_gelu": lambda x: x / (1 + torch.exp(-1.702 * x)),
    "relu": lambda x: x.clamp(min=0),
    "silu": lambda x: x / (1 + torch.exp(-x)),
}


@pytest.mark.parametrize("value", ["selu", "tanh", "GELU", "", None, 3, ["gelu"], {"gelu": 1}], ids=repr)
def test_unsupported_activation(value: Any, tmp_path: Path) -> None:
    path = write(tmp_path, {**GOOGLE, "hidden_act": value})
    expected = f"configuration {path}: hidden_act {value!r} is not supported; use one of {', '.join(ACTIVATIONS)}"
    assert message_of(tmp_path) == expected


@pytest.mark.parametrize("value", ACTIVATIONS)
def test_supported_activation(value: str, tmp_path: Path) -> None:
    """In the form that Hugging Face computes for that name, to the last digits that it gives its constants."""
    write(tmp_path, {**GOOGLE, "hidden_act": value})
    config = BertConfig.load(tmp_path)
    assert config.hidden_act == value
    x = torch.linspace(-8, 8, 1001, dtype=torch.float64)
    difference = (FORMS[config.activation](x) - transformers.activations.ACT2FN[value](x)).abs().max()
    assert difference <= (1e-9 if value == "gelu_fast" else 1e-14)
    others = [form for name, form in FORMS.items() if name != config.activation]
    assert all((form(x) - FORMS[config.activation](x)).abs().max() > 1e-4 for form in others)


@pytest.mark.parametrize("value", ["relative_key", "relative_key_query", "rotary"])
def test_positions_that_are_not_absolute(value: str, tmp_path: Path) -> None:
    path = write(tmp_path, {**GOOGLE, "position_embedding_type": value})
    assert message_of(tmp_path) == f"configuration {path}: position_embedding_type {value!r} is not supported"


def test_absolute_positions(tmp_path: Path) -> None:
    write(tmp_path, {**GOOGLE, "position_embedding_type": "absolute"})
    assert BertConfig.load(tmp_path).max_position_embeddings == 512


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "line 1, column 1: Expecting value"),
        ('{\n  "hidden_size": 32\n  "vocab_size": 60\n}', "line 3, column 3: Expecting ',' delimiter"),
        ('{"hidden_size": 032}', "line 1, column 18: Expecting ',' delimiter"),
        ("hidden_size: 32", "line 1, column 1: Expecting value"),
        ('{"hidden_size": 32}\n{}', "line 2, column 1: Extra data"),
    ],
)
def test_text_that_is_not_json(text: str, expected: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    assert message_of(tmp_path) == f"configuration {path} is not JSON: {expected}"


@pytest.mark.parametrize(("text", "kind"), [("[]", "list"), ("3", "int"), ('"x"', "str"), ("null", "NoneType")])
def test_json_that_is_not_an_object(text: str, kind: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    assert message_of(tmp_path) == f"configuration {path} must hold one JSON object, but holds a {kind}"


def test_json_nested_too_deeply(tmp_path: Path) -> None:
    path = write(tmp_path, "[" * 200_000)
    assert str(path) in message_of(tmp_path)


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes('{"größe": 1}'.encode("latin-1"))
    assert message_of(tmp_path) == f"configuration {tmp_path / 'config.json'} is not UTF-8 text (byte 4)"


def test_missing_folder(tmp_path: Path) -> None:
    expected = f"configuration folder {tmp_path / 'absent'} does not exist: name the folder of bert_config.json or config.json"
    assert message_of(tmp_path / "absent") == expected


def test_folder_without_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    assert message_of(tmp_path) == f"no bert_config.json or config.json in {tmp_path}: name its folder with -c"


def test_path_of_the_file_itself_is_not_said_to_be_missing(tmp_path: Path) -> None:
    path = write(tmp_path, GOOGLE)
    message = message_of(path)
    assert str(path) in message
    assert "does not exist" not in message


def test_from_dict_names_the_file_it_is_given() -> None:
    with pytest.raises(InputError, match=r"^configuration engine\.json: vocab_size must be a positive whole number, not 'x'$"):
        BertConfig.from_dict({**GOOGLE, "vocab_size": "x"}, Path("engine.json"))


def test_from_dict_ignores_other_keys() -> None:
    values = {**GOOGLE, "head_size": 3, "load": 1, "_name_or_path": "x"}
    assert BertConfig.from_dict(values, Path("config.json")).head_size == 64


@pytest.mark.parametrize("config", [small_config(), small_config(type_vocab_size=3, hidden_act="gelu", layer_norm_eps=1e-5)])
def test_to_dict_and_back(config: BertConfig) -> None:
    values = config.to_dict()
    assert BertConfig.from_dict(values, Path("config.json")) == config
    assert BertConfig.from_dict(json.loads(json.dumps(values)), Path("config.json")) == config
    theirs = transformers.BertConfig(**{name: value for name, value in values.items() if name != "model_type"}).to_dict()
    assert values == {name: theirs[name] for name in values}


def test_head_size() -> None:
    assert small_config().head_size == 8
    assert small_config(hidden_size=384, num_attention_heads=12).head_size == 32


# Labels


@pytest.mark.parametrize("task", [SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION])
@pytest.mark.parametrize(
    ("changes", "labels"),
    [
        ({"id2label": {"0": "no", "1": "yes"}}, ("no", "yes")),
        ({"id2label": {"1": "yes", "0": "no"}}, ("no", "yes")),
        ({"id2label": {str(i): f"{i}" for i in range(12)}}, tuple(map(str, range(12)))),  # in order of numbers, not of letters
        ({}, ("LABEL_0", "LABEL_1")),
        ({"num_labels": 1}, ("LABEL_0",)),
    ],
)
def test_labels(task: str, changes: dict[str, Any], labels: tuple[str, ...]) -> None:
    config = BertConfig.from_dict({**small_config().to_dict(), **changes}, Path("config.json"), task)
    assert (config.labels, config.width) == (labels, len(labels))
    assert config.pooled == (task == SEQUENCE_CLASSIFICATION)
    assert dict(enumerate(config.labels)) == transformers.BertConfig(**changes).id2label


def test_tasks_without_labels_of_their_own() -> None:
    values = {**small_config().to_dict(), "id2label": {"0": "x"}, "num_labels": 3}
    answering, features = (
        BertConfig.from_dict(values, Path("config.json"), task) for task in (QUESTION_ANSWERING, "feature-extraction")
    )
    assert (answering.labels, answering.width, answering.pooled) == (("start", "end"), 2, False)
    assert (features.labels, features.width, features.pooled) == ((), 32, False)


@pytest.mark.parametrize("task", [SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION])
@pytest.mark.parametrize(
    "value", [{}, [], ["x"], "x", 2, {"1": "x"}, {"0": "x", "2": "y"}, {"0": 1}, {"0": None}, {"x": "y"}, {"00": "x"}], ids=repr
)
def test_odd_labels(task: str, value: Any) -> None:
    values = {**small_config().to_dict(), "id2label": value}
    with pytest.raises(InputError, match=r"^configuration config.json: id2label must name every label from 0 on$"):
        BertConfig.from_dict(values, Path("config.json"), task)


@pytest.mark.parametrize("value", [0, -1, "2", None, True, 2.0], ids=repr)
def test_odd_numbers_of_labels(value: Any) -> None:
    values = {**small_config().to_dict(), "num_labels": value}
    with pytest.raises(InputError) as error:
        BertConfig.from_dict(values, Path("config.json"), TOKEN_CLASSIFICATION)
    assert str(error.value) == f"configuration config.json: num_labels must be a positive whole number, not {value!r}"


@pytest.mark.parametrize(
    ("changes", "scoring"),
    [
        ({}, "softmax"),
        ({"num_labels": 3}, "softmax"),
        ({"num_labels": 1}, "sigmoid"),
        ({"problem_type": "multi_label_classification"}, "sigmoid"),
        ({"problem_type": "single_label_classification"}, "softmax"),
        ({"problem_type": "regression"}, "none"),
        ({"problem_type": "regression", "num_labels": 1}, "none"),
        ({"problem_type": None}, "softmax"),
    ],
)
def test_scoring(changes: dict[str, Any], scoring: str) -> None:
    """As Hugging Face's text-classification pipeline scores."""
    config = BertConfig.from_dict({**small_config().to_dict(), **changes}, Path("config.json"), SEQUENCE_CLASSIFICATION)
    assert config.scoring == scoring
    assert BertConfig.from_dict(config.to_dict(), Path("config.json"), SEQUENCE_CLASSIFICATION).scoring == scoring


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("architecture", [f"Bert{ending}" for ending in TASKS.values() if ending != "Model"])
def test_the_head_of_another_task(task: str, architecture: str) -> None:
    """A classifier of sequences has the tensors of one of tokens: only its class tells them apart."""
    values = {**small_config().to_dict(), "architectures": [architecture]}
    if task == "feature-extraction" or architecture.endswith(TASKS[task]):
        assert BertConfig.from_dict(values, Path("config.json"), task).task == task
        return
    with pytest.raises(InputError) as error:
        BertConfig.from_dict(values, Path("config.json"), task)
    says = f"configuration config.json: {architecture} has no head for {task}; name its own task with --task"
    assert error.value.told(FLAGS) == says


@pytest.mark.parametrize("architectures", [["BertForMaskedLM"], ["BertModel"], [], None, "BertForTokenClassification", [3]])
def test_a_class_that_tells_no_task(architectures: object) -> None:
    values = {**small_config().to_dict(), "architectures": architectures}
    assert BertConfig.from_dict(values, Path("config.json")) == small_config()
