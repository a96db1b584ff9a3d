"""The text encoders of a single file, with tokenizers that lie beside it or on the Hub."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from nelbo.base.errors import MissingExtraError, NelboError
from nelbo.formats.single.checkpoint import CLIP, OPEN_CLIP, XL_CLIP, XL_OPEN_CLIP, Checkpoint
from nelbo.formats.single.renaming import counted
from nelbo.formats.single.text import clip_fields, rename_clip, rename_open_clip
from nelbo.networks.clip import ClipText
from nelbo.networks.clip_config import ClipTextConfig
from nelbo.networks.pretrained import skeleton
from nelbo.text import PromptEncoder, TextEncoder
from nelbo.text.paired import SECOND_TOKENIZER, PairedTextEncoder
from nelbo.text.tokenizer import ClipTokenizer

# Whose words every CLIP reads.
_WORDS = "openai/clip-vit-large-patch14"
# What OpenCLIP pads with, where CLIP pads with its end.
_OPEN_PADDING = "!"


def read_prompts(checkpoint: Checkpoint) -> PromptEncoder:
    """The text encoder, or both of XL.

    Raises:
        MissingExtraError: the package tokenizers is not installed.
        NelboError: no tokenizer, or weights that do not fit a CLIP.
    """
    if checkpoint.is_xl:
        first = rename_clip(checkpoint.weights(XL_CLIP))
        second = rename_open_clip(checkpoint.weights(XL_OPEN_CLIP))
        return PairedTextEncoder(
            _encoder(checkpoint, first, "quick_gelu"),
            _encoder(checkpoint, second, "gelu", projected=True, padding=_OPEN_PADDING),
        )
    if checkpoint.is_second:
        weights = checkpoint.weights(OPEN_CLIP)
        # The network attends to what comes before the last layer.
        layers = counted(weights, r"transformer\.resblocks\.(\d+)\.") - 1
        kept = rename_open_clip(weights, layers)
        return _encoder(checkpoint, kept, "gelu", padding=_OPEN_PADDING)
    return _encoder(checkpoint, rename_clip(checkpoint.weights(CLIP)), "quick_gelu")


def _encoder(
    checkpoint: Checkpoint,
    weights: dict[str, Tensor],
    activation: str,
    *,
    projected: bool = False,
    padding: str | None = None,
) -> TextEncoder:
    fields = clip_fields(weights, activation)
    tokens = _tokenizer(checkpoint, fields["vocab_size"], second=projected, padding=padding)
    config = ClipTextConfig(
        **fields,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )
    with skeleton():
        model = ClipText(config, projected=projected)
    model.load(weights, checkpoint.path)
    return TextEncoder(tokens, model).eval()


def _tokenizer(
    checkpoint: Checkpoint, words: int, *, second: bool, padding: str | None
) -> ClipTokenizer:
    """The tokenizer in a folder beside the file, else that of CLIP on the Hub.

    Raises:
        NelboError: none of this number of words.
    """
    beside = checkpoint.path.parent
    names = (SECOND_TOKENIZER, "tokenizer") if second else ("tokenizer",)
    folder = next((beside / name for name in names if (beside / name).is_dir()), None)
    source: str | Path = folder or _WORDS
    try:
        tokens = ClipTokenizer.from_pretrained(source)
        if padding is not None and padding in tokens.get_vocab():
            tokens = ClipTokenizer.from_pretrained(source, roles={"pad_token": padding})
        if len(tokens) == words:
            return tokens
        found = f"one of {len(tokens)} words, expected {words}"
    except MissingExtraError:
        raise
    except NelboError as error:
        found = str(error)
    raise NelboError(
        f"{checkpoint.path} holds no tokenizer, and {source} gives none that fits: copy the "
        f"folder tokenizer/ of any Stable Diffusion pipeline into {beside} ({found})"
    )
