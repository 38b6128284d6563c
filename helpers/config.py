"""BertConfig: the dimensions of a model, from bert_config.json (TensorFlow) or config.json (Hugging Face)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

from helpers import families
from helpers.errors import InputError
from helpers.families.base import LARGEST, Family, check_whole
from helpers.reading import read_object

CONFIG_NAMES = ("bert_config.json", "config.json")

# The form of activation that each hidden_act means. GELU (Hendrycks & Gimpel, 2016, arXiv:1606.08415) is exact, by the error
# function, or approximated by tanh, which differs by at most 5e-4, or by a sigmoid.
ACTIVATIONS = {
    "gelu": "erf",
    "gelu_python": "erf",
    "gelu_new": "tanh",
    "gelu_pytorch_tanh": "tanh",
    "gelu_fast": "tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}

# What makes another network of an encoder, whose tensors may all be there nevertheless.
REFUSED = ("is_decoder", "add_cross_attention", "is_encoder_decoder", "pruned_heads")
# What is made for each before the checkpoint is read. No encoder of these families has 50 layers, or 100,000 labels.
MOST_LAYERS, MOST_LABELS = 1000, 1_000_000

# What an engine can be for, and the end of the name of Hugging Face's class that has the head for it.
TASKS = {
    "question-answering": "ForQuestionAnswering",
    "sequence-classification": "ForSequenceClassification",
    "token-classification": "ForTokenClassification",
    "feature-extraction": "Model",
}
QUESTION_ANSWERING, SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION, FEATURE_EXTRACTION = TASKS


@dataclass(frozen=True)
class BertConfig:
    """Dimensions of a BERT encoder (Devlin et al., 2018, arXiv:1810.04805), by BERT's names whatever the family's are.

    Args:
        max_position_embeddings: tokens of the longest sequence.
        task: one of TASKS.
        labels: of the head's outputs, one each; none where the encoder's own output is the result.
        extra: what only its family's configurations have.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int = 2
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    model_type: str = "bert"
    task: str = QUESTION_ANSWERING
    labels: tuple[str, ...] = ("start", "end")
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def activation(self) -> str:
        """The form of the activation, a value of ACTIVATIONS."""
        return ACTIVATIONS[self.hidden_act]

    @property
    def pooled(self) -> bool:
        """Whether there is one output for a sequence, rather than one for each of its tokens."""
        return self.task == SEQUENCE_CLASSIFICATION

    @property
    def width(self) -> int:
        """Channels of the output."""
        return len(self.labels) or self.hidden_size

    @property
    def scoring(self) -> str:
        """What makes scores of a sequence's logits: as in Hugging Face's text-classification pipeline."""
        problem = self.extra.get("problem_type")
        if problem == "regression":
            return "none"
        return "sigmoid" if problem == "multi_label_classification" or len(self.labels) == 1 else "softmax"

    @property
    def family(self) -> Family:
        return families.find(self.model_type, "configuration")

    @classmethod
    def load(cls, folder: Path, task: str = QUESTION_ANSWERING) -> BertConfig:
        """Reads the configuration in a folder.

        Raises:
            InputError: no configuration, malformed JSON, a missing key, a value of the wrong kind, another family
                than these, or what a family's network does not compute.
        """
        path = find_config(folder)
        values = read_object(path, "configuration")
        config = cls.from_dict(values, path, task)
        known = (*SIZES, *config.family.keys.values(), *config.family.extra, "model_type")
        for other in (folder / name for name in CONFIG_NAMES if folder / name != path and (folder / name).is_file()):
            theirs = read_object(other, "configuration")
            apart = [name for name in known if name in values and name in theirs and values[name] != theirs[name]]
            if apart:
                told = ", ".join(f"{name} is {values[name]!r:.60} and {theirs[name]!r:.60}" for name in apart[:3])
                raise InputError(f"configurations {path} and {other} differ: {told}", "remove the one that is not the model's")
        return config

    @classmethod
    def from_dict(cls, values: dict[str, Any], path: Path, task: str = QUESTION_ANSWERING) -> BertConfig:
        """Takes the known keys of `values`; `path` is named in errors. Raises InputError as `load` does."""
        source = f"configuration {path}"
        family = families.of_configuration(values, source)
        keys = {name: family.keys.get(name, name) for name in SIZES}
        known = {**family.defaults, **{name: values[key] for name, key in keys.items() if key in values}, **family.fixed}
        missing = [keys[name] for name in COUNTS if name not in known and not hasattr(cls, name)]
        if missing:
            raise InputError(f"configuration {path} lacks {', '.join(missing)}", "add what the model was trained with")

        def need(fits: Any, problem: str, hint: str = "") -> None:
            if not fits:
                raise InputError(f"{source}: {problem}", hint)

        for name in COUNTS:
            least = int(name != "type_vocab_size")  # of which some families have none
            check_whole(keys[name], known.get(name, 1), need, least, MOST_LAYERS if name == "num_hidden_layers" else LARGEST)
        for name in REFUSED:
            need(not values.get(name), f"{name} is not supported", "take a plain encoder")
        epsilon = known.get("layer_norm_eps", cls.layer_norm_eps)
        need(
            type(epsilon) in (int, float) and 0 < epsilon < 1,
            f"{keys['layer_norm_eps']} must lie between 0 and 1, not {epsilon!r:.60}",
        )
        extra = {**family.extra, **{name: values[name] for name in (*family.extra, "problem_type") if name in values}}
        labels = read_labels(values, need) if task in (SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION) else ()
        labels = cls.labels if task == QUESTION_ANSWERING else labels
        config = cls(**known, model_type=family.model_type, task=task, labels=labels, extra=extra)
        need(
            config.hidden_size % config.num_attention_heads == 0,
            f"{keys['hidden_size']} {config.hidden_size} is not a multiple of "
            f"{keys['num_attention_heads']} {config.num_attention_heads}",
        )
        need(
            config.hidden_act in tuple(ACTIVATIONS),  # which may be anything, even what has no hash
            f"{keys['hidden_act']} {config.hidden_act!r:.60} is not supported",
            f"use one of {', '.join(ACTIVATIONS)}",
        )
        heads = [name for name in map(str, families.architectures(values)) if task_of(name) not in (None, task)]
        other = task == FEATURE_EXTRACTION or not heads
        need(other, f"{(*heads, '')[0]:.60} has no head for {task}", "name its own task with {task}")
        positions = values.get("position_embedding_type", "absolute")
        need(positions == "absolute" or family.beyond, f"position_embedding_type {positions!r:.60} is not supported")
        return family.read(config, need)

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` reads: the family's own keys."""
        config = self.family.written(self)
        sizes = {self.family.keys.get(name, name): getattr(config, name) for name in SIZES if name not in self.family.fixed}
        labels = {} if self.task == QUESTION_ANSWERING else {"id2label": dict(enumerate(self.labels))}
        return {"model_type": self.model_type, **sizes, **labels, **config.extra}


HEAD_SIZES = (32, 64, 80, 96, 128)
COUNTS = tuple(name for name, kind in BertConfig.__annotations__.items() if kind == "int")
SIZES = (*COUNTS, "hidden_act", "layer_norm_eps")


def task_of(architecture: str) -> str | None:
    """The task that a model class has a head for; None for other heads, whose absence shows in the tensors, and for none."""
    return next((task for task, ending in TASKS.items() if ending != "Model" and architecture.endswith(ending)), None)


def read_labels(values: dict[str, Any], need: Callable[..., None]) -> tuple[str, ...]:
    """The names of a classifier's outputs, in order: id2label, or LABEL_0 … where there are only so many."""
    named, count = values.get("id2label"), values.get("num_labels", 2)
    if named is None:
        check_whole("num_labels", count, need, most=MOST_LABELS)
        return tuple(f"LABEL_{i}" for i in range(count))
    ids = {str(i) for i in range(len(named))} if isinstance(named, dict) else set()
    fits = ids and {str(i) for i in named} == ids and all(isinstance(label, str) for label in named.values())
    need(fits, "id2label must name every label from 0 on")
    by_id = {int(i): label for i, label in named.items()}
    return tuple(by_id[i] for i in range(len(by_id)))


def check_heads(config: BertConfig, source: Path, warn: Callable[[str], None]) -> None:
    """Warns where the number of heads may be wrong, which no weight shows."""
    if config.head_size not in HEAD_SIZES:
        name = config.family.keys.get("num_attention_heads", "num_attention_heads")
        warn(
            f"the configuration in {source} says {name} {config.num_attention_heads}, which makes heads of {config.head_size} "
            f"channels: most models have {', '.join(map(str, HEAD_SIZES[:-1]))} or {HEAD_SIZES[-1]}, and weights do not show it"
        )


def find_config(folder: Path) -> Path:
    """The configuration file in a folder. Raises InputError where there is none."""
    for name in CONFIG_NAMES:
        if (folder / name).is_file():
            return folder / name
    names = " or ".join(CONFIG_NAMES)
    if not folder.exists():
        raise InputError(f"configuration folder {folder} does not exist", f"name the folder of {names}")
    raise InputError(f"no {names} in {folder}", "name its folder with {config_dir}")
