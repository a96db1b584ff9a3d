"""CLIP's tokenizer against transformers' own, token for token, with all that files may hold."""

from __future__ import annotations

import json
import random
import shutil

import pytest
import transformers

from nelbo import NelboError
from nelbo.text.tokenizer import ClipTokenizer, train_tokenizer

CAPTIONS = ["a red apple on it's green field!", "the dog isn't red, it's green"] * 3
TEXTS = [
    *("", " ", "a red apple", "A  RED\tapple\n", "it's isn't we're I've I'm they'll he'd"),
    *("123 4.5%", "hello!", "!", "!!?", "apple!dog", "zürich naïve ﬁ é e\u0301", "日本 🙂‍↕️"),
    *("<|endoftext|>", "a <|startoftext|> red", "a<|ENDOFTEXT|>b", "<thing> red", "a<thing>b"),
    *("a <THING> b", "</w>", "a</w>b", "x" * 300, "\x00\x7f", "ﷺ ½ ² Ⅷ", "İstanbul ſ ẞ"),
]


def random_texts(count: int) -> list[str]:
    generator = random.Random(0)
    signs = "abcXYZ éß日🙂 \t\n'!?.,<>|/%0123" + "\u0301\u200d\ufeff\u00a0"
    return ["".join(generator.choices(signs, k=generator.randrange(30))) for _ in range(count)]


@pytest.fixture
def folder(tmp_path):
    train_tokenizer(CAPTIONS, vocabulary=560, max_tokens=20).save_pretrained(tmp_path / "whole")
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (tmp_path / "bare").mkdir(exist_ok=True)
        shutil.copy(tmp_path / "whole" / name, tmp_path / "bare")
    return tmp_path


def change(file, **fields):
    found = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(found | fields))


def agree(path):
    ours = ClipTokenizer.from_pretrained(path)
    theirs = transformers.CLIPTokenizer.from_pretrained(path)
    texts = [*TEXTS, *random_texts(300)]
    for text, tokens in zip(texts, ours(texts).input_ids, strict=True):
        assert tokens == theirs(text).input_ids == ours(text).input_ids, repr(text)
        assert ours.decode(tokens[1:-1]) == theirs.decode(tokens[1:-1]), repr(text)
    assert ours.get_vocab() == theirs.get_vocab()
    for role in ("bos_token_id", "eos_token_id", "pad_token_id", "model_max_length"):
        assert getattr(ours, role) == getattr(theirs, role), role
    return ours


@pytest.mark.parametrize("kind", ["whole", "bare"])
def test_texts_have_the_tokens_of_transformers(folder, kind):
    agree(folder / kind)


def test_the_padding_of_sd_2_is_that_of_the_file_of_roles(folder):
    """Of which its tokenizer_config.json names another; a token of a role is found as it is."""
    change(folder / "bare/special_tokens_map.json", pad_token="!")
    ours = agree(folder / "bare")
    assert ours.pad_token_id == ours.get_vocab()["!"]


def test_of_roles_that_a_config_has_with_its_added_tokens_no_other_file_is_asked(folder):
    end = {"content": "<|endoftext|>", "normalized": False, "special": True}
    number = json.loads((folder / "bare/vocab.json").read_text())["<|endoftext|>"]
    file = folder / "bare/tokenizer_config.json"
    change(file, added_tokens_decoder={str(number): end})
    change(folder / "bare/special_tokens_map.json", pad_token="!")
    ours = agree(folder / "bare")
    assert ours.pad_token_id == number


@pytest.mark.parametrize("special", [False, True])
def test_added_tokens_are_found_before_words_are(folder, tmp_path, special):
    number = len(json.loads((folder / "bare/vocab.json").read_text()))
    token = {"content": "<thing>", "normalized": not special, "special": special}
    token |= {"single_word": False, "lstrip": False, "rstrip": False}
    change(folder / "bare/tokenizer_config.json", added_tokens_decoder={str(number): token})
    ours = agree(folder / "bare")
    assert number in ours("a <thing>").input_ids
    ours.save_pretrained(tmp_path / "again")
    assert number in agree(tmp_path / "again")("a <thing>").input_ids


def test_added_tokens_of_an_older_file(folder):
    number = len(json.loads((folder / "bare/vocab.json").read_text()))
    change(folder / "bare/added_tokens.json", **{"<thing>": number})
    assert number in ClipTokenizer.from_pretrained(folder / "bare")("a <thing>").input_ids


def test_files_that_are_missing_or_damaged(folder):
    bare = folder / "bare"
    change(bare / "added_tokens.json", **{"<thing>": 9999})
    with pytest.raises(NelboError, match=r"bare cannot be read: .*<thing>.* 9999, expected 5\d\d"):
        ClipTokenizer.from_pretrained(bare)
    (bare / "added_tokens.json").unlink()
    change(bare / "tokenizer_config.json", eos_token="<end>")
    with pytest.raises(NelboError, match="eos_token is '<end>', which is not in the vocabulary"):
        ClipTokenizer.from_pretrained(bare)
    change(bare / "tokenizer_config.json", eos_token="<|endoftext|>")
    (bare / "merges.txt").write_text("#version: 0.2\nno\n")
    with pytest.raises(NelboError, match="bare cannot be read"):
        ClipTokenizer.from_pretrained(bare)
    (bare / "merges.txt").unlink()
    with pytest.raises(NelboError, match=r"holds no merges\.txt"):
        ClipTokenizer.from_pretrained(bare)
    (bare / "vocab.json").write_text("{")
    with pytest.raises(NelboError, match=r"vocab\.json is not readable as JSON"):
        ClipTokenizer.from_pretrained(bare)
    with pytest.raises(NelboError, match=r"holds no tokenizer\.json"):
        ClipTokenizer.from_pretrained(folder)
    (folder / "whole/tokenizer.json").write_text('{"model": {}}')
    with pytest.raises(NelboError, match="whole cannot be read"):
        ClipTokenizer.from_pretrained(folder / "whole")
