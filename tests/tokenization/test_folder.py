"""Tokenizers of checkpoints' folders, in each form that Hugging Face has, against its own; windows; and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Callable, NamedTuple

import pytest
import sentencepiece
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import ByteLevelBPETokenizer
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

from helpers.commands.flags import FLAGS
from helpers.errors import InputError
from helpers.families import TOKENIZERS
from helpers.tokenization import Template, Tokenizer, read
from helpers.tokenization.bytelevel import GENERIC
from helpers.tokenization.wordpiece import BERT
from tests.running import MODEL
from tests.texts import AWKWARD, PIECES, PROSE, many

BY_BERT = Template(("[CLS]",), ("[SEP]",), ("[SEP]",), 1)
BY_ROBERTA = Template(("<s>",), ("</s>", "</s>"), ("</s>",), 0)


class Form(NamedTuple):
    """What a folder has, whose tokenizer it is, and its windows."""

    write: Callable[[Path], None]
    cls: str
    template: Template
    settings: Mapping[str, Any] = MappingProxyType({})


def wordpiece(folder: Path) -> None:
    shutil.copy(MODEL / "vocab.txt", folder)


def mpnet(folder: Path) -> None:
    tokens = (MODEL / "vocab.txt").read_text(encoding="utf-8").split("\n")
    vocab = ["<s>", "<pad>", "</s>", "<unk>", *tokens[4:], "<mask>"]  # [UNK] is among them
    (folder / "vocab.txt").write_text("\n".join(vocab), encoding="utf-8")


def byte_level(*special: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        trained = ByteLevelBPETokenizer()
        trained.train_from_iterator([*PROSE, *AWKWARD.values()], vocab_size=1500, special_tokens=list(special))
        trained.save_model(str(folder))

    return write


def unigram(name: str, **options: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        corpus = folder / "corpus.txt"
        corpus.write_text("\n".join([*PROSE, *(text for text in AWKWARD.values() if len(text) < 200)] * 3), encoding="utf-8")
        sentencepiece.SentencePieceTrainer.train(
            input=str(corpus), model_prefix=str(folder / "m"), vocab_size=900, hard_vocab_limit=False, minloglevel=2, **options
        )
        shutil.move(folder / "m.model", folder / name)
        corpus.unlink()

    return write


FAIRSEQ: dict[str, Any] = {"unk_id": 0, "bos_id": 1, "eos_id": 2}
OF_ALBERT: dict[str, Any] = {"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1, "control_symbols": "[CLS],[SEP],[MASK]"}
OF_DEBERTA: dict[str, Any] = {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3, "user_defined_symbols": "[MASK]"}
OF_DEBERTA |= {"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"}
BARE = {"add_prefix_space": False}
MARKERS = {"additional_special_tokens": ["<e1>", "</e1>"]}

FORMS = {
    "bert": Form(wordpiece, "BertTokenizer", BY_BERT),
    "bert, accents kept": Form(wordpiece, "BertTokenizer", BY_BERT, {"strip_accents": False}),
    "bert, cased": Form(wordpiece, "BertTokenizer", BY_BERT, {"do_lower_case": False}),
    "bert, cased, accents stripped": Form(wordpiece, "BertTokenizer", BY_BERT, {"do_lower_case": False, "strip_accents": True}),
    "bert, Chinese unsplit": Form(wordpiece, "BertTokenizer", BY_BERT, {"tokenize_chinese_chars": False}),
    "bert, entity markers": Form(wordpiece, "BertTokenizer", BY_BERT, MARKERS),
    "distilbert": Form(wordpiece, "DistilBertTokenizer", BY_BERT._replace(passage_segment=0)),
    "mpnet": Form(mpnet, "MPNetTokenizer", BY_ROBERTA),
    "roberta": Form(byte_level("<s>", "<pad>", "</s>", "<unk>", "<mask>"), "RobertaTokenizer", BY_ROBERTA),
    "roberta, space before": Form(
        byte_level("<s>", "<pad>", "</s>", "<unk>", "<mask>"), "RobertaTokenizer", BY_ROBERTA, {"add_prefix_space": True}
    ),
    "deberta": Form(byte_level("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"), "DebertaTokenizer", BY_BERT),
    "xlm-roberta": Form(unigram("sentencepiece.bpe.model", **FAIRSEQ), "XLMRobertaTokenizer", BY_ROBERTA),
    "camembert": Form(unigram("sentencepiece.bpe.model", **FAIRSEQ), "CamembertTokenizer", BY_ROBERTA),
    "albert": Form(unigram("spiece.model", pad_piece="<pad>", **OF_ALBERT), "AlbertTokenizer", BY_BERT),
    "albert, accents kept": Form(
        unigram("spiece.model", pad_piece="<pad>", **OF_ALBERT),
        "AlbertTokenizer",
        BY_BERT,
        {"keep_accents": True, "do_lower_case": False},
    ),
    "deberta-v2": Form(unigram("spm.model", **OF_DEBERTA), "DebertaV2Tokenizer", BY_BERT),
    "deberta-v2, no space before": Form(unigram("spm.model", **OF_DEBERTA), "DebertaV2Tokenizer", BY_BERT, BARE),
    "deberta-v2, punctuation split": Form(
        unigram("spm.model", **OF_DEBERTA), "DebertaV2Tokenizer", BY_BERT, {"split_by_punct": True}
    ),
}


class Pair(NamedTuple):
    """Ours of the files, ours of the tokenizer.json that theirs saves, theirs, and SentencePiece's own where it has one."""

    ours: Tokenizer
    saved: Tokenizer
    theirs: Any
    template: Template
    reference: Any


@pytest.fixture(scope="module", params=FORMS, ids=[name.replace(", ", "-").replace(" ", "-") for name in FORMS])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    form, folder = FORMS[request.param], tmp_path_factory.mktemp("tokenizer")
    (folder / "files").mkdir()
    form.write(folder / "files")
    settings = {"tokenizer_class": form.cls, **form.settings}
    (folder / "files/tokenizer_config.json").write_text(json.dumps(settings))
    theirs = getattr(transformers, form.cls).from_pretrained(folder / "files")
    theirs.save_pretrained(folder / "saved")
    assert {file.name for file in (folder / "saved").iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
    kind = TOKENIZERS[form.cls]
    ours, template = read(folder / "files", kind, TOKENIZERS)
    saved, again = read(folder / "saved", kind, TOKENIZERS)
    assert template == again == form.template
    models: list[Any] = [
        sentencepiece.SentencePieceProcessor(model_file=str(file)) for file in (folder / "files").glob("*.model")
    ]
    shutil.rmtree(folder / "files")
    return Pair(ours, Tokenizer.from_json(saved.to_json()), theirs, template, *(models or [None]))


def same(pair: Pair, texts: list[str]) -> None:
    for text, tokens, saved in zip(texts, pair.ours(texts), pair.saved(texts)):
        if any(token in text for token in pair.ours.control):
            continue
        expected = pair.theirs(text, add_special_tokens=False, return_offsets_mapping=True)
        assert tokens.ids.tolist() == saved.ids.tolist() == expected["input_ids"], text
        assert tokens.offsets.tolist() == saved.offsets.tolist()
        for (a, b), (begin, end) in zip(tokens.offsets.tolist(), expected["offset_mapping"]):
            if text[begin:end].strip():
                assert begin <= a < b <= end
                assert text[a:b] == text[begin:end].strip()  # an answer has no space around it


def test_tokens(pair: Pair) -> None:
    """10,000 texts in all."""
    same(pair, many(600))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text() | st.lists(st.sampled_from(PIECES)).map("".join))
def test_any_text(pair: Pair, text: str) -> None:
    same(pair, [text])


def test_size(pair: Pair) -> None:
    assert pair.ours.size == pair.saved.size == len(pair.theirs)


def test_windows(pair: Pair) -> None:
    """A pair of texts is laid out as theirs; not DeBERTa's, whose models were made with others than transformers 5 has."""
    if type(pair.theirs).__name__ == "DebertaTokenizer":
        return
    first, second = "What is it?", "It is a text."
    parts = pair.ours.ids(pair.template.before), pair.ours([first])[0].ids, pair.ours.ids(pair.template.between)
    rest = pair.ours([second])[0].ids, pair.ours.ids(pair.template.after)
    ids = [int(i) for part in (*parts, *rest) for i in part]
    assert ids == pair.theirs(first, second)["input_ids"]


def test_special_tokens_in_a_text_are_text(pair: Pair) -> None:
    """As in SentencePiece itself; where there is none, as in theirs if it is told to split them."""
    for token in pair.ours.control:
        for text in (f"a{token}b", f"x {token} y", token * 2):
            [tokens], [saved] = pair.ours([text]), pair.saved([text])
            ids = tokens.ids.tolist()
            assert ids == saved.ids.tolist()
            assert len(ids) > 2
            if pair.reference is None:
                assert ids == pair.theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
                continue
            place = pair.reference.piece_to_id(token)
            spelled = pair.reference.is_control(place) or pair.reference.is_unknown(place)  # or it is one that texts may have
            if spelled and not pair.theirs.init_kwargs.get("split_by_punct"):
                pieces = pair.reference.encode(pair.theirs._tokenizer.normalizer.normalize_str(text))
                names = [pair.reference.id_to_piece(piece) for piece in pieces]
                assert pair.theirs.convert_ids_to_tokens(ids) == names
            assert pair.ours.ids([token])[0] not in ids or token == pair.theirs.unk_token


@pytest.mark.parametrize("form", ["bert", "roberta", "albert", "deberta-v2"])
@pytest.mark.parametrize("name", ["added_tokens.json", "tokenizer_config.json"])
def test_added_tokens_in_texts(tmp_path: Path, form: str, name: str) -> None:
    """They are found in a text before or after it is normalised, as a marker says or its kind; spaces that they take are cut."""
    FORMS[form].write(tmp_path)
    size = len(getattr(transformers, FORMS[form].cls).from_pretrained(tmp_path))
    if name == "added_tokens.json":
        (tmp_path / name).write_text(json.dumps({"<E>": size + 1, "[new]": size}))
    else:
        flags = {"single_word": False, "lstrip": True, "rstrip": True, "special": True}
        tokens = {str(size): {"content": "[new]", "normalized": False, **flags}, str(size + 1): {"content": "<E>", **flags}}
        settings_of(tmp_path, added_tokens_decoder=tokens)
    theirs = getattr(transformers, FORMS[form].cls).from_pretrained(tmp_path)
    ours, _ = read(tmp_path, TOKENIZERS[FORMS[form].cls], TOKENIZERS)
    same(Pair(ours, ours, theirs, FORMS[form].template, None), ["a <e> b<E>c [new]  [NEW]", "<E>", " [new] "])
    assert ours.size == size + 2


@pytest.mark.parametrize("name", ["XLMRobertaTokenizer", "CamembertTokenizer"])
def test_symbols_that_a_unigram_model_defines(tmp_path: Path, name: str) -> None:
    unigram("sentencepiece.bpe.model", user_defined_symbols="<e1>,<n>", control_symbols="<c>", **FAIRSEQ)(tmp_path)
    theirs = getattr(transformers, name).from_pretrained(tmp_path)
    ours, template = read(tmp_path, TOKENIZERS[name], TOKENIZERS)
    same(Pair(ours, ours, theirs, template, None), ["a<e1> b <n>c<c>", "<c> <e1><e1>"])


# Which tokenizer it is


def settings_of(folder: Path, **settings: Any) -> Path:
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def told(path: Path, kind: str = "BertTokenizer") -> str:
    """The message that refuses a tokenizer: one line."""
    with pytest.raises(InputError) as error:
        read(path, TOKENIZERS.get(kind, GENERIC), TOKENIZERS)
    message = error.value.told(FLAGS)
    assert message.isprintable()
    return message


@pytest.mark.parametrize("name", ["BertTokenizer", "BertTokenizerFast"])
def test_the_class_that_a_folder_names_decides(tmp_path: Path, name: str) -> None:
    """As for RoBERTas in languages whose tokenizers are BERT's."""
    wordpiece(tmp_path)
    tokenizer, template = read(settings_of(tmp_path, tokenizer_class=name), TOKENIZERS["RobertaTokenizer"], TOKENIZERS)
    assert template == BY_BERT
    assert tokenizer(["the"])[0].ids.tolist() == [1996]


@pytest.mark.parametrize("name", [None, "", "PreTrainedTokenizerFast", "TokenizersBackend"])
def test_a_class_that_says_nothing(tmp_path: Path, name: str | None) -> None:
    wordpiece(tmp_path)
    assert read(settings_of(tmp_path, tokenizer_class=name), BERT, TOKENIZERS)[1] == BY_BERT


def test_other_names_of_special_tokens(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("<p>\n<u>\n<c>\n<x>\na\n")
    named = {"cls_token": "<c>", "sep_token": {"content": "<x>", "special": True}, "pad_token": "<p>", "unk_token": "<u>"}
    tokenizer, template = read(settings_of(tmp_path, **named), BERT, TOKENIZERS)
    assert template == Template(("<c>",), ("<x>",), ("<x>",), 1)
    assert tokenizer(["a <x> a"])[0].ids.tolist() == [4, 1, 1, 1, 4]  # spelled out, it is text


def test_a_class_that_needs_more_than_its_files(tmp_path: Path) -> None:
    wordpiece(tmp_path)
    settings_of(tmp_path, tokenizer_class="BertJapaneseTokenizer", word_tokenizer_type="mecab")
    says = "the tokenizer class BertJapaneseTokenizer is not supported; save it as tokenizer.json, or take another model"
    assert told(tmp_path) == told(tmp_path / "vocab.txt") == f"{tmp_path}: {says}"
    settings_of(tmp_path, word_tokenizer_type="mecab")
    (tmp_path / "config.json").write_text(json.dumps({"tokenizer_class": "BertJapaneseTokenizer"}))
    assert told(tmp_path) == f"{tmp_path}: {says}"


def test_tokenizer_json_decides(tmp_path: Path) -> None:
    """Beside another vocabulary, whatever its class."""
    theirs = transformers.BertTokenizer.from_pretrained(MODEL)
    theirs.save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nthe\n")
    for name in ("BertTokenizer", "MyTokenizer"):
        settings_of(tmp_path, tokenizer_class=name)
        assert read(tmp_path, BERT, TOKENIZERS)[0](["the"])[0].ids.tolist() == [1996]
    assert read(tmp_path / "vocab.txt", BERT, TOKENIZERS)[0](["the"])[0].ids.tolist() == [4]  # but where it is named


def test_added_tokens(tmp_path: Path) -> None:
    wordpiece(tmp_path)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<b>": 30523, "<a>": 30522}))
    tokenizer, _ = read(tmp_path, BERT, TOKENIZERS)
    assert tokenizer(["x<a>y <b>"])[0].ids.tolist()[1:] == [30522, 1061, 30523]
    assert tokenizer.size == 30524
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<a>": 40000}))
    assert told(tmp_path) == f"{tmp_path}: the added token '<a>' has the id 30522, not 40000"


def test_special_tokens_map_names_tokens_too(tmp_path: Path) -> None:
    """But where tokenizer_config.json lists all added tokens, it is out of date."""
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n<s>\n")
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"cls_token": "<s>"}))
    assert read(settings_of(tmp_path, cls_token="[CLS]"), BERT, TOKENIZERS)[1].before == ("<s>",)
    assert read(settings_of(tmp_path, cls_token="[CLS]", added_tokens_decoder={}), BERT, TOKENIZERS)[1].before == ("[CLS]",)


def test_never_split(tmp_path: Path) -> None:
    """As BERT's tokenizer in Python does, where they are tokens."""
    wordpiece(tmp_path)
    never = ["[unused1]", "u.s.", "the"]  # no token is u.s.
    theirs = BertTokenizerLegacy(str(tmp_path / "vocab.txt"), never_split=never)
    tokenizer, _ = read(settings_of(tmp_path, never_split=never), BERT, TOKENIZERS)
    for text in ("a [unused1] b", "[unused1] The the there", "x[unused1]y"):
        assert tokenizer([text])[0].ids.tolist() == theirs.convert_tokens_to_ids(theirs.tokenize(text))
    assert tokenizer.size == 30522


LETTERS = {"vocab.txt": "[PAD]\n[UNK]\n[CLS]\n[SEP]\na"}


@pytest.mark.parametrize(
    ("files", "kind", "says"),
    [
        ({}, "BertTokenizer", "no tokenizer at {}: there is no tokenizer.json or vocab.txt; name it with -v"),
        (
            {"vocab.json": "{}"},
            "RobertaTokenizer",
            "no tokenizer at {}: there is no tokenizer.json or vocab.json, merges.txt; name it with -v",
        ),
        ({}, "PreTrainedTokenizer", "no tokenizer at {}: there is no tokenizer.json; name it with -v"),
        ({"tokenizer.json": "{"}, "BertTokenizer", "{}/tokenizer.json is not JSON: "),
        ({"tokenizer.json": "[]"}, "BertTokenizer", "{}/tokenizer.json must hold one JSON object, but holds a list"),
        ({"tokenizer.json": "{}"}, "BertTokenizer", "{}/tokenizer.json cannot be used as a tokenizer: "),
        ({"tokenizer_config.json": "{"}, "BertTokenizer", "{}/tokenizer_config.json is not JSON: "),
        (
            {"vocab.json": "[1]", "merges.txt": "a b"},
            "RobertaTokenizer",
            "{0}/vocab.json must hold one JSON object, but holds a list",
        ),
        *(
            ({"vocab.json": vocab, "merges.txt": merges}, "RobertaTokenizer", "{0}/vocab.json, {0}/merges.txt cannot be used as ")
            for vocab, merges in (
                ('{"a": "x"}', ""),
                ('{"a": -1}', ""),
                ('{"a": 1e9}', ""),
                ('{"a": 0}', "a"),
                ('{"a": 0}', "a b a"),
            )
        ),
        (
            {"vocab.json": '{"a": 0}', "merges.txt": "a b"},
            "RobertaTokenizer",
            "{0}/vocab.json, {0}/merges.txt cannot be used as a",
        ),
        ({"merges.txt": "a b"}, "RobertaTokenizer", "no tokenizer at {}: there is no tokenizer.json or vocab.json, merges.txt; "),
        (
            {"added_tokens.json": '{"<a>": "x"}', **LETTERS},
            "BertTokenizer",
            "{}: the added token '<a>' has the id x, which is no",
        ),
        ({"added_tokens.json": '{"": 5}', **LETTERS}, "BertTokenizer", "{}: a special or added token must be text, not ''"),
        ({"spm.model": "no model"}, "DebertaV2Tokenizer", "{}/spm.model "),
        ({"spm.model": ""}, "DebertaV2Tokenizer", "{}/spm.model is not a SentencePiece model: it has no pieces"),
    ],
)
def test_what_is_no_tokenizer(tmp_path: Path, files: dict[str, str], kind: str, says: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    assert told(tmp_path, kind).startswith(says.format(tmp_path))


@pytest.mark.parametrize("name", ["do_lower_case", "strip_accents", "tokenize_chinese_chars", "keep_accents", "split_by_punct"])
def test_settings_of_another_kind(tmp_path: Path, name: str) -> None:
    wordpiece(tmp_path)
    says = f"{tmp_path}/tokenizer_config.json: {name} must be true, false or null, not 'false'"
    assert told(settings_of(tmp_path, **{name: "false"})) == says


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"cls_token": 5}, "{}: a special or added token must be text, not 5"),
        ({"sep_token": "\ud800"}, "{}: a special or added token must be text, not '\\ud800'"),
        ({"additional_special_tokens": [{}]}, "{}: a special or added token must be text, not {{}}"),
        ({"additional_special_tokens": "<a>"}, "{}/tokenizer_config.json: additional_special_tokens must be a list, not '<a>'"),
        ({"added_tokens_decoder": {"x": "<a>"}}, "{}: the added token '<a>' has the id x, which is no number"),
        ({"added_tokens_decoder": {"9": "<a>"}}, "{}: the added token '<a>' has the id 30522, not 9"),
        ({"tokenizer_class": "\ud800"}, "{}: '\\ud800' is no name of a tokenizer class"),
        ({"tokenizer_class": 5}, "{}/tokenizer_config.json: tokenizer_class must be a name, not 5"),
    ],
)
def test_settings_that_name_no_tokens(tmp_path: Path, values: dict[str, Any], says: str) -> None:
    wordpiece(tmp_path)
    assert told(settings_of(tmp_path, **values)) == says.format(tmp_path)


READ = {  # the files of a folder, and what they are named by
    "bert": ("vocab.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "config.json"),
    "roberta": ("vocab.json", "merges.txt"),
    "whole": ("tokenizer.json",),
}


def write_all(form: str, folder: Path) -> None:
    """All files that are read, whatever they say."""
    if form == "roberta":
        FORMS[form].write(folder)
        return
    wordpiece(folder)
    if form == "whole":
        transformers.BertTokenizer.from_pretrained(folder).save_pretrained(folder)
    for name in READ["bert"][1:]:
        (folder / name).write_text("{}")


@pytest.mark.parametrize(("form", "name"), [(form, name) for form, names in READ.items() for name in names])
def test_every_file_as_an_editor_may_save_it(tmp_path: Path, form: str, name: str) -> None:
    """With a byte order mark, and lines that end as on Windows."""
    write_all(form, tmp_path)
    kind = TOKENIZERS["RobertaTokenizer" if form == "roberta" else "BertTokenizer"]
    before = read(tmp_path, kind, TOKENIZERS)[0].to_json()
    text = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n"))
    assert read(tmp_path, kind, TOKENIZERS)[0].to_json() == before


@pytest.mark.parametrize(("form", "name"), [(form, name) for form, names in READ.items() for name in names])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{}\0", " is not text: it has a NUL byte"),
        (b"\xff\xfe{}", " is not UTF-8 text (byte 0)"),
        (b'{"a": 1, "a": 2}', " is not JSON that can be read: it has 'a' twice in one object"),
        (b'{"a": ' * 100_000, " is not JSON that can be read: it is nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", " is not JSON that can be read: Exceeds the limit"),
        (b"", " is not JSON: line 1, column 1"),
    ],
)
def test_every_file_that_is_damaged(tmp_path: Path, form: str, name: str, content: bytes, says: str) -> None:
    write_all(form, tmp_path)
    if name.endswith(".txt") and "JSON" in says:
        return
    (tmp_path / name).write_bytes(content)
    assert f"{tmp_path / name}{says}" in told(tmp_path, "RobertaTokenizer" if form == "roberta" else "BertTokenizer")


def test_files_without_end(tmp_path: Path) -> None:
    wordpiece(tmp_path)
    (tmp_path / "tokenizer_config.json").symlink_to("/dev/zero")
    assert told(tmp_path) == f"{tmp_path}/tokenizer_config.json is not text: it has a NUL byte"
    assert told(Path("/dev/zero")).startswith("no tokenizer at /dev/zero: ")
    (tmp_path / "tokenizer_config.json").unlink()
    with open(tmp_path / "vocab.txt", "ab") as file:
        file.truncate(1 << 40)
    assert told(tmp_path) == f"vocabulary {tmp_path}/vocab.txt is not text: it has a NUL byte; name it with -v"


def test_a_file_that_is_none_of_the_tokenizers(tmp_path: Path) -> None:
    byte_level("<s>", "<pad>", "</s>", "<unk>")(tmp_path)
    (tmp_path / "spm.model").write_text("")
    says = "there is no tokenizer.json or vocab.json, merges.txt; name it with -v"
    assert told(tmp_path / "spm.model", "RobertaTokenizer") == f"no tokenizer at {tmp_path / 'spm.model'}: {says}"
    says = "there is no tokenizer.json or vocab.txt; name it with -v"
    assert told(tmp_path / "absent.txt") == f"no tokenizer at {tmp_path / 'absent.txt'}: {says}"


def test_a_tokenizer_that_fails_with_every_text(tmp_path: Path) -> None:
    """Its unknown token is not among its tokens; or it normalises by a map that is none, at which the library panics."""
    transformers.BertTokenizer.from_pretrained(MODEL).save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**values, "model": {**values["model"], "unk_token": "<unk>"}}))
    assert told(tmp_path).startswith(f"{path} cannot be used as a tokenizer: ")
    path.write_text(json.dumps({**values, "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}))
    assert told(tmp_path).startswith(f"{path} cannot be used as a tokenizer: ")


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
LONGER = {"type": "Replace", "pattern": {"String": "a"}, "content": "aaaa"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [BYTE_LEVEL] * 40}}, "it makes far more of a text than it has"),
        ({"normalizer": {"type": "Sequence", "normalizers": [LONGER] * 40}}, "it makes far more of a text than it has"),
        (
            {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": [LONGER] * 4}]}},
            "it makes far more of a text than it has",
        ),
        ({"normalizer": {"type": "Prepend", "prepend": "a" * 100}}, "it makes far more of a text than it has"),
        ({"added_tokens": [{"id": 1 << 31, "content": "<e>"}]}, "a token has the id 2147483648"),
        ({"model": {"type": "WordPiece", "vocab": {"a": 1 << 30}}}, "a token has the id 1073741824"),
        ({"model": {"type": "WordPiece", "vocab": {"a": -1}}}, "a token has the id -1"),
        ({"model": {"type": "WordPiece", "vocab": {"a": "x"}}}, "a token has the id 'x'"),
    ],
)
def test_a_tokenizer_that_takes_all_memory(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    transformers.BertTokenizer.from_pretrained(MODEL).save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}))
    assert told(tmp_path) == f"{path} cannot be used as a tokenizer: {says}"


@pytest.mark.parametrize("i", [-1, 1 << 22, 1 << 31, 10**30, 1.5, None, "7"])
def test_ids_without_bound(tmp_path: Path, i: Any) -> None:
    """For which the library would make room."""
    byte_level("<s>", "<pad>", "</s>", "<unk>")(tmp_path)
    path = tmp_path / "vocab.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "new": i}))
    says = f"{path}, {tmp_path / 'merges.txt'} cannot be used as a tokenizer: a token has the id {i!r}"
    assert told(tmp_path, "RobertaTokenizer") == says


def test_a_sentencepiece_model_of_another_kind(tmp_path: Path) -> None:
    unigram("spm.model", model_type="bpe")(tmp_path)
    assert told(tmp_path, "DebertaV2Tokenizer").startswith(f"{tmp_path}/spm.model is not a unigram model, which alone is read")


def test_a_tokenizer_without_the_windows_tokens(tmp_path: Path) -> None:
    byte_level("<s>", "<pad>", "</s>", "<unk>")(tmp_path)
    theirs = transformers.RobertaTokenizer.from_pretrained(tmp_path)
    theirs.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved/tokenizer_config.json").unlink()
    assert told(tmp_path / "saved").startswith(f"tokenizer {tmp_path}/saved/tokenizer.json lacks [CLS]: is it the model's own?")
