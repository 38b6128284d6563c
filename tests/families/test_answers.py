"""A hundred questions to one model of each network, tokenized in each way, against brute force over Hugging Face's logits."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any, Callable, NamedTuple

import pytest
from tokenizers import BertWordPieceTokenizer, ByteLevelBPETokenizer, SentencePieceUnigramTokenizer

from helpers import backends, engine_file
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


def wordpiece(folder: Path) -> None:
    tokenizer = BertWordPieceTokenizer()
    tokenizer.train_from_iterator([passage for _, passage in PAIRS], 1200, show_progress=False, special_tokens=FAIRSEQ)
    tokenizer.save_model(str(folder))


def unigram(folder: Path) -> None:
    tokenizer = SentencePieceUnigramTokenizer()
    tokenizer.train_from_iterator(
        [passage for _, passage in PAIRS], 1200, show_progress=False, special_tokens=BERT, unk_token="<unk>"
    )
    tokenizer.save(str(folder / "tokenizer.json"))


class Kind(NamedTuple):
    write: Callable[[Path], None]
    template: Template


BY_BERT, BY_ROBERTA = Template(), Template(("<s>",), ("</s>", "</s>"), ("</s>",), 0)
KINDS = {
    "roberta": Kind(lambda folder: byte_level(folder, FAIRSEQ, whole=False), BY_ROBERTA),
    "albert": Kind(unigram, BY_BERT),
    "mpnet": Kind(wordpiece, BY_ROBERTA),
    "deberta-v2": Kind(unigram, BY_BERT._replace(passage_segment=0)),  # as it has none
    "modernbert": Kind(lambda folder: byte_level(folder, BERT, whole=True), BY_BERT._replace(passage_segment=0)),
}


class Family(NamedTuple):
    """Hugging Face's model and the folder that it was saved in, with its tokenizer and its engines."""

    model: Any
    folder: Path
    template: Template

    def reader(self, layout: str) -> Reader:
        return Reader.open(self.folder / f"{layout}.engine")


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
