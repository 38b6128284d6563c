"""Small random models of every family, in each form that a configuration can give its network, as Hugging Face has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from helpers.config import TASKS, BertConfig
from helpers.layouts import Batch
from tests.batches import alone, of_lengths, theirs
from tests.models import randomized

LABELS = ("calm", "glad", "odd")
# An epsilon that shows, and positions enough for all kinds of distances; RoBERTa's first two are never read.
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 60,
    "max_position_embeddings": 66,
    "layer_norm_eps": 1e-2,
}
DISTIL: dict[str, Any] = {
    "dim": 32,
    "n_layers": 3,
    "n_heads": 4,
    "hidden_dim": 48,
    "vocab_size": 60,
    "max_position_embeddings": 66,
}
DISENTANGLED: dict[str, Any] = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
}
MODERN: dict[str, Any] = {
    "norm_eps": 1e-2,
    "local_attention": 7,
    "global_attn_every_n_layers": 2,
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2},
}
BIASED = dict.fromkeys(("norm_bias", "attention_bias", "mlp_bias", "classifier_bias"), True)


class Variant(NamedTuple):
    """What Hugging Face's classes are called, and what makes its configuration."""

    architecture: str
    values: dict[str, Any]

    def model(self, task: str, seed: int = 1, **changes: Any) -> Any:
        """Hugging Face's model with the head of a task."""
        import transformers

        labels = {} if task == "question-answering" else {"id2label": dict(enumerate(LABELS))}
        config = getattr(transformers, f"{self.architecture}Config")(**{**self.values, **labels, **changes})
        return randomized(getattr(transformers, self.architecture + TASKS[task])(config), seed)


# One a family
PLAIN = {
    "bert": Variant("Bert", SIZES),
    "roberta": Variant("Roberta", {**SIZES, "type_vocab_size": 1}),
    "camembert": Variant("Camembert", SIZES),
    "xlm-roberta": Variant("XLMRoberta", SIZES),
    "distilbert": Variant("DistilBert", DISTIL),
    "electra": Variant("Electra", {**SIZES, "embedding_size": 16}),
    "albert": Variant("Albert", {**SIZES, "embedding_size": 16}),
    "mpnet": Variant("MPNet", SIZES),
    "deberta": Variant("Deberta", {**SIZES, **DISENTANGLED}),
    "deberta-v2": Variant(
        "DebertaV2", {**SIZES, **DISENTANGLED, "position_buckets": 8, "share_att_key": True, "norm_rel_ebd": "layer_norm"}
    ),
    "modernbert": Variant("ModernBert", {**SIZES, **MODERN}),
    "ernie": Variant("Ernie", {**SIZES, "use_task_id": True}),
    "squeezebert": Variant("SqueezeBert", {**SIZES, "embedding_size": 32, "layer_norm_eps": 1e-12}),
}
# Where a configuration changes the network
OTHER = {
    "bert-without-segments": Variant("Bert", {**SIZES, "type_vocab_size": 1}),
    "electra-of-one-width": Variant("Electra", {**SIZES, "embedding_size": 32}),
    "albert-in-groups": Variant("Albert", {**SIZES, "embedding_size": 16, "num_hidden_groups": 2}),
    "deberta-near": Variant("Deberta", {**SIZES, **DISENTANGLED, "max_relative_positions": 20}),
    "deberta-c2p": Variant("Deberta", {**SIZES, **DISENTANGLED, "pos_att_type": ["c2p"], "type_vocab_size": 2}),
    "deberta-p2c": Variant("Deberta", {**SIZES, **DISENTANGLED, "pos_att_type": "p2c", "position_biased_input": True}),
    "deberta-v2-unshared": Variant("DebertaV2", {**SIZES, **DISENTANGLED, "position_buckets": -1}),
    "deberta-v2-buckets": Variant(
        "DebertaV2", {**SIZES, **DISENTANGLED, "position_buckets": 8, "max_relative_positions": 40, "pos_att_type": "c2p|p2c"}
    ),
    "deberta-v2-c2p": Variant(
        "DebertaV2", {**SIZES, **DISENTANGLED, "pos_att_type": ["c2p"], "position_biased_input": True, "type_vocab_size": 2}
    ),
    "modernbert-biased": Variant("ModernBert", {**SIZES, **MODERN, **BIASED, "classifier_pooling": "mean"}),
    "modernbert-of-its-own-layers": Variant(
        "ModernBert", {**SIZES, **MODERN, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
    ),
    "ernie-without-tasks": Variant("Ernie", SIZES),
    "squeezebert-in-groups": Variant(
        "SqueezeBert",
        {
            **SIZES,
            "embedding_size": 32,
            "layer_norm_eps": 1e-12,
            **{
                "q_groups": 1,
                "k_groups": 2,
                "v_groups": 8,
                "post_attention_groups": 4,
                "intermediate_groups": 2,
                "output_groups": 16,
            },
        },
    ),
}
VARIANTS = {**PLAIN, **OTHER}


def save(model: Any, folder: Path) -> Path:
    """Saves a model as Hugging Face does, in silence."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model.save_pretrained(folder)
    return folder


def batch_of(lengths: list[int], config: BertConfig, seed: int = 0) -> Batch:
    """Random tokens, none of them a special one: padding's id would not count as a position."""
    batch = of_lengths(lengths, config, seed)
    return batch._replace(input_ids=np.maximum(batch.input_ids, 4))


def each_alone(model: Any, batch: Batch) -> np.ndarray:
    """What Hugging Face's model gives for each sequence by itself, one after the other."""
    return np.concatenate([theirs(model, alone(batch, i)) for i in range(len(batch.lengths))])
