#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Writes the small texts of configs/tiny.textproto beside this file: sentences of a toy grammar, and
# pairs of a sentence and its telegram. The same bytes every time.
import pathlib

ADJECTIVES = "small old quiet bright clever heavy green gentle hungry careful distant sudden".split()
NOUNS = ("fox river farmer window bridge lantern garden child storm wagon teacher mountain letter "
         "baker forest ship").split()
VERBS = "watches follows finds carries paints remembers leaves repairs guards answers hides".split()
PLACES = ("near the harbour,in the valley,behind the mill,under the stairs,across the field,"
          "beside the well,before the gate,along the road").split(",")
TIMES = "every morning,at night,in spring,after the rain,for many years,on market days".split(",")

state = 20240501


def pick(words):
    """One word, by a 64-bit linear congruential generator (Knuth's MMIX constants)."""
    global state
    state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
    return words[(state >> 33) % len(words)]


def sentence():
    subject, verb, thing = pick(NOUNS), pick(VERBS), pick(NOUNS)
    text = f"The {pick(ADJECTIVES)} {subject} {verb} the {pick(ADJECTIVES)} {thing} {pick(PLACES)}"
    if pick([0, 1]):
        text += f" {pick(TIMES)}"
    return text + ".", f"{subject} {verb} {thing}"


def documents(count):
    return "\n\n".join(" ".join(sentence()[0] for _ in range(pick([3, 4, 5, 6])))
                       for _ in range(count)) + "\n"


folder = pathlib.Path(__file__).parent
(folder / "train.txt").write_text(documents(110))
(folder / "valid.txt").write_text(documents(20))
with open(folder / "pairs.tsv", "w") as out:
    for i in range(260):
        split = "test" if i % 13 == 0 else "valid" if i % 13 == 1 else "train"
        out.write("\t".join(sentence()) + f"\t{split}\n")
