"""BERT (Devlin et al., 2018, arXiv:1810.04805), whose names and shapes are those of the whole toolkit."""

from __future__ import annotations

from helpers.families.base import Family
from helpers.tokenization import wordpiece

FAMILIES = (Family("bert", "Bert", "bert", wordpiece.BERT),)
