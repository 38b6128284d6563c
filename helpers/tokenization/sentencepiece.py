"""SentencePiece's unigram models (Kudo & Richardson, 2018, arXiv:1808.06226), from their protobuf files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple

from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Pipeline
from tokenizers.models import Unigram

from helpers.errors import InputError
from helpers.reading import read_bytes
from helpers.tokenization.bytelevel import FAIRSEQ
from helpers.tokenization.folder import Kind
from helpers.tokenization.wordpiece import SPECIAL

Piece = tuple[str, float]
UNIGRAM = 1
WHOLE = (3, 4)  # types of a piece: control, user-defined


class Model(NamedTuple):
    """What a file holds: (piece, logarithm of its probability) by id, which of them are matched whole, and what is normalised."""

    pieces: list[Piece]
    whole: list[str]
    charsmap: bytes


def read_model(path: Path) -> Model:
    """Reads the fields of sentencepiece_model.proto that are needed. Raises InputError where they are not there."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="helpers_sentencepiece.proto", package="helpers", syntax="proto2")
    kinds = descriptor_pb2.FieldDescriptorProto

    def message(name: str, *fields: tuple[str, int, int, str]) -> None:
        made = file.message_type.add(name=name)
        for field, number, kind, type_name in fields:
            label = kinds.LABEL_REPEATED if field == "pieces" else kinds.LABEL_OPTIONAL
            made.field.add(name=field, number=number, type=kind, label=label, type_name=type_name or None)

    text, real, whole, raw, inner = kinds.TYPE_STRING, kinds.TYPE_FLOAT, kinds.TYPE_INT32, kinds.TYPE_BYTES, kinds.TYPE_MESSAGE
    message("Piece", ("piece", 1, text, ""), ("score", 2, real, ""), ("type", 3, whole, ""))
    message("Trainer", ("model_type", 3, whole, ""))
    message("Normalizer", ("precompiled_charsmap", 2, raw, ""))
    parts = ("pieces", 1, inner, ".helpers.Piece"), ("trainer", 2, inner, ".helpers.Trainer")
    message("Model", *parts, ("normalizer", 3, inner, ".helpers.Normalizer"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    model = message_factory.GetMessageClass(pool.FindMessageTypeByName("helpers.Model"))()
    model.ParseFromString(read_bytes(path, ""))
    if not model.pieces:
        raise InputError(f"{path} is not a SentencePiece model: it has no pieces")
    if (model.trainer.model_type or UNIGRAM) != UNIGRAM:
        raise InputError(f"{path} is not a unigram model, which alone is read", "save the tokenizer as tokenizer.json")
    pieces = [(piece.piece, piece.score) for piece in model.pieces]
    return Model(pieces, [p.piece for p in model.pieces if p.type in WHOLE], model.normalizer.precompiled_charsmap)


def pipeline_of(
    model: Model, pieces: list[Piece], unknown: str, normalizer: Sequence[Any], before: Sequence[Any], prefix: str
) -> Pipeline:
    """`pieces` are the model's, as they are numbered; `prefix` tells which words have a space before them."""
    ids = {piece: i for i, (piece, _) in reversed(list(enumerate(pieces)))}
    if unknown not in ids:
        raise InputError(f"the SentencePiece model lacks the unknown token {unknown:.60}", "is it the model's own?")
    pipeline = Pipeline(Unigram(pieces, unk_id=ids[unknown], byte_fallback=False))
    pipeline.normalizer = normalizers.Sequence(list(normalizer))
    space = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=prefix)
    pipeline.pre_tokenizer = pre_tokenizers.Sequence([*before, space])
    pipeline.add_tokens([AddedToken(piece, normalized=False) for piece in model.whole if piece in ids])
    return pipeline


def charsmap(model: Model) -> list[Any]:
    return [normalizers.Precompiled(model.charsmap)] if model.charsmap else []


def prefix(settings: Mapping[str, Any], otherwise: str = "never") -> str:
    return otherwise if settings.get("add_prefix_space") is False else "always"


def fairseq(head: Callable[[Mapping[str, str]], list[Piece]], skipped: int) -> Callable[..., Pipeline]:
    """fairseq's numbering: ids of its own first, then the model's from `skipped` on, and the mask."""

    def build(files: Sequence[Path], settings: Mapping[str, Any], special: Mapping[str, str]) -> Pipeline:
        model = read_model(files[0])
        pieces = [*head(special), *model.pieces[skipped:], (special["mask"], 0.0)]
        words = [pre_tokenizers.WhitespaceSplit()]
        return pipeline_of(model, pieces, special["unk"], charsmap(model), words, prefix(settings))

    return build


def xlm_roberta_head(special: Mapping[str, str]) -> list[Piece]:
    return [(special[role], 0.0) for role in ("bos", "pad", "eos", "unk")]


def camembert_head(special: Mapping[str, str]) -> list[Piece]:
    first = [("<s>NOTUSED", 0.0), (special["pad"], 0.0), ("</s>NOTUSED", 0.0), (special["unk"], 0.0)]
    return [*first, ("<unk>NOTUSED", -100.0)]


def build_albert(files: Sequence[Path], settings: Mapping[str, Any], special: Mapping[str, str]) -> Pipeline:
    model = read_model(files[0])
    steps: list[Any] = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    if not settings.get("keep_accents"):
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if settings.get("do_lower_case") is not False:
        steps.append(normalizers.Lowercase())
    words = [pre_tokenizers.WhitespaceSplit()]
    return pipeline_of(model, model.pieces, special["unk"], [*steps, *charsmap(model)], words, prefix(settings))


def build_deberta(files: Sequence[Path], settings: Mapping[str, Any], special: Mapping[str, str]) -> Pipeline:
    model = read_model(files[0])
    steps: list[Any] = [normalizers.Lowercase()] if settings.get("do_lower_case") else []
    steps += [normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " "), normalizers.NFC(), normalizers.Strip(left=False, right=True)]
    split = [pre_tokenizers.Punctuation(behavior="isolated")] if settings.get("split_by_punct") else []
    return pipeline_of(model, model.pieces, special["unk"], steps, split, prefix(settings, "first"))


XLM_ROBERTA = Kind(
    "XLMRobertaTokenizer", ("sentencepiece.bpe.model",), fairseq(xlm_roberta_head, 3), FAIRSEQ, separators=2, passage_segment=0
)
CAMEMBERT = Kind(
    "CamembertTokenizer", ("sentencepiece.bpe.model",), fairseq(camembert_head, 1), FAIRSEQ, separators=2, passage_segment=0
)
ALBERT = Kind("AlbertTokenizer", ("spiece.model",), build_albert, {**SPECIAL, "pad": "<pad>", "unk": "<unk>"})
DEBERTA_V2 = Kind("DebertaV2Tokenizer", ("spm.model",), build_deberta, SPECIAL)
