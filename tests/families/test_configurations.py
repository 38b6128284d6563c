"""Configurations of every family: what Hugging Face writes is read and written again, and what no network computes is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from helpers import families
from helpers.commands.flags import FLAGS
from helpers.config import SEQUENCE_CLASSIFICATION, TASKS, BertConfig
from helpers.errors import InputError
from tests.models import small_config
from tests.variants import LABELS, PLAIN, VARIANTS

PATH = Path("config.json")
KNOWN = "supported are " + ", ".join(families.FAMILIES)


def values_of(name: str, *without: str, **changes: Any) -> dict[str, Any]:
    """What Hugging Face's class says of a variant, as its file has it."""
    architecture, values = VARIANTS[name]
    config = getattr(transformers, f"{architecture}Config")(**values, id2label=dict(enumerate(LABELS)))
    return {key: value for key, value in {**json.loads(config.to_json_string()), **changes}.items() if key not in without}


def message_of(values: dict[str, Any], task: str = SEQUENCE_CLASSIFICATION) -> str:
    """What is said of a configuration that is refused, in one line."""
    with pytest.raises(InputError) as error:
        BertConfig.from_dict(values, PATH, task)
    message = error.value.told(FLAGS)
    assert message.isprintable()
    assert message.startswith("configuration config.json")
    return message


# Read and written


@pytest.mark.parametrize("name", VARIANTS)
def test_to_dict_and_back(name: str) -> None:
    for task in TASKS:
        config = BertConfig.from_dict(values_of(name), PATH, task)
        assert config.task == task
        assert BertConfig.from_dict(config.to_dict(), PATH, task) == config
        written = json.loads(json.dumps(config.to_dict()))
        assert BertConfig.from_dict(written, PATH, task) == config
        assert getattr(transformers, f"{VARIANTS[name].architecture}Config")(**written).model_type == config.model_type


@pytest.mark.parametrize("name", PLAIN)
def test_sizes(name: str) -> None:
    """By BERT's names, whatever the family calls them; a fairseq's first positions are never a token's."""
    config = BertConfig.from_dict(values_of(name), PATH)
    assert (config.vocab_size, config.hidden_size, config.num_attention_heads, config.intermediate_size) == (60, 32, 4, 48)
    assert (config.num_hidden_layers, config.model_type, config.head_size) == (3, name, 8)
    fairseq = name in ("roberta", "camembert", "xlm-roberta", "mpnet")
    assert config.max_position_embeddings == 66 - 2 * fairseq
    without_segments = ("distilbert", "mpnet", "deberta", "deberta-v2", "modernbert")
    assert config.type_vocab_size == (0 if name in without_segments else 1 if name == "roberta" else 2)
    assert config.layer_norm_eps == (1e-12 if name in ("distilbert", "squeezebert") else 1e-2)


@pytest.mark.parametrize("name", PLAIN)
def test_architectures_tell_the_family_where_nothing_else_does(name: str) -> None:
    for task in TASKS:
        named = {"architectures": [PLAIN[name].architecture + TASKS[task]]}
        config = BertConfig.from_dict(values_of(name, "model_type", **named), PATH, task)
        assert config == BertConfig.from_dict(values_of(name), PATH, task)


def test_modernbert_s_older_keys() -> None:
    """Which kind each layer is, and how fast positions turn, as the configurations of its first releases say it."""
    older = values_of("modernbert", "layer_types", "rope_parameters", global_attn_every_n_layers=3, global_rope_theta=500.0)
    config = BertConfig.from_dict({**older, "local_rope_theta": 7.0}, PATH)
    kinds = ("full_attention", "sliding_attention", "sliding_attention")
    assert config.extra["layer_types"] == kinds
    assert config.extra["rope_theta"] == {"full_attention": 500.0, "sliding_attention": 7.0}
    assert BertConfig.from_dict({**older, "local_rope_theta": None}, PATH).extra["rope_theta"]["sliding_attention"] == 500.0


# Refused


@pytest.mark.parametrize(
    ("architectures", "told"),
    [
        (["LlamaForCausalLM"], "'LlamaForCausalLM'"),
        (["bertForQuestionAnswering"], "'bertForQuestionAnswering'"),
        (["BertLMHead", "BertForMaskedLM"], "'BertLMHead'"),
        (["RobertaPreLayerNormForQuestionAnswering"], "'RobertaPreLayerNormForQuestionAnswering'"),
        ([None], "None"),
        ([["BertModel"]], "['BertModel']"),
        (["x\n" * 100], "'" + "x\\n" * 19 + "x\\"),
    ],
)
def test_an_unknown_architecture(architectures: list[Any], told: str) -> None:
    values = {**small_config().to_dict(), "architectures": architectures}
    del values["model_type"]
    assert message_of(values) == f"configuration config.json: {told} is not supported; {KNOWN}"


@pytest.mark.parametrize("architectures", [None, [], "LlamaForCausalLM", {}])
def test_no_architecture_means_bert(architectures: Any) -> None:
    values = {**small_config().to_dict(), "architectures": architectures}
    del values["model_type"]
    assert BertConfig.from_dict(values, PATH).model_type == "bert"


POSITIVE = "must be a positive whole number, not"
WHOLE = "must be a whole number, not"
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    *(("roberta", {"pad_token_id": value}, f"pad_token_id {WHOLE} {value!r}") for value in (None, -1, "1", True)),
    ("mpnet", {"pad_token_id": 1.0}, f"pad_token_id {WHOLE} 1.0"),
    ("xlm-roberta", {"max_position_embeddings": 2}, "max_position_embeddings 2 must be above pad_token_id 1 + 1"),
    ("camembert", {"pad_token_id": 65}, "max_position_embeddings 66 must be above pad_token_id 65 + 1"),
    ("roberta", {"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key' is not supported"),
    *(
        (name, {"embedding_size": value}, f"embedding_size {POSITIVE} {value!r}")
        for name in ("electra", "albert")
        for value in (0, None, "16", [16])
    ),
    *(
        ("albert", {name: value}, f"{name} {POSITIVE} {value!r}")
        for name in ("num_hidden_groups", "inner_group_num")
        for value in (0, "1")
    ),
    ("albert", {"num_hidden_groups": 4}, "num_hidden_groups 4 is above num_hidden_layers 3"),
    ("albert", {"inner_group_num": 2}, "inner_group_num above 1 is not supported"),
    ("deberta-v2", {"pos_att_type": ["c2p", "p2p"]}, "pos_att_type ['c2p', 'p2p'] is not supported"),
    ("deberta-v2", {"pos_att_type": "c2p|p2p"}, "pos_att_type ['c2p', 'p2p'] is not supported"),
    ("deberta", {"pos_att_type": [["c2p"]]}, "pos_att_type [['c2p']] is not supported"),
    ("deberta", {"pos_att_type": 5}, "pos_att_type 5 is not supported"),
    *(
        ("deberta-v2", {name: value}, f"{name} {WHOLE} {value!r}")
        for name in ("max_relative_positions", "position_buckets")
        for value in (None, "512", 1.5)
    ),
    *(
        ("deberta", {"relative_attention": value}, "a DeBERTa without relative_attention is not supported")
        for value in (False, None, "yes")
    ),
    ("deberta-v2", {"conv_kernel_size": 3}, "a DeBERTa with a convolution (conv_kernel_size) is not supported"),
    ("deberta", {"talking_head": True}, "a DeBERTa with talking heads (talking_head) is not supported"),
    ("deberta-v2", {"attention_head_size": 64}, "attention_head_size must be hidden_size / num_attention_heads"),
    ("deberta-v2", {"embedding_size": 16}, "embedding_size must be hidden_size"),
    *(
        ("deberta-v2", {"norm_rel_ebd": value}, f"norm_rel_ebd must be text, not {value!r}")
        for value in (None, 3, ["layer_norm"])
    ),
    *(
        ("deberta", {"pooler_hidden_act": value}, f"pooler_hidden_act {value!r} is not supported")
        for value in ("silu", None, ["gelu"])
    ),
    *(
        ("modernbert", {name: value}, f"{name} {POSITIVE} {value!r}")
        for name in ("global_attn_every_n_layers", "local_attention")
        for value in (0, "8", None)
    ),
    *(
        ("modernbert", {"layer_types": value}, "layer_types must name sliding_attention or full_attention for each of 3 layers")
        for value in (["full_attention"], ["full_attention"] * 2 + ["linear"], "full_attention", 3, [["full_attention"]] * 3)
    ),
    *(
        ("modernbert", {"rope_parameters": value}, "rope_parameters must be given for sliding_attention and full_attention")
        for value in ("default", [1], {"full_attention": 3}, {"sliding_attention": ["default"]})
    ),
    ("modernbert", {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "rope_type 'yarn' is not supported"),
    *(
        (
            "modernbert",
            {"rope_parameters": None, name: value},
            f"{name} must be a positive number, not {value!r}",
        )
        for name in ("global_rope_theta", "local_rope_theta")
        for value in ("10000", -1.0, True)
    ),
    ("modernbert", {"classifier_pooling": "max"}, "classifier_pooling 'max' is not supported"),
    ("modernbert", {"classifier_pooling": ["cls"]}, "classifier_pooling ['cls'] is not supported"),
    ("modernbert", {"classifier_activation": "quick_gelu"}, "classifier_activation 'quick_gelu' is not supported"),
    ("modernbert", {"hidden_activation": "tanh"}, "hidden_activation 'tanh' is not supported"),
    ("modernbert", {"norm_eps": 0}, "norm_eps must lie between 0 and 1, not 0"),
    ("modernbert", {"num_attention_heads": 32}, "heads of 1 cannot have rotary positions, which turn pairs"),
    *(
        ("squeezebert", {name: value}, f"{name} must divide the layers' widths, which {value!r} does not")
        for name, value in (
            *(("q_groups", value) for value in (5, 0, -1, "4", None, True)),
            ("k_groups", 32),  # of the feed-forward's 48 channels
            *((f"{part}_groups", 7) for part in ("v", "post_attention", "intermediate", "output")),
        )
    ),
    ("squeezebert", {"embedding_size": 16}, "embedding_size must be hidden_size"),
    ("squeezebert", {"layer_norm_eps": 1e-5}, "layer_norm_eps must be 1e-12, not 1e-05"),
]


@pytest.mark.parametrize(("name", "changes", "says"), REFUSED, ids=[f"{name} {changes}" for name, changes, _ in REFUSED])
def test_what_a_family_s_network_does_not_compute(name: str, changes: dict[str, Any], says: str) -> None:
    message = message_of(values_of(name, **changes))
    assert message.startswith(f"configuration config.json: {says}")
    assert message[len(f"configuration config.json: {says}") :][:1] in ("", ";")  # and what may be done, at most


def test_a_pooler_counts_only_where_there_is_one() -> None:
    values = values_of("deberta-v2", pooler_hidden_act="silu")
    for task in TASKS:
        if task != SEQUENCE_CLASSIFICATION:
            assert BertConfig.from_dict(values, PATH, task).task == task
