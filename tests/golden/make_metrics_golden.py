#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes metrics.json: what sacreBLEU and rouge_score say about awkward sentence pairs.

  pairs       [{hypothesis, reference, tokens_13a, bleu, bleu_lc, rouge_l}], a pair as a corpus
  corpora     [{indices, bleu, bleu_lc, rouge_l}], several pairs as one corpus
  lower       [{text, lower}], Python's str.lower()
  lower_sum   sum over code points c without surrogates, of (c + 1) * sum(lower(c)) modulo 2^64

bleu = {score, precisions, brevity_penalty, lengths: [hypothesis, reference]}.
Needs sacrebleu, rouge_score. Usage: make_metrics_golden.py [FILE]
"""
import json
import pathlib
import random
import sys

import sacrebleu
from rouge_score import rouge_scorer
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

PAIRS = [
    ("", ""),
    ("", "a reference without a hypothesis"),
    ("a hypothesis without a reference", ""),
    ("   ", "white space only"),
    ("the cat", "the cat"),
    ("the cat sat", "the cat sat"),
    ("the cat sat on the mat", "the cat sat on the mat"),
    ("the the the the the the the", "the cat is on the mat"),
    ("mat the on sat cat the", "the cat sat on the mat"),
    ("the cat", "the cat sat on the mat and looked at the dog for a long time"),
    ("the cat sat on the mat and looked at the dog for a long time", "the cat"),
    ("completely different words here", "nothing matches at all between these"),
    ("It costs 1,000.50 dollars.", "It costs 1,000.5 dollars ."),
    ("1,000 2.5 3,a .5 5. ,5 5, a.b a,b", "1,000 2.5 3, a . 5 5 . , 5 5 , a.b a,b"),
    ("Version 1.2.3-rc4 of libfoo2-dev", "version 1.2.3 - rc4 of libfoo2-dev"),
    ("1-2 3--4 a-b 5-a a-5 -5- 2024-05-01", "1 - 2 3 - - 4 a-b 5 - a a-5 -5 -"),
    ("...", ". . ."),
    (".,.,a.,b,.c..d,,e", ". , . , a . , b"),
    ("Wait... what?! (Really?)", "Wait ... what ? ! ( Really ? )"),
    ("\"Quoted\" 'single' `back` \u201ccurly\u201d \u2018s\u2019",
     "\" Quoted \" ' single ' ` back ` \u201c curly \u201d"),
    ("&quot;Tom &amp; Jerry&quot; &lt;b&gt;", "\"Tom & Jerry\" <b>"),
    ("&amp;quot; &amp;lt; &apos; &#39; &nbsp;", "&quot; &lt; ' ' "),
    ("a & b &c; &amp", "a &amp; b &amp;c; &amp;"),
    ("<skipped> text <skipped>", "text"),
    ("hyphen-\nated line\nbreak", "hyphenated line break"),
    ("trailing hyphen-\n", "trailing hyphen-"),
    ("tabs\tand\u00a0no-break\u3000ideographic\u2009thin", "tabs and no-break ideographic thin"),
    ("a\x1cb\x85c\u2028d\x0be", "a b c d e"),
    ("zero\u200bwidth \ufeffbom", "zerowidth bom"),
    ("don't can't it's o'clock", "don 't can 't it 's o'clock"),
    ("$5.00 50% #1 @user a_b c^d ~e |f| {g} [h] \\i/ j*k+l=m",
     "$ 5.00 50 % # 1 @ user a _ b c ^ d ~ e | f | { g } [ h ] \\ i / j * k + l = m"),
    ("http://example.org/a?b=c&d=e#f", "http://example.org/a?b=c&d=f#f"),
    ("user@example.com, root@localhost:/etc/passwd;", "user@example.com root@localhost /etc/passwd"),
    ("Der Übersetzer läuft über die Straße.", "der übersetzer läuft über die STRASSE ."),
    ("Größe: 3,5 m² – „schön“", "Größe : 3,5 m² – „ schön “"),
    ("L'été, c'est déjà fini\u00a0!", "L' été, c' est déjà fini !"),
    ("«\u00a0Où est-il\u00a0?\u00a0»", "« Où est - il ? »"),
    ("Perché no? È così: l'università è 1.000 km più in là.",
     "perché no ? è così : l' università è 1.000 km più in là ."),
    ("ÀÉÎÕÜ ŁÓDŹ ĞIŞ", "àéîõü łódź ğiş"),
    ("\u0130stanbul I\u0307", "istanbul i\u0307"),
    ("ΟΔΥΣΣΕΥΣ ΣΑΣ Σ", "οδυσσευς σας σ"),
    ("МОСКВА Привет, мир!", "москва привет , мир !"),
    ("300 \u212a and 1 \u212b", "300 k and 1 å"),
    ("日本語のテスト。12、34", "日本語 の テスト 。 12 、 34"),
    ("你好，世界 hello", "你好，世界 Hello"),
    ("नमस्ते दुनिया", "नमस्ते दुनिया ।"),
    ("emoji 😀 👩‍👩‍👧 😀.", "emoji 😀 👩‍👩‍👧 😀 ."),
    ("٣٫٥ ١٢٣, ¼ ½.", "٣٫٥ ١٢٣ , ¼ ½ ."),
    ("é.é,é.1,é", "é . é , é.1 , é"),
    ("combining e\u0301 versus \u00e9", "combining \u00e9 versus e\u0301"),
    ("MiXeD CaSe ToKeNs", "mixed case tokens"),
    ("A.B.C. U.S.A., e.g. i.e.", "A.B.C . U.S.A. , e.g. i.e ."),
    ("a b a b a b a b a b", "a b a b b a b a"),
    ("one two three four", "one two three five"),
    ("one two three", "one two four"),
    ("one", "one"),
    ("one", "two"),
    ("a b c d e f g h i j", "j i h g f e d c b a"),
    ("This package contains the documentation for the library.",
     "This package provides the documentation of the library."),
    ("This package contains header files, needed to build programs.",
     "This package contains the header files needed to build programs."),
    ("GNOME's text editor - common files", "Text editor for the GNOME desktop (common files)"),
    ("_under_score_ __init__.py", "under score init py"),
    ("x" * 300 + " y", "x" * 300 + " z"),
    ("very " * 60 + "long", "very " * 45 + "long sentence"),
]
LOWER = ["", "ABC xyz", "ÄÖÜß ẞ", "\u0130I\u0307", "ΣΑΣ ΑΣ. Σ ΣΣ", "\U00010400\U0001E900", "Ǆ ǅ ǆ"]


def bleu_of(hypotheses, references, lowercase):
    score = sacrebleu.corpus_bleu(hypotheses, [references], lowercase=lowercase)
    return {"score": score.score, "precisions": score.precisions, "brevity_penalty": score.bp,
            "lengths": [score.sys_len, score.ref_len]}


def score(pairs):
    hypotheses, references = [h for h, _ in pairs], [r for _, r in pairs]
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    rouge = [scorer.score(r, h)["rougeL"].fmeasure for h, r in pairs]
    return {"bleu": bleu_of(hypotheses, references, False),
            "bleu_lc": bleu_of(hypotheses, references, True),
            "rouge_l": 100 * sum(rouge) / len(rouge)}


def main():
    here = pathlib.Path(__file__).resolve().parent
    path = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else here / "metrics.json"
    tokenize = Tokenizer13a()
    pairs = [{"hypothesis": h, "reference": r, "tokens_13a": tokenize(h), **score([(h, r)])}
             for h, r in PAIRS]
    rng = random.Random(1)
    corpora = []
    for size in (2, 5, 10, 30, len(PAIRS)):
        indices = rng.sample(range(len(PAIRS)), size)
        corpora.append({"indices": indices, **score([PAIRS[i] for i in indices])})
    lower_sum = sum((c + 1) * sum(map(ord, chr(c).lower())) for c in range(0x110000)
                    if not 0xD800 <= c < 0xE000) % 2**64
    golden = {"sacrebleu": sacrebleu.__version__, "pairs": pairs, "corpora": corpora,
              "lower": [{"text": t, "lower": t.lower()} for t in LOWER], "lower_sum": lower_sum}
    path.write_text(json.dumps(golden, ensure_ascii=True, indent=1) + "\n")


if __name__ == "__main__":
    main()
