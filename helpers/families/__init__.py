"""Model families: one module each, which says what its checkpoints call things, what its network is and how it reads text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from helpers.errors import InputError
from helpers.families import albert, bert, deberta, distilbert, electra, ernie, modernbert, mpnet, roberta, squeezebert
from helpers.families.base import Family

MODULES = (bert, roberta, distilbert, electra, albert, mpnet, deberta, modernbert, ernie, squeezebert)
FAMILIES = {family.model_type: family for module in MODULES for family in module.FAMILIES}
TOKENIZERS = {family.tokenizer.name: family.tokenizer for family in FAMILIES.values() if family.tokenizer.files}


def find(model_type: Any, source: str) -> Family:
    """The family of that name. Raises InputError, which names `source`, where it is not one of these."""
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise InputError(f"{source}: model_type {model_type!r:.60} is not supported", f"supported are {', '.join(FAMILIES)}")
    return FAMILIES[model_type]


def architectures(values: Mapping[str, Any]) -> list[Any]:
    """The model classes that a configuration says it was saved by, or what else stands there."""
    named = values.get("architectures")
    return named if isinstance(named, list) else []


def of_configuration(values: Mapping[str, Any], source: str) -> Family:
    """The family that a configuration names by its model_type, or else by its architectures; BERT where it has neither."""
    if "model_type" in values:
        return find(values["model_type"], source)
    for architecture in architectures(values):
        fitting = [
            f for f in FAMILIES.values() if str(architecture).startswith((f"{f.architecture}For", f"{f.architecture}Model"))
        ]
        if not fitting:
            raise InputError(f"{source}: {architecture!r:.60} is not supported", f"supported are {', '.join(FAMILIES)}")
        return fitting[0]
    return FAMILIES["bert"]
