"""What an engine computes in: one row a precision."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from helpers.sites import NORMS, PROJECTIONS, Part


class Format(NamedTuple):
    """How a number is stored; `largest` is the largest magnitude."""

    name: str
    dtype: Any
    largest: float


FLOAT32 = Format("float32", np.float32, float(np.finfo(np.float32).max))
FLOAT16 = Format("float16", np.float16, float(np.finfo(np.float16).max))
INT8 = Format("int8", np.int8, 127.0)


@dataclass(frozen=True)
class Precision:
    """The format of everything, and another one of those parts of the network that are computed in 8 bits.

    A tensor of range amax in 8 bits has the scale amax / eight_bit.largest.
    """

    name: str
    base: Format
    eight_bit: Format | None = None
    parts: frozenset[Part] = frozenset()

    def scale(self, amax: Any) -> Any:
        """What one step in 8 bits stands for."""
        assert self.eight_bit
        return amax / self.eight_bit.largest

    def also(self, *parts: Part) -> Precision:
        return replace(self, parts=self.parts.union(parts))

    def without(self, *parts: Part) -> Precision:
        return replace(self, parts=self.parts.difference(parts))


# GELU's output is stored in the format that the projection after it reads.
PRECISIONS = {
    "float32": Precision("float32", FLOAT32),
    "float16": Precision("float16", FLOAT16),
    "int8": Precision("int8", FLOAT32, INT8, PROJECTIONS | {Part.ACTIVATION}),
}


def choose(fp16: bool, int8: bool, attention: bool = False, norms: bool = False, output_in_base: bool = False) -> Precision:
    """The precision that flags ask for: of int8, what besides the projections is in it, and the base of the rest."""
    if not int8:
        return PRECISIONS["float16" if fp16 else "float32"]
    precision = replace(PRECISIONS["int8"], base=FLOAT16 if fp16 else FLOAT32)
    if attention:
        precision = precision.also(Part.ATTENTION)
    if norms:
        precision = precision.also(*NORMS)
    return precision.without(Part.OUTPUT, Part.ACTIVATION) if output_in_base else precision
