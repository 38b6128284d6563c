"""Model families: one module each, which says what its checkpoints call things and how its windows look.

All share BERT's encoder (helpers/bert.py).
"""

from __future__ import annotations

from typing import Any

from helpers.errors import InputError
from helpers.families import bert, distilbert
from helpers.families.base import Family

FAMILIES = {family.model_type: family for family in (bert.FAMILY, distilbert.FAMILY)}


def find(model_type: Any, source: str) -> Family:
    """The family of that name. Raises InputError, which names `source`, where it is not one of these."""
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise InputError(f"{source}: model_type {model_type!r:.60} is not supported", f"supported are {', '.join(FAMILIES)}")
    return FAMILIES[model_type]
