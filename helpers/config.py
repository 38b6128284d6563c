"""BertConfig: the dimensions of a model, from bert_config.json (TensorFlow) or config.json (Hugging Face)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from helpers import families
from helpers.errors import InputError
from helpers.families.base import Family

CONFIG_NAMES = ("bert_config.json", "config.json")

# The form of GELU (Hendrycks & Gimpel, 2016, arXiv:1606.08415) that each hidden_act means: exact, by the error function,
# or approximated by tanh. They differ by at most 5e-4 an activation.
GELU_FORMS = {"gelu": "erf", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}


@dataclass(frozen=True)
class BertConfig:
    """Dimensions of a BERT encoder (Devlin et al., 2018, arXiv:1810.04805), by BERT's names whatever the family's are."""

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

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def gelu(self) -> str:
        """The form of GELU: "erf" or "tanh"."""
        return GELU_FORMS[self.hidden_act]

    @property
    def family(self) -> Family:
        return families.find(self.model_type, "configuration")

    @classmethod
    def load(cls, folder: Path) -> BertConfig:
        """Reads the configuration in a folder.

        Raises:
            InputError: no configuration, malformed JSON, a missing key, a value of the wrong kind, another family
                than these, or a model that is not a post-layer-norm BERT with absolute positions and a GELU.
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
        family = families.find(values.get("model_type", cls.model_type), f"configuration {path}")
        keys = {name: family.keys.get(name, name) for name in cls.__annotations__}
        known = {name: values[key] for name, key in keys.items() if key in values} | dict(family.fixed)
        counts = [name for name, kind in cls.__annotations__.items() if kind == "int"]
        missing = [keys[name] for name in counts if name not in known and not hasattr(cls, name)]
        if missing:
            raise InputError(f"configuration {path} lacks {', '.join(missing)}", "add what the model was trained with")
        for name in counts:
            value = known.get(name, 1)
            if type(value) is not int or value < 1:
                raise InputError(f"configuration {path}: {keys[name]} must be a positive whole number, not {value!r}")
        epsilon = known.get("layer_norm_eps", cls.layer_norm_eps)
        if type(epsilon) not in (int, float) or not 0 < epsilon < 1:
            raise InputError(f"configuration {path}: layer_norm_eps must lie between 0 and 1, not {epsilon!r}")
        config = cls(**known)
        if config.hidden_size % config.num_attention_heads:
            raise InputError(
                f"configuration {path}: {keys['hidden_size']} {config.hidden_size} is not a multiple of "
                f"{keys['num_attention_heads']} {config.num_attention_heads}"
            )
        if config.hidden_act not in tuple(GELU_FORMS):  # which may be anything, even what has no hash
            raise InputError(
                f"configuration {path}: {keys['hidden_act']} {config.hidden_act!r} is not supported",
                f"use one of {', '.join(GELU_FORMS)}",
            )
        positions = values.get("position_embedding_type", "absolute")
        if positions != "absolute":
            raise InputError(f"configuration {path}: position_embedding_type {positions!r} is not supported")
        return config

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` reads: the family's own keys."""
        fields = {name: value for name, value in asdict(self).items() if name not in self.family.fixed}
        return {self.family.keys.get(name, name): value for name, value in fields.items()}


def find_config(folder: Path) -> Path:
    """The configuration file in a folder. Raises InputError where there is none."""
    for name in CONFIG_NAMES:
        if (folder / name).is_file():
            return folder / name
    names = " or ".join(CONFIG_NAMES)
    if not folder.exists():
        raise InputError(f"configuration folder {folder} does not exist", f"name the folder of {names}")
    raise InputError(f"no {names} in {folder}", "name its folder with {config_dir}")
