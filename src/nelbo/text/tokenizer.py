"""A byte-pair tokenizer of one's own captions, in the format of CLIP's (Sennrich et al. 2016).

CLIP's tokenizer lower-cases, splits text into words, numbers and runs of signs, writes each as the
bytes of its UTF-8 with the last one marked `</w>`, and merges neighbours in a learned order. Its
vocabulary is made of 256 bytes, 256 last bytes, the merges, and the two ends of a text, so that any
text has tokens, whatever the captions were (Radford et al. 2021, section 2.4).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from nelbo.base.errors import MissingExtraError, NelboError

START, END = "<|startoftext|>", "<|endoftext|>"
_LAST = "</w>"
# Bytes, last bytes, and the two ends.
_LEAST = 2 * 256 + 2


def train_tokenizer(
    captions: Sequence[str], *, vocabulary: int = 2048, max_tokens: int = 77
) -> Any:
    """A transformers `CLIPTokenizer` whose merges are those that shorten the captions most.

    Args:
        captions: the texts; a pair of neighbours that occurs once is not merged.
        vocabulary: the largest number of tokens, above 514; captions of few words need fewer.
        max_tokens: N, what a text is padded or cut to, with a token at its start and end.

    Raises:
        MissingExtraError: transformers and tokenizers are not installed.
        NelboError: no captions, one that is not a string, or a number out of range.
    """
    _check(captions, vocabulary, max_tokens)
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
        from transformers import CLIPTokenizer
    except ImportError as error:
        raise MissingExtraError("training a tokenizer", "text") from error

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    basic = [*letters, *(letter + _LAST for letter in letters)]
    options = {"unk_token": END, "bos_token": START, "eos_token": END, "pad_token": END}

    def clip(tokens: Sequence[str], merges: Any) -> Any:
        # Two merges may make the same token.
        unique = dict.fromkeys([*basic, *tokens, START, END])
        ids = {token: i for i, token in enumerate(unique)}
        return CLIPTokenizer(vocab=ids, merges=merges, model_max_length=max_tokens, **options)

    # CLIP's own normaliser and splitter, before there is anything to merge.
    bare = clip([], []).backend_tokenizer
    words: Counter[str] = Counter()
    for caption in captions:
        normal = bare.normalizer.normalize_str(caption)
        words.update(word for word, _ in bare.pre_tokenizer.pre_tokenize_str(normal))
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
    merges = _merges(learner)[: vocabulary - _LEAST]
    return clip(["".join(pair) for pair in merges], merges)


def _repeated(words: Counter[str]) -> Iterator[str]:
    for word, count in sorted(words.items()):
        yield from [word] * count


def _merges(learner: Any) -> list[tuple[str, str]]:
    merges = json.loads(learner.to_str())["model"]["merges"]
    # Older releases of tokenizers write a pair as one string.
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in merges]
    return [(left, right) for left, right in pairs]


def _check(captions: Sequence[str], vocabulary: int, max_tokens: int) -> None:
    if isinstance(captions, str) or not captions or not all(isinstance(c, str) for c in captions):
        raise NelboError("captions must be a list of strings, at least one")
    if vocabulary < _LEAST:
        raise NelboError(f"vocabulary must be at least {_LEAST}, all bytes, got {vocabulary}")
    if max_tokens < 3:
        raise NelboError(f"max_tokens must be at least 3, a token and two ends, got {max_tokens}")
