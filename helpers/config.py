"""BertConfig: the dimensions of a BERT model, from bert_config.json (TensorFlow) or config.json (Hugging Face)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.errors import InputError

CONFIG_NAMES = ("bert_config.json", "config.json")

# The encoder is built with the tanh form for each of these (see docs/checkpoints.md): TensorRT fuses that form into
# the projection before it. Against the erf form of "gelu" it differs by at most 5e-4 an activation.
HIDDEN_ACTS = ("gelu", "gelu_new", "gelu_pytorch_tanh")


@dataclass(frozen=True)
class BertConfig:
    """Dimensions of a BERT encoder (Devlin et al., 2018, arXiv:1810.04805)."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int = 2
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def load(cls, folder: Path) -> BertConfig:
        """Reads the configuration in a folder.

        Raises:
            InputError: no configuration, malformed JSON, a missing key, a value of the wrong kind, or a model that
                is not a post-layer-norm BERT with absolute positions and a GELU.
        """
        path = find_config(folder)
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, RecursionError) as e:
            raise InputError(f"cannot read configuration {path}: {e}") from e
        except json.JSONDecodeError as e:
            raise InputError(f"configuration {path} is not JSON: line {e.lineno}, column {e.colno}: {e.msg}") from e
        if not isinstance(values, dict):
            raise InputError(f"configuration {path} must hold one JSON object, but holds a {type(values).__name__}")
        return cls.from_dict(values, path)

    @classmethod
    def from_dict(cls, values: dict[str, Any], path: Path) -> BertConfig:
        """Takes the known keys of `values`; `path` is named in errors. Raises InputError as `load` does."""
        counts = [name for name, kind in cls.__annotations__.items() if kind == "int"]
        missing = [name for name in counts if name not in values and not hasattr(cls, name)]
        if missing:
            raise InputError(f"configuration {path} lacks {', '.join(missing)}: add what the model was trained with")
        known = {name: values[name] for name in cls.__annotations__ if name in values}
        for name in counts:
            value = known.get(name, 1)
            if type(value) is not int or value < 1:
                raise InputError(f"configuration {path}: {name} must be a positive whole number, not {value!r}")
        epsilon = known.get("layer_norm_eps", cls.layer_norm_eps)
        if type(epsilon) not in (int, float) or not 0 < epsilon < 1:
            raise InputError(f"configuration {path}: layer_norm_eps must lie between 0 and 1, not {epsilon!r}")
        config = cls(**known)
        if config.hidden_size % config.num_attention_heads:
            raise InputError(
                f"configuration {path}: hidden_size {config.hidden_size} is not a multiple of "
                f"num_attention_heads {config.num_attention_heads}"
            )
        if config.hidden_act not in HIDDEN_ACTS:
            raise InputError(
                f"configuration {path}: hidden_act {config.hidden_act!r} is not supported; use one of " + ", ".join(HIDDEN_ACTS)
            )
        positions = values.get("position_embedding_type", "absolute")
        if positions != "absolute":
            raise InputError(f"configuration {path}: position_embedding_type {positions!r} is not supported")
        return config


def find_config(folder: Path) -> Path:
    """The configuration file in a folder. Raises InputError where there is none."""
    for name in CONFIG_NAMES:
        if (folder / name).is_file():
            return folder / name
    if not folder.exists():
        raise InputError(f"configuration folder {folder} does not exist: name the folder of {' or '.join(CONFIG_NAMES)}")
    raise InputError(f"no {' or '.join(CONFIG_NAMES)} in {folder}: name its folder with -c")
