"""A tokenizer of one's own captions: its merges, that it reads any text, and what is on disk."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise

import pytest
import transformers

from nelbo import NelboError, TextEncoder
from nelbo.text import LEAST_TOKENS
from nelbo.text.tokenizer import train_tokenizer

CAPTIONS = [
    *["red apple", "green apple", "red heart", "woman firefighter", "man firefighter"] * 3,
    "It's 100% an owl!",
]


def brute_force_merges(captions: list[str], count: int) -> list[str]:
    """Byte pairs by definition: merge the most frequent neighbours, again and again."""
    words: Counter[tuple[str, ...]] = Counter()
    for caption in captions:
        for word in caption.split():
            words[(*word[:-1], word[-1] + "</w>")] += 1
    tokens = []
    for _ in range(count):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, n in words.items():
            for pair in pairwise(word):
                pairs[pair] += n
        best, n = pairs.most_common(1)[0]
        ties = [pair for pair, m in pairs.items() if m == n]
        if len(ties) > 1:
            break  # which of them comes first is a matter of taste
        tokens.append("".join(best))
        merged: Counter[tuple[str, ...]] = Counter()
        for word, m in words.items():
            new: list[str] = []
            for part in word:
                if new and (new[-1], part) == best:
                    new[-1] += part
                else:
                    new.append(part)
            merged[tuple(new)] += m
        words = merged
    return tokens


def test_merges_are_the_most_frequent_pairs():
    captions = ["abcd"] * 8 + ["bcd xy"] * 5 + ["cd xyz"] * 3 + ["zx"] * 2
    expected = brute_force_merges(captions, 8)
    assert len(expected) >= 4
    tokenizer = train_tokenizer(captions, vocabulary=600)
    merged = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])[512:-2]
    assert [token for token, _ in merged][: len(expected)] == expected


def test_words_of_captions_are_single_tokens_and_anything_can_be_read():
    tokenizer = train_tokenizer(CAPTIONS, vocabulary=1000, max_tokens=20)
    ids = tokenizer("Red APPLE").input_ids
    tokens = tokenizer.convert_ids_to_tokens(ids)
    assert tokens == ["<|startoftext|>", "red</w>", "apple</w>", "<|endoftext|>"]
    for text in ("zürich 日本 🙂", "xylophone", "it's 100% an owl!"):
        ids = tokenizer(text).input_ids
        assert ids.count(tokenizer.eos_token_id) == 1
        assert tokenizer.decode(ids[1:-1]).replace(" ", "") == text.replace(" ", "")
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))
    assert len(tokenizer) <= 1000
    assert tokenizer.model_max_length == 20


def test_the_vocabulary_is_no_larger_than_asked_for():
    assert len(train_tokenizer(CAPTIONS, vocabulary=520)) == 520
    assert len(train_tokenizer(CAPTIONS, vocabulary=514)) == 514


def test_it_is_saved_as_tokenizer_of_clip(tmp_path):
    encoder = TextEncoder.for_captions(CAPTIONS, width=8, layers=1, heads=2, vocabulary=700)
    encoder.save_pretrained(tmp_path)
    folder = tmp_path / "tokenizer"
    vocabulary = json.loads((folder / "vocab.json").read_text())
    merges = (folder / "merges.txt").read_text().splitlines()
    assert merges[0].startswith("#version")
    assert len(vocabulary) == 512 + len(merges) - 1 + 2
    again = transformers.CLIPTokenizer.from_pretrained(folder)
    # From the two files of older releases alone.
    bare = transformers.CLIPTokenizer(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt")
    )
    for text in (*CAPTIONS, "", "a wholly new text"):
        ids = encoder.tokenizer(text).input_ids
        assert again(text).input_ids == ids
        assert bare(text).input_ids == ids


def test_the_context_holds_the_longest_caption():
    long = [*CAPTIONS, " ".join(["a red apple on a blue field"] * 3)]
    for captions in (CAPTIONS, long):
        encoder = TextEncoder.for_captions(captions, width=8, layers=1, heads=2, vocabulary=700)
        longest = max(len(encoder.tokenizer(c).input_ids) for c in captions)
        assert encoder.max_tokens == max(LEAST_TOKENS, longest)
        assert encoder.max_tokens == encoder.config.max_position_embeddings
        assert encoder.tokens(captions).shape == (len(captions), encoder.max_tokens)
        longer = "red apple " * 30
        with pytest.warns(UserWarning, match="dropped: '.*red apple"):
            encoder.tokens([longer])
    assert longest > LEAST_TOKENS


def test_captions_longer_than_the_context_of_clip_are_no_cause_for_alarm(monkeypatch):
    said = []
    logger = transformers.tokenization_utils_base.logger
    monkeypatch.setattr(logger, "warning", lambda *message: said.append(message))
    long = " ".join("abcdefghij" * 12)
    assert TextEncoder.for_captions([long], width=8, layers=1, heads=2).max_tokens == 122
    assert not said
    with pytest.raises(NelboError, match=r"max_tokens must be at least 3.* got 0"):
        TextEncoder.for_captions([long], width=8, layers=1, heads=2, max_tokens=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"captions": []}, "at least one"),
        ({"captions": "red apple"}, "list of strings"),
        ({"captions": ["red", None]}, "list of strings"),
        ({"vocabulary": 100}, "at least 514"),
        ({"max_tokens": 2}, "at least 3"),
    ],
)
def test_mistakes_are_explained(settings, message):
    with pytest.raises(NelboError, match=message):
        train_tokenizer(**({"captions": CAPTIONS} | settings))
    with pytest.raises(NelboError, match="heads divide width"):
        TextEncoder.for_captions(CAPTIONS, width=10, heads=4)
