"""What every loader ends with: a file's tensors, held against its configuration, become BertWeights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Callable, TypeVar

import numpy as np

from helpers.config import BertConfig
from helpers.errors import InputError, listed
from helpers.precision import FLOAT32
from helpers.weights import OUTPUTS, POOLER, BertWeights

T = TypeVar("T")


def assemble(
    named: Mapping[str, np.ndarray],
    config: BertConfig,
    path: Path,
    dtypes: Mapping[str, str],
    spelled: Callable[[str], str] = str,
    ranges: Mapping[str, float] | None = None,
) -> BertWeights:
    """BertWeights from the tensors of a file.

    Args:
        named: arrays of any float dtype under the family's Hugging Face names; further names are ignored.
        dtypes: of every tensor that the file has, those of no floats too, by its own spelling.
        spelled: turns a Hugging Face name into the file's own, for messages.
        ranges: quantizer name → absolute maximum.

    Raises:
        InputError: as `check_tensors` and `check_depth`.
    """
    family = config.family
    named, dtypes = with_prefix(named, family.prefix), {**with_prefix(dtypes, family.prefix), **dtypes}
    check_depth([*dtypes, *named], config, str(path), spelled)
    arrays = {name: named[own] for name in family.stored(config) if (own := family.tensor_name(name, config)) in named}
    check_tensors(arrays, config, str(path), spelled, dtypes)
    floats = {name: np.asarray(array, np.float32, order="C") for name, array in arrays.items()}
    # Quantizers go by BERT's names.
    by_name = {re.sub(rf"^{family.prefix}\.encoder\.", "bert.encoder.", name): amax for name, amax in (ranges or {}).items()}
    return BertWeights.from_tensors(family.complete(floats, config), by_name)


def with_prefix(named: Mapping[str, T], prefix: str) -> Mapping[str, T]:
    """The tensors under a whole model's names, where they are those of its encoder alone."""
    if any(name.startswith(f"{prefix}.") for name in named):
        return named
    return {name if name.startswith(HEADS) else f"{prefix}.{name}": value for name, value in named.items()}


HEADS = ("qa_outputs.", "classifier.", "pre_classifier.")


def check_tensors(
    named: Mapping[str, np.ndarray],
    config: BertConfig,
    source: str,
    spelled: Callable[[str], str] = str,
    dtypes: Mapping[str, str] | None = None,
) -> None:
    """Holds tensors against a configuration.

    Args:
        named: arrays under the names of config.family.stored; further names are ignored.
        source: the file, for messages.
        spelled: turns a Hugging Face name into the file's own, for messages.
        dtypes: of what else is there, by the file's own spelling.

    Raises:
        InputError: names tensors that are missing, of no floats or of wrong shapes, that have NaN, infinity or what float32
            cannot hold, or without which, as they are nothing but zeros, no output depends on the input.
    """
    shapes = config.family.stored(config)
    # Several may be parts of one fused tensor of the file.
    spelling = {name: spelled(config.family.tensor_name(name, config)) for name in shapes}

    def those(fits: Callable[[str], bool]) -> list[str]:
        """The tensors that fit, once each, as the file spells them."""
        return list(dict.fromkeys(spelling[name] for name in shapes if fits(name)))

    missing = those(lambda name: name not in named)
    others = {name: (dtypes or {})[name] for name in missing if name in (dtypes or {})}
    if others:
        kinds = " and ".join(sorted(set(others.values())))
        raise InputError(
            f"{source} holds {kinds} tensors where float weights are wanted: {listed(list(others))}",
            "give the checkpoint that it was made from",
        )
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
    odd = those(lambda name: not np.isfinite(named[name]).all())
    if odd:
        raise InputError(f"{source} holds NaN or infinity in {listed(odd)}")
    wide = those(lambda name: named[name].dtype.itemsize > 4 and bool((np.abs(named[name]) > FLOAT32.largest).any()))
    if wide:
        raise InputError(f"{source} holds numbers that float32 cannot, above {FLOAT32.largest:.2g}, in {listed(wide)}")
    matrices = {name for name, shape in shapes.items() if len(shape) > 1}
    vital = [matrices, *({name} for name in matrices if name.endswith(VITAL))]
    zeros = {name for name in matrices if not named[name].any()}
    dead = those(lambda name: any(name in group <= zeros for group in vital))
    if dead:
        raise InputError(f"{source} holds nothing but zeros in {listed(dead)}", "take another one: it was not written whole")


# Of whichever family: the words, and what a head ends with
VITAL = ("word_embeddings.weight", "tok_embeddings.weight", f"{OUTPUTS}.weight", "classifier.weight")


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
