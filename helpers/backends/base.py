"""What a backend is: it builds engines and opens them as sessions, and says what it can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, NamedTuple

import numpy as np

from helpers import checkpoints, families, tokenization
from helpers.config import BertConfig, check_heads
from helpers.engine_file import Built, Description
from helpers.errors import InputError
from helpers.families.base import Family
from helpers.graph import Graph
from helpers.layouts import Batch, Layout
from helpers.precision import Precision
from helpers.progress import Progress
from helpers.quantization import calibration, ranges, sparsity
from helpers.request import BuildRequest
from helpers.sites import Sites
from helpers.tokenization import Template, Tokenizer
from helpers.transforms import with_two_segments
from helpers.weights import BertWeights


class Session(ABC):
    """An engine, loaded and ready."""

    backend: str
    runtime: str  # which of the backend's ways to run an engine this is
    version: str
    device: str
    layout: Layout
    vocab_size: int | None = None  # rows of the word embedding, where the engine itself tells

    @abstractmethod
    def stream(self, batches: Iterable[Batch]) -> Iterator[np.ndarray]:
        """Runs batches in order; yields the outputs of each, float32: [T, W] of tokens, or [B, W] of sequences where the task
        has one for each. Batches are drawn ahead of the results.

        Raises:
            InputError: a batch does not fit the engine.
        """

    @abstractmethod
    def timed(self, batch: Batch) -> Callable[[], float]:
        """A function that runs the engine alone on `batch`, which lies ready, and returns milliseconds."""

    @abstractmethod
    def close(self) -> None:
        """Gives back what the session holds, the GPU's memory above all; it cannot be used after that."""


class Device(NamedTuple):
    """What a backend runs on here: its engines depend on the version and the GPU."""

    version: str
    gpu: str | None = None
    capability: tuple[int, int] | None = None


@dataclass(frozen=True)
class Network:
    """A model and all that decides what its network becomes."""

    config: BertConfig
    weights: BertWeights
    sites: Sites
    precision: Precision
    ranges: Mapping[str, float]  # of tensors in 8 bits, by the name of their site

    @property
    def head_size(self) -> int:
        return self.weights.head_size(self.config.num_attention_heads)

    def add_to(self, graph: Graph[Any, Any]) -> None:
        self.config.family.network(graph, self.weights, self.sites, self.config)


class Compiled(NamedTuple):
    """A network that was made an engine; `sparse_layers` of it run a 2:4 sparse kernel."""

    blob: bytes | bytearray
    sparse_layers: int = 0


class Backend(ABC):
    """One way to run the network."""

    name: str
    title: str
    engines: str  # what its engine files are, in words
    on_gpu: bool
    runtimes: Sequence[str]  # ways to run an engine, the default first
    ignores: Sequence[str] = ()  # fields of a request that it does not honour

    @abstractmethod
    def check_available(self) -> None:
        """Raises InputError that says what is missing here."""

    @abstractmethod
    def device(self) -> Device:
        """What engines that are built here depend on."""

    @abstractmethod
    def recognises(self, head: bytes) -> bool:
        """Whether a file that begins with `head` is an engine of this backend."""

    @abstractmethod
    def precision(self, request: BuildRequest) -> Precision:
        """What an engine for this request computes in."""

    @abstractmethod
    def check(self, request: BuildRequest, config: BertConfig, warn: Callable[[str], None]) -> None:
        """Refuses what cannot be computed, with an InputError, and warns of what is slow, before anything costs time."""

    @abstractmethod
    def compile(self, network: Network, request: BuildRequest, progress: Progress) -> Compiled:
        """The network as an engine.

        Raises:
            InputError: what is asked for does not fit this machine.
            RuntimeError: the backend failed; the message is its own.
        """

    @abstractmethod
    def open(self, engine: Path, description: Description | None, runtime: str | None = None, **options: Any) -> Session:
        """Loads an engine.

        Args:
            runtime: one of `runtimes`; None for the first.
            options: of that runtime.

        Raises:
            InputError: the file is damaged, was made elsewhere, or does not fit the GPU's memory.
        """

    @abstractmethod
    def check_weights(self, weights: BertWeights, config: BertConfig, warn: Callable[[str], None]) -> None:
        """Refuses, or warns of, what only the weights show."""

    def adapt(self, weights: BertWeights, config: BertConfig, request: BuildRequest) -> BertWeights:
        """Other weights that compute the same, in the shape that the kernels want."""
        return weights

    def activation(self, config: BertConfig) -> str:
        """The form of the activation that engines compute for a model."""
        return config.activation

    def runs(self, family: Family) -> bool:
        """Whether it has what a family's network is made of."""
        return True

    def fastest_int8(self, hidden_size: int, sequence_length: int, capability: tuple[int, int] | None) -> dict[str, bool]:
        """The fields of a request that make int8 fastest, where ranges are good for all of them."""
        return {}

    def build(self, request: BuildRequest, progress: Progress | None = None) -> Built:
        """Builds an engine: reads the model, checks, finds the ranges that int8 needs, compiles and describes.

        Raises:
            InputError: anything in the checkpoint, configuration, vocabulary or request does not fit.
            RuntimeError: the backend failed; the message is its own.
        """
        progress = progress or Progress()
        self.check_available()
        config = BertConfig.load(request.folder, request.task)
        longest, most = request.longest, config.max_position_embeddings
        if longest > most:
            raise InputError(f"sequence length {longest} is above the model's max_position_embeddings, {most}")
        tokenizer, template = tokenization.read(request.vocabulary, config.family.tokenizer, families.TOKENIZERS)
        tokenization.check_size(tokenizer, config.vocab_size, request.vocabulary)
        template = template._replace(passage_segment=min(template.passage_segment, max(config.type_vocab_size - 1, 0)))
        precision = self.precision(request)
        ignored = [f"{{{name}}}" for name in self.ignores if getattr(request, name)]
        if ignored:
            computes = " and ".join(dict.fromkeys([precision.name, precision.base.name]))
            progress.warn(f"{self.title} computes in {computes}, and ignores {', '.join(ignored)}")
        self.check(request, config, progress.warn)

        with progress.clock(f"Reading {request.checkpoint}", least=2.0):
            weights = checkpoints.load(request.source, request.checkpoint, config)
        self.check_weights(weights, config, progress.warn)
        weights = self.adapt(with_two_segments(weights), config, request)
        sites = config.family.sites(config, request.megatron)
        found: Mapping[str, float] = {}
        if precision.eight_bit:
            model = calibration.Model(config, weights, sites, tokenizer, template)
            found = self.find_ranges(request, model, progress)
        if request.sparse:
            matrices = sparsity.matrices(weights)
            sparse = sum(map(sparsity.is_sparse, matrices))
            progress.say(f"2:4 sparse are {sparse} of the encoder's {len(matrices)} matrices")
            if not sparse:
                progress.warn("{sparse} has nothing to work on: no matrix of this checkpoint is 2:4 sparse")
        check_heads(config, request.folder, progress.warn)
        network = Network(config, weights, sites, precision, found)
        with progress.clock(f"Building for {self.name}"):
            compiled = self.compile(network, request, progress)
        return Built(compiled.blob, self.description_of(request, network, tokenizer, template, compiled.sparse_layers))

    def description_of(
        self, request: BuildRequest, network: Network, tokenizer: Tokenizer, template: Template, sparse_layers: int
    ) -> Description:
        """What is to stand beside an engine that was built here, just now."""
        config = network.config
        version, gpu, capability = self.device()
        return Description(
            backend=self.name,
            version=version,
            gpu=gpu,
            compute_capability=".".join(map(str, capability)) if capability else None,
            precision=network.precision.name,
            packed=request.packed,
            profiles=[list(profile) for profile in request.profiles],
            checkpoint=str(request.checkpoint.resolve()),
            vocab_size=config.vocab_size,
            sparse_layers=sparse_layers,
            model_type=config.model_type,
            activation=self.activation(config),
            task=config.task,
            labels=list(config.labels),
            scoring=config.scoring,
            template=[*map(list, template[:3]), template.passage_segment],
            request=request.to_dict(),
            tokenizer=tokenizer.to_json(),
        )

    def find_ranges(self, request: BuildRequest, model: calibration.Model, progress: Progress) -> Mapping[str, float]:
        """The activation ranges for int8: the checkpoint's, or else those that calibration finds or has found.

        Raises:
            InputError: the checkpoint lacks some ranges, or has none and there is no text to find them with.
        """
        if model.weights.ranges:
            return ranges.from_checkpoint(model.weights.ranges, model.sites)
        found = calibration.find(request.calibration, model, request.longest, progress)
        return self.calibrated(found, model.sites)

    def calibrated(self, found: Mapping[str, float], sites: Sites) -> Mapping[str, float]:
        """Those of the ranges that calibration found with which a network is rounded that was not trained for it."""
        return found
