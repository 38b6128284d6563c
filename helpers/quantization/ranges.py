"""Activation ranges for int8: which quantizer of a quantization-aware checkpoint speaks for which tensor."""

from __future__ import annotations

from collections.abc import Mapping

from helpers.errors import InputError, listed
from helpers.sites import PROJECTED, Sites


def quantizers(sites: Sites) -> dict[str, tuple[str, ...]]:
    """Every tensor that int8 needs a range of, by its site's name, and the quantizers that give it."""
    return {site.name: site.quantizers for site in sites if site.quantizers}


def from_checkpoint(found: Mapping[str, float], sites: Sites) -> dict[str, float]:
    """Absolute maximum of each tensor, by its site's name, from a checkpoint's quantizers.

    Raises:
        InputError: quantizers are missing.
    """
    wanted = quantizers(sites)
    missing = sorted({name for names in wanted.values() for name in names if name not in found})
    if missing:
        raise InputError(
            f"int8 needs {len(missing)} activation ranges that the checkpoint lacks: "
            + listed([f"{name}._amax" for name in missing])
        )
    return {tensor: max(found[name] for name in names) for tensor, names in wanted.items()}


def to_checkpoint(found: Mapping[str, float], sites: Sites) -> dict[str, float]:
    """The inverse of `from_checkpoint`: each quantizer gets the range of its tensor."""
    return {name: found[tensor] for tensor, names in quantizers(sites).items() for name in names}


def of_projections(found: Mapping[str, float], sites: Sites) -> dict[str, float]:
    """Only the ranges of what projections read: those of attention's own products and of additions left out."""
    return {site.name: found[site.name] for site in sites if site.part in PROJECTED and site.quantizers}
