"""Texts that tokenizers stumble over, and thousands made of them."""

from __future__ import annotations

import random
import unicodedata

from tests.inputs import SQUAD, questions_of, read

AWKWARD = {
    "empty": "",
    "spaces": "   ",
    "leading and trailing": "  between spaces \t",
    "line breaks": "one\ttwo\r\nthree\n\n four\u00a0five\u2028six\u3000seven",
    "CJK": "東京は日本の首都です。北京 is 中国's capital",
    "CJK beyond the basic plane": "a𠀀b 𪚥",
    "Hangul": "서울은 대한민국의 수도이다 " + unicodedata.normalize("NFD", "각"),
    "composed accents": unicodedata.normalize("NFC", "Ångström café naïve Škoda ệ"),
    "decomposed accents": unicodedata.normalize("NFD", "Ångström café naïve Škoda ệ"),
    "only accents": "\u0301 \u0301\u0302a\u0301",
    "case that grows": "İstanbul STRASSE straße ŐŰ ǅ ΣΊΣΥΦΟΣ",
    "emoji": "family 👩‍👩‍👧‍👦 flag 🇩🇪 wave 👋🏽 heart ❤️!",
    "controls": "a\x00b\x01 \x7f c\x80d\x1b[0m\ufffde",
    "zero width": "zero\u200bwidth \u200d join\u200cer \ufeffmark soft\u00adhyphen",
    "right to left": "שלום עולם مَرْحَبًا \u202eabc\u202c \u200fx",
    "a long word": "a" * 10_000,
    "words at the limit": "a" * 100 + " " + "b" * 101,
    "punctuation": "...,!?“quoted”—dash/ (a)[b]{c} $5.00 50% x_y a&b ¿qué? «non» ٪ ‰ ^`~| ``old'' 'it'",
    "numbers": "1,234.5 ١٢٣ ⅷ ² ½ 10⁻⁹",
    "ligatures": "ﬁn ﬀ Ｆｕｌｌ ㎏ ㍿",
    "entity markers": "<e1>Paris</e1> is in <e1> France </e1>.<e1>",
}
WORDS = {" the ", " The ", "running", "ËÉ", "'s", "..", " <e1> ", "</e1>"}
PIECES = sorted({c for text in AWKWARD.values() for c in text} | WORDS)
PASSAGES = sorted({passage for _, passage in questions_of(read(SQUAD)).values()})
PROSE = [*PASSAGES, *(question for question, _ in questions_of(read(SQUAD)).values())]


def many(count: int, seed: int = 0) -> list[str]:
    """The awkward texts, prose, slices of it, and mixtures of everything."""
    generator = random.Random(seed)
    short = [text for text in AWKWARD.values() if len(text) < 200]
    texts = [*AWKWARD.values(), *PROSE]
    while len(texts) < count:
        passage = generator.choice(PASSAGES)
        begin = generator.randrange(len(passage))
        mixed = "".join(generator.choice(PIECES) for _ in range(generator.randrange(1, 12)))
        texts += [passage[begin : begin + generator.randrange(60)], mixed]
        texts.append(generator.choice(short) + generator.choice(["", " "]) + mixed)
    return texts[:count]
