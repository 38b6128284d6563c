"""What every loader ends with: a file's tensors, held against its configuration, become BertWeights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Callable

import numpy as np

from helpers.config import BertConfig
from helpers.errors import InputError
from helpers.weights import OUTPUTS, POOLER, BertWeights


def assemble(
    named: Mapping[str, np.ndarray],
    config: BertConfig,
    path: Path,
    present: Iterable[str],
    spelled: Callable[[str], str] = str,
    ranges: Mapping[str, float] | None = None,
) -> BertWeights:
    """BertWeights from the tensors of a file.

    Args:
        named: arrays of any float dtype under the family's Hugging Face names; further names are ignored.
        present: all names that the file has, in its own spelling.
        spelled: turns a Hugging Face name into the file's own, for messages.
        ranges: quantizer name → absolute maximum.

    Raises:
        InputError: as `check_tensors` and `check_depth`.
    """
    family = config.family
    named = with_prefix(named, family.prefix)
    check_depth([*present, *named], config, str(path), spelled)
    arrays = {name: named[own] for name in family.stored(config) if (own := family.tensor_name(name, config)) in named}
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, which check_tensors reports
        floats = {name: np.asarray(array, np.float32, order="C") for name, array in arrays.items()}
    check_tensors(floats, config, str(path), spelled)
    # Quantizers go by BERT's names.
    by_name = {re.sub(rf"^{family.prefix}\.encoder\.", "bert.encoder.", name): amax for name, amax in (ranges or {}).items()}
    return BertWeights.from_tensors(family.complete(floats, config), by_name)


def with_prefix(named: Mapping[str, np.ndarray], prefix: str) -> Mapping[str, np.ndarray]:
    """The tensors under a whole model's names, where they are those of its encoder alone."""
    if any(name.startswith(f"{prefix}.") for name in named):
        return named
    return {name if name.startswith(HEADS) else f"{prefix}.{name}": array for name, array in named.items()}


HEADS = ("qa_outputs.", "classifier.", "pre_classifier.")


def check_tensors(named: Mapping[str, np.ndarray], config: BertConfig, source: str, spelled: Callable[[str], str] = str) -> None:
    """Holds tensors against a configuration.

    Args:
        named: arrays under the names of config.family.stored; further names are ignored.
        source: the file, for messages.
        spelled: turns a Hugging Face name into the file's own, for messages.

    Raises:
        InputError: names missing tensors, or wrong shapes, or tensors with NaN or infinity.
    """
    shapes = config.family.stored(config)
    # Several may be parts of one fused tensor of the file.
    spelling = {name: spelled(config.family.tensor_name(name, config)) for name in shapes}
    missing = list(dict.fromkeys(spelling[name] for name in shapes if name not in named))
    if missing:
        head = {spelling[name] for name in shapes if name.startswith((f"{OUTPUTS}.", f"{POOLER}.", "classifier.", "head."))}
        raise InputError(
            f"{source} lacks {len(missing)} of {len(set(spelling.values()))} tensors: {listed(missing)}",
            f"it has no head for {{task}} {config.task}" if set(missing) <= head else "",
        )
    wrong = [
        f"{spelling[name]}: expected {list(shape)}, found {list(named[name].shape)}"
        for name, shape in shapes.items()
        if named[name].shape != shape
    ]
    if wrong:
        raise InputError(f"{source} does not fit its configuration: {listed(wrong, '; ')}")
    odd = [spelling[name] for name in shapes if not np.isfinite(named[name]).all()]
    if odd:
        raise InputError(f"{source} holds NaN or infinity in {listed(odd)}")


def listed(names: Sequence[str], separator: str = ", ") -> str:
    """The first three, and how many more there are."""
    more = len(names) - 3
    return separator.join([*names[:3], *([f"and {more} more"] if more > 0 else [])])


def check_depth(present: Iterable[str], config: BertConfig, source: str, spelled: Callable[[str], str] = str) -> None:
    """Raises InputError where a model has more layers than its configuration; fewer show as missing tensors."""
    # As the file spells the encoder's layers: a part beside it may number its own as it likes.
    wanted = [spelled(config.family.tensor_name(name, config)) for name in config.family.stored(config)]
    first = next(name for name in wanted if re.search(r"[._]0[./]", name))
    layers = re.compile(rf"{re.escape(re.split('0[./]', first)[0])}(\d+)[./]")

    def depth(names: Iterable[str]) -> int:
        return max((int(found[1]) + 1 for name in names if (found := layers.search(name))), default=0)

    if depth(present) > depth(wanted):
        raise InputError(f"{source} has {depth(present)} encoder layers, its configuration {depth(wanted)}")
