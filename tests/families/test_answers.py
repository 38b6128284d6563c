"""A hundred questions to a model of each family, tokenized as its own are, against brute force over Hugging Face's logits."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any, Callable, NamedTuple

import pytest
from tokenizers import BertWordPieceTokenizer, ByteLevelBPETokenizer, SentencePieceUnigramTokenizer

from helpers import backends, engine_file
from helpers.families import FAMILIES
from helpers.layouts import Profile
from helpers.qa.windows import Options
from helpers.reader import Reader
from helpers.request import BuildRequest
from helpers.tokenization import Template
from tests.inputs import SQUAD, questions_of, read
from tests.oracle import check, expect
from tests.variants import PLAIN, save

OPTIONS = Options(sequence_length=64, doc_stride=32, max_answer_len=12, top_k=10)
ROWS = 1280  # of the embeddings: more than there are tokens
FAIRSEQ = ["<s>", "<pad>", "</s>", "<unk>", "[UNK]", "<mask>"]
BERT = ["[PAD]", "<pad>", "<unk>", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PAIRS = list(questions_of(read(SQUAD)).values())


def byte_level(folder: Path, special: list[str], whole: bool) -> None:
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator([passage for _, passage in PAIRS], 1200, show_progress=False, special_tokens=special)
    if whole:
        tokenizer.save(str(folder / "tokenizer.json"))
    else:
        tokenizer.save_model(str(folder))


def wordpiece(folder: Path, special: list[str]) -> None:
    tokenizer = BertWordPieceTokenizer()
    tokenizer.train_from_iterator([passage for _, passage in PAIRS], 1200, show_progress=False, special_tokens=special)
    tokenizer.save_model(str(folder))


def unigram(folder: Path, special: list[str]) -> None:
    tokenizer = SentencePieceUnigramTokenizer()
    tokenizer.train_from_iterator(
        [passage for _, passage in PAIRS], 1200, show_progress=False, special_tokens=special, unk_token="<unk>"
    )
    tokenizer.save(str(folder / "tokenizer.json"))


class Kind(NamedTuple):
    write: Callable[[Path], None]
    template: Template


BY_BERT, BY_ROBERTA = Template(), Template(("<s>",), ("</s>", "</s>"), ("</s>",), 0)
UNSEGMENTED = BY_BERT._replace(passage_segment=0)  # as the model has none
KINDS = {
    "bert": Kind(lambda folder: wordpiece(folder, BERT), BY_BERT),
    "roberta": Kind(lambda folder: byte_level(folder, FAIRSEQ, whole=False), BY_ROBERTA),
    "camembert": Kind(lambda folder: unigram(folder, FAIRSEQ), BY_ROBERTA),
    "xlm-roberta": Kind(lambda folder: unigram(folder, FAIRSEQ), BY_ROBERTA),
    "distilbert": Kind(lambda folder: wordpiece(folder, BERT), UNSEGMENTED),
    "electra": Kind(lambda folder: wordpiece(folder, BERT), BY_BERT),
    "albert": Kind(lambda folder: unigram(folder, BERT), BY_BERT),
    "mpnet": Kind(lambda folder: wordpiece(folder, FAIRSEQ), BY_ROBERTA),
    "deberta": Kind(lambda folder: byte_level(folder, BERT, whole=False), UNSEGMENTED),
    "deberta-v2": Kind(lambda folder: unigram(folder, BERT), UNSEGMENTED),
    "modernbert": Kind(lambda folder: byte_level(folder, BERT, whole=True), UNSEGMENTED),
    "ernie": Kind(lambda folder: wordpiece(folder, BERT), BY_BERT),
    "squeezebert": Kind(lambda folder: wordpiece(folder, BERT), BY_BERT),
}


class Family(NamedTuple):
    """Hugging Face's model and the folder that it was saved in, with its tokenizer and its engines."""

    model: Any
    folder: Path
    template: Template

    def reader(self, layout: str) -> Reader:
        return Reader.open(self.folder / f"{layout}.engine")


def test_every_family_is_asked() -> None:
    assert set(KINDS) == set(FAMILIES)


@pytest.fixture(scope="module", params=KINDS)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    folder, kind = tmp_path_factory.mktemp(request.param), KINDS[request.param]
    model = PLAIN[request.param].model("question-answering", seed=5, vocab_size=ROWS)
    save(model, folder)
    kind.write(folder)
    for layout in ("padded", "packed"):
        wanted = BuildRequest("pytorch", folder, (Profile(8, 64),), packed=layout == "packed")
        engine_file.save(folder / f"{layout}.engine", backends.find("onnxruntime").build(wanted))
    return Family(model, folder, kind.template)


@pytest.fixture(scope="module")
def asked() -> list[tuple[str, str]]:
    """Each question with its own passage, and with others and halves of them."""
    passages = list(dict.fromkeys(passage for _, passage in PAIRS))
    halves = [half for text in passages for half in (text[: len(text) // 2], text[len(text) // 2 :])]
    others = [(question, passage) for passage, (question, own) in product([*passages, *halves], PAIRS) if passage != own]
    return [*PAIRS, *others[:: len(others) // 88]][:100]


def test_a_hundred_questions(family: Family, asked: list[tuple[str, str]]) -> None:
    with family.reader("padded") as padded, family.reader("packed") as packed:
        assert padded.template == packed.template == family.template
        assert padded.tokenizer.size < ROWS
        encoded = padded.encode([p for _, p in asked], [q for q, _ in asked], range(len(asked)), OPTIONS)
        assert len(encoded.windows) > 2 * len(asked) == 200
        answers = [dict(reader.answers(encoded, OPTIONS)) for reader in (padded, packed)]
        for i, (question, passage) in enumerate(asked):
            expected = expect(family.model, padded.tokenizer, passage, question, OPTIONS, family.template)
            for found in answers:
                check(found[i], expected, OPTIONS)
    assert len({answer.text for answer in answers[0].values()}) > 10
