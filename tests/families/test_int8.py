"""Int8 engines of every family, calibrated by the builders: what is rounded, with which ranges, and how near the logits stay."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from helpers import families, tokenization
from helpers.checkpoints import pytorch
from helpers.config import BertConfig
from helpers.layouts import Batch
from helpers.quantization import calibration
from helpers.reader import Reader
from helpers.request import Calibration
from tests.batches import run as run_session
from tests.batches import theirs
from tests.inputs import write_squad
from tests.quantized import Inspected
from tests.running import run
from tests.variants import PLAIN, save
from tests.wordpieces import write_tokenizer

# What reads, in Hugging Face's model, what the four projections of a layer read.
BERT = ("attention.self.query", "attention.output.dense", "intermediate.dense", "output.dense")
DEBERTA = ("attention.self.value_proj", *BERT[1:])
READERS = {
    **{name: ("bert.encoder.layer.{}.".replace("bert", name), BERT) for name in ("bert", "electra", "ernie")},
    **{name: ("roberta.encoder.layer.{}.", BERT) for name in ("roberta", "camembert", "xlm-roberta")},
    "distilbert": ("distilbert.transformer.layer.{}.", ("attention.q_lin", "attention.out_lin", "ffn.lin1", "ffn.lin2")),
    "albert": (
        "albert.encoder.albert_layer_groups.0.albert_layers.0.",
        ("attention.query", "attention.dense", "ffn", "ffn_output"),
    ),
    "mpnet": ("mpnet.encoder.layer.{}.", ("attention.attn.q", "attention.attn.o", *BERT[2:])),
    "deberta": ("deberta.encoder.layer.{}.", ("attention.self.in_proj", *BERT[1:])),
    "deberta-v2": ("deberta.encoder.layer.{}.", DEBERTA),
    "modernbert": ("model.layers.{}.", ("attn.Wqkv", "attn.Wo", "mlp.Wi", "mlp.Wo")),
    "squeezebert": (
        "transformer.encoder.layers.{}.",
        ("attention.query", "post_attention.conv1d", "intermediate.conv1d", "output.conv1d"),
    ),
}
OURS = ("attention.self.qkv", "attention.output.dense", "intermediate.dense", "output.dense")


class Built(NamedTuple):
    """Hugging Face's model, its checkpoint's folder with engines in it, and the windows that they were calibrated on."""

    model: Any
    folder: Path
    config: BertConfig
    windows: list[Batch]


@pytest.fixture(scope="module", params=PLAIN)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp(request.param)
    model = PLAIN[request.param].model("question-answering", seed=4)
    save(model, folder)
    write_tokenizer(folder)
    write_squad(folder / "squad.json", ("the quick brown fox jumps over the lazy dog", ["who", "what"]), ("a b c", ["why"]))
    args = "-pt . --int8 -j squad.json -n 3 -p cache -s 64 --backend onnxruntime"
    packed, padded = (run(s, f"{args} -b 4 -o {s}.engine", folder) for s in ("builder_varseqlen.py", "builder.py"))
    assert (packed.returncode, padded.returncode) == (0, 0), packed.stderr + padded.stderr
    assert ("Calibrating" in packed.stderr, "Calibrating" in padded.stderr) == (True, False)  # but read what was found
    config = BertConfig.load(folder)
    tokenizer, template = tokenization.read(folder, config.family.tokenizer, families.TOKENIZERS)
    weights = pytorch.load(folder, config)
    calibrated = calibration.Model(config, weights, config.family.sites(config, False), tokenizer, template)
    return Built(model, folder, config, calibration.windows(Calibration(folder / "squad.json", 3), calibrated, 64))


def ranges_of(built: Built) -> dict[str, float]:
    """The range of what each projection reads, by its name here, from what Hugging Face's model reads there.

    Windows' means of the largest value; of the feed-forward's activation the largest of all, but for one value in 100,000.
    """
    prefix, modules = READERS[built.config.model_type]
    depth = built.config.num_hidden_layers
    found: dict[tuple[int, str], list[float]] = defaultdict(list)
    seen: dict[str, list[np.ndarray]] = {}

    def hook(name: str) -> Any:
        return built.model.get_submodule(name).register_forward_pre_hook(
            lambda _, args: seen.setdefault(name, []).append(np.sort(np.abs(args[0].numpy()), axis=None))
        )

    hooks = [hook(name) for name in {prefix.format(i) + module for i in range(depth) for module in modules}]
    for window in built.windows:
        seen.clear()
        theirs(built.model, window)
        for i in range(depth):
            for ours, module in zip(OURS, modules):
                calls = seen[prefix.format(i) + module]  # as many as there are layers, where they share it
                assert len(calls) == (depth if "{}" not in prefix else 1)
                values = calls[i if len(calls) > 1 else 0]
                found[i, ours].append(float(values[-2 if ours == "output.dense" else -1]))
    for each in hooks:
        each.remove()
    return {
        f"bert.encoder.layer.{i}.{ours}": max(each) if ours == "output.dense" else sum(each) / len(each)
        for (i, ours), each in found.items()
    }


@pytest.mark.parametrize("script", ["builder.py", "builder_varseqlen.py"])
def test_every_projection_reads_its_own_range(built: Built, script: str) -> None:
    model = Inspected((built.folder / f"{script}.engine").read_bytes())
    read_by = {}
    for source, rounded in model.rounded_tensors().items():
        [product] = model.readers(rounded)
        assert product.endswith(".product")
        read_by[product[: -len(".product")]] = model.scale(rounded) * 127
        assert source not in read_by
    assert read_by == pytest.approx(ranges_of(built), rel=1e-4)
    # Matrices in 8 bits; layers that share their weights share these.
    int8 = [name for name, array in model.constants.items() if array.dtype == np.int8 and array.ndim == 2]
    assert len(int8) == 4 * (1 if built.config.model_type == "albert" else built.config.num_hidden_layers)


@pytest.mark.parametrize("script", ["builder.py", "builder_varseqlen.py"])
def test_logits_are_near_those_of_float32(built: Built, script: str) -> None:
    window = built.windows[0]
    expected = theirs(built.model, window)
    with Reader.open(built.folder / f"{script}.engine") as reader:
        assert reader.description and reader.description.precision == "int8"
        found = run_session(reader.session, window)
    for ours, wanted in zip(found.T, expected.T):
        assert np.corrcoef(ours, wanted)[0, 1] > 0.98
    assert 1e-3 < np.sqrt(((found - expected) ** 2).mean() / expected.var()) < 0.15
