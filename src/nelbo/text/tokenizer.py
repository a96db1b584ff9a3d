"""CLIP's byte-pair tokenizer: that of a pipeline, or one of one's own captions.

It lower-cases, splits text into words, numbers and runs of signs, writes each as the bytes of its
UTF-8 with the last one marked `</w>`, and merges neighbours in a learned order (Sennrich et al.
2016). Its vocabulary is made of 256 bytes, 256 last bytes, the merges, and the two ends of a text,
so that any text has tokens, whatever the captions were (Radford et al. 2021, section 2.4).
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nelbo.base.errors import MissingExtraError, NelboError, explained, optional
from nelbo.base.files import atomic_file, read_json, write_json, writing
from nelbo.networks.files import locate

START, END = "<|startoftext|>", "<|endoftext|>"
# What takes which part in a text, where the files of a tokenizer name nothing else.
ROLES = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
# As transformers writes that nothing limits the length of a text.
UNLIMITED = 10**30
# How an added token is found in a text, as files note it.
_FOUND_BY = ("single_word", "lstrip", "rstrip", "normalized", "special")
_LAST = "</w>"
# Bytes, last bytes, and the two ends.
_LEAST = 2 * 256 + 2
# Words in lower case.
_WORD = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
_WHOLE, _VOCABULARY, _MERGES = "tokenizer.json", "vocab.json", "merges.txt"
_CONFIG, _ROLES_FILE, _ADDED = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_DECODER = "added_tokens_decoder"


class Tokens(NamedTuple):
    """The tokens of a text, or of each of several."""

    input_ids: Any


class ClipTokenizer:
    """Texts to tokens as CLIP reads them; its methods are named as in transformers.

    Args:
        vocabulary: tokens and their numbers.
        merges: pairs of neighbours, the first one is merged first.
        roles: the tokens for the start and the end of a text, what is unknown, and padding, by the
            names of `ROLES`, which are the defaults.
        added: tokens that are found before a text is split into words, as tokenizer.json has them.
        model_max_length: the largest number of tokens of a text, with its start and end.

    Attributes:
        bos_token_id: the number of the start.
        eos_token_id: the number of the end.
        pad_token_id: the number of the padding.
        backend_tokenizer: what reads a text, of the package tokenizers.

    Raises:
        MissingExtraError: the package tokenizers is not installed.
        NelboError: a vocabulary without one of the roles, or numbers that contradict each other.
    """

    def __init__(
        self,
        vocabulary: Mapping[str, int],
        merges: Iterable[tuple[str, str]],
        *,
        roles: Mapping[str, str] | None = None,
        added: Sequence[Mapping[str, Any]] = (),
        model_max_length: int = UNLIMITED,
    ) -> None:
        tokenizers = _library()
        self.roles = ROLES | dict(roles or {})
        self.added = [dict(token) for token in added]
        self.model_max_length = model_max_length
        words = tokenizers.Tokenizer(
            tokenizers.models.BPE(
                vocab=dict(vocabulary),
                merges=[(left, right) for left, right in merges],
                end_of_word_suffix=_LAST,
                unk_token=self.roles["unk_token"],
            )
        )
        normal, split = tokenizers.normalizers, tokenizers.pre_tokenizers
        words.normalizer = normal.Sequence(
            [normal.NFC(), normal.Replace(tokenizers.Regex(r"\s+"), " "), normal.Lowercase()]
        )
        words.pre_tokenizer = split.Sequence(
            [
                split.Split(tokenizers.Regex(_WORD), behavior="removed", invert=True),
                split.ByteLevel(add_prefix_space=False),
            ]
        )
        words.decoder = tokenizers.decoders.ByteLevel()
        for further in sorted(self.added, key=lambda further: further["id"]):
            how = {name: further[name] for name in _FOUND_BY if name in further}
            words.add_tokens([tokenizers.AddedToken(further["content"], **how)])
            if (number := words.token_to_id(further["content"])) != further["id"]:
                raise NelboError(
                    f"the added token {further['content']!r} has number {further['id']}, expected "
                    f"{number}, the next one"
                )
        known = words.get_vocab()
        for role, token in self.roles.items():
            if token not in known:
                raise NelboError(f"{role} is {token!r}, which is not in the vocabulary")
        words.add_special_tokens(list(dict.fromkeys(self.roles.values())))
        start, end = self.roles["bos_token"], self.roles["eos_token"]
        words.post_processor = tokenizers.processors.RobertaProcessing(
            (end, known[end]), (start, known[start]), trim_offsets=False, add_prefix_space=False
        )
        self.bos_token_id: int = known[start]
        self.eos_token_id: int = known[end]
        self.pad_token_id: int = known[self.roles["pad_token"]]
        self.backend_tokenizer: Any = words

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        subfolder: str | None = None,
        *,
        roles: Mapping[str, str] | None = None,
    ) -> ClipTokenizer:
        """The tokenizer in a directory or on the Hub, of any release of transformers.

        Args:
            path: directory or Hub id.
            subfolder: where in it the tokenizer is.
            roles: tokens that take other parts than the files note.

        Raises:
            MissingExtraError: the package tokenizers is not installed.
            NelboError: a file is missing or damaged.
        """
        _library()  # which may be missing, before files are
        file = locate(path, subfolder, _WHOLE, _VOCABULARY)
        config = _read_if_there(path, subfolder, _CONFIG)
        # The library raises a plain Exception for what it cannot read.
        with explained(f"{file.parent} cannot be read", Exception):
            if file.name == _WHOLE:
                whole = read_json(file)
                vocabulary, merges = whole["model"]["vocab"], _pairs(whole["model"]["merges"])
                added = whole.get("added_tokens", [])
            else:
                vocabulary = read_json(file)
                merges = _read_merges(locate(path, subfolder, _MERGES))
                added = _added(config, _read_if_there(path, subfolder, _ADDED))
            noted = config
            if _DECODER not in config:
                noted = config | _read_if_there(path, subfolder, _ROLES_FILE)
            named = {name: _content(noted[name]) for name in ROLES if noted.get(name) is not None}
            length = config.get("model_max_length") or UNLIMITED
            return cls(
                vocabulary,
                merges,
                roles=named | dict(roles or {}),
                added=added,
                model_max_length=int(length),
            )

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write the files that transformers reads, of any release.

        Raises:
            NelboError: the directory cannot be written.
        """
        folder = Path(path)
        config: dict[str, Any] = {
            **self.roles,
            "model_max_length": self.model_max_length,
            "tokenizer_class": "CLIPTokenizer",
        }
        if self.added:
            config[_DECODER] = {
                str(token["id"]): {name: token[name] for name in token if name != "id"}
                for token in self.added
            }
        # Not by the library, which does not write whole and raises a plain Exception.
        whole = self.backend_tokenizer.to_str(pretty=True)
        model = json.loads(whole)["model"]
        lines = ["#version: 0.2", *map(" ".join, _pairs(model["merges"]))]
        texts = {
            _VOCABULARY: json.dumps(model["vocab"], ensure_ascii=False, separators=(",", ":")),
            _MERGES: "".join(f"{line}\n" for line in lines),
            _WHOLE: whole,
        }
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in texts.items():
                with atomic_file(folder / name) as temporary:
                    temporary.write_bytes(text.encode())
            write_json(folder / _CONFIG, config, sort_keys=True)

    def __call__(self, text: str | Sequence[str]) -> Tokens:
        """The tokens of a text with its start and end, or of each of several; none is cut."""
        if isinstance(text, str):
            return Tokens(self.backend_tokenizer.encode(text).ids)
        return Tokens([found.ids for found in self.backend_tokenizer.encode_batch(list(text))])

    def __len__(self) -> int:
        return self.backend_tokenizer.get_vocab_size()

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, in lower case."""
        text = self.backend_tokenizer.decode(list(tokens), skip_special_tokens=False)
        return text.replace(_LAST, " ").strip()

    def convert_ids_to_tokens(self, tokens: Sequence[int]) -> list[str]:
        """The tokens that have these numbers."""
        return [self.backend_tokenizer.id_to_token(token) for token in tokens]

    def get_vocab(self) -> dict[str, int]:
        """All tokens and their numbers."""
        return self.backend_tokenizer.get_vocab()

    def words(self, text: str) -> list[str]:
        """The words of a text, each as the signs for its bytes."""
        normal = self.backend_tokenizer.normalizer.normalize_str(text)
        return [word for word, _ in self.backend_tokenizer.pre_tokenizer.pre_tokenize_str(normal)]


def train_tokenizer(
    captions: Sequence[str], *, vocabulary: int = 2048, max_tokens: int = 77
) -> ClipTokenizer:
    """A tokenizer whose merges are those that shorten the captions most.

    Args:
        captions: the texts; a pair of neighbours that occurs once is not merged.
        vocabulary: the largest number of tokens, above 514; captions of few words need fewer.
        max_tokens: N, what a text is padded or cut to, with a token at its start and end.

    Raises:
        MissingExtraError: the package tokenizers is not installed.
        NelboError: no captions, one that is not a string, or a number out of range.
    """
    _check(captions, vocabulary, max_tokens)
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    except ImportError as error:
        raise MissingExtraError("training a tokenizer", "text") from error

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    basic = [*letters, *(letter + _LAST for letter in letters)]

    def clip(merges: Sequence[tuple[str, str]]) -> ClipTokenizer:
        # Two merges may make the same token.
        unique = dict.fromkeys([*basic, *map("".join, merges), START, END])
        ids = {token: i for i, token in enumerate(unique)}
        return ClipTokenizer(ids, merges, model_max_length=max_tokens)

    bare = clip([])
    words: Counter[str] = Counter()
    for caption in captions:
        words.update(bare.words(caption))
    learner = Tokenizer(models.BPE(end_of_word_suffix=_LAST))
    learner.decoder = decoders.BPEDecoder(suffix=_LAST)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 2,
        min_frequency=2,
        initial_alphabet=letters,
        end_of_word_suffix=_LAST,
        show_progress=False,
    )
    learner.train_from_iterator(_repeated(words), trainer)
    learned = _pairs(json.loads(learner.to_str())["model"]["merges"])
    return clip(learned[: vocabulary - _LEAST])


def _repeated(words: Counter[str]) -> Iterator[str]:
    for word, count in sorted(words.items()):
        yield from [word] * count


def _library() -> Any:
    return optional("tokenizers", "a text encoder", "text")


def _pairs(merges: Sequence[Any]) -> list[tuple[str, str]]:
    # Older releases of tokenizers write a pair as one string.
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in merges]
    return [(left, right) for left, right in pairs]


def _read_merges(file: Path) -> list[tuple[str, str]]:
    lines = file.read_text(encoding="utf-8").splitlines()
    return _pairs([line for line in lines if line and not line.startswith("#version")])


def _read_if_there(
    path: str | os.PathLike[str], subfolder: str | None, name: str
) -> dict[str, Any]:
    try:
        file = locate(path, subfolder, name)
    except NelboError:
        return {}
    return read_json(file)


def _added(config: Mapping[str, Any], older: Mapping[str, int]) -> list[dict[str, Any]]:
    """The added tokens of a tokenizer_config.json, or of an older file of numbers alone."""
    if _DECODER in config:
        return [{"id": int(i), **token} for i, token in config[_DECODER].items()]
    return [{"id": number, "content": token} for token, number in older.items()]


def _content(role: Any) -> str:
    return role["content"] if isinstance(role, Mapping) else role


def _check(captions: Sequence[str], vocabulary: int, max_tokens: int) -> None:
    if isinstance(captions, str) or not captions or not all(isinstance(c, str) for c in captions):
        raise NelboError("captions must be a list of strings, at least one")
    if vocabulary < _LEAST:
        raise NelboError(f"vocabulary must be at least {_LEAST}, all bytes, got {vocabulary}")
    if max_tokens < 3:
        raise NelboError(f"max_tokens must be at least 3, a token and two ends, got {max_tokens}")
