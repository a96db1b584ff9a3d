"""The text encoders of a single file, with tokenizers that lie beside it or on the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from nelbo.base.errors import NelboError
from nelbo.formats.single.checkpoint import CLIP, OPEN_CLIP, XL_CLIP, XL_OPEN_CLIP, Checkpoint
from nelbo.formats.single.renaming import counted
from nelbo.formats.single.text import clip_fields, rename_clip, rename_open_clip
from nelbo.networks.finite import check_finite_weights
from nelbo.networks.weights import check_weights
from nelbo.text import PromptEncoder, TextEncoder
from nelbo.text.encoder import transformers_library
from nelbo.text.paired import SECOND_CLASS, SECOND_TOKENIZER, PairedTextEncoder

# Whose words every CLIP reads.
_WORDS = "openai/clip-vit-large-patch14"
# What OpenCLIP pads with, where CLIP pads with its end.
_OPEN_PADDING = "!"


def read_prompts(checkpoint: Checkpoint) -> PromptEncoder:
    """The text encoder, or both of XL.

    Raises:
        MissingExtraError: transformers is not installed.
        NelboError: no tokenizer, or weights that do not fit a CLIP.
    """
    if checkpoint.is_xl:
        first = rename_clip(checkpoint.weights(XL_CLIP))
        second = rename_open_clip(checkpoint.weights(XL_OPEN_CLIP))
        return PairedTextEncoder(
            _encoder(checkpoint, first, "quick_gelu"),
            _encoder(checkpoint, second, "gelu", SECOND_CLASS, _OPEN_PADDING),
        )
    if checkpoint.is_second:
        weights = checkpoint.weights(OPEN_CLIP)
        # The network attends to what comes before the last layer.
        layers = counted(weights, r"transformer\.resblocks\.(\d+)\.") - 1
        kept = rename_open_clip(weights, layers)
        kept.pop("text_projection.weight", None)
        return _encoder(checkpoint, kept, "gelu", padding=_OPEN_PADDING)
    return _encoder(checkpoint, rename_clip(checkpoint.weights(CLIP)), "quick_gelu")


def _encoder(
    checkpoint: Checkpoint,
    weights: dict[str, Tensor],
    activation: str,
    kind: str = "CLIPTextModel",
    padding: str | None = None,
) -> TextEncoder:
    transformers = transformers_library()
    fields = clip_fields(weights, activation)
    words = fields["vocab_size"]
    tokens = _tokenizer(checkpoint, transformers, words, second=kind == SECOND_CLASS)
    if padding is not None and padding in tokens.get_vocab():
        tokens.pad_token = padding
    config = transformers.CLIPTextConfig(
        **fields,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )
    model = getattr(transformers, kind)(config)
    expected = model.state_dict()
    below = "text_model." if any(name.startswith("text_model.") for name in expected) else ""
    found = {n if n.startswith("text_projection") else below + n: w for n, w in weights.items()}
    check_weights(found, expected, checkpoint.path)
    check_finite_weights(found, checkpoint.path)
    model.load_state_dict(found, assign=True)
    return TextEncoder(tokens, model).eval()


def _tokenizer(checkpoint: Checkpoint, transformers: Any, words: int, *, second: bool) -> Any:
    """The tokenizer in a folder beside the file, else that of CLIP on the Hub.

    Raises:
        NelboError: none of this number of words.
    """
    beside = checkpoint.path.parent
    names = (SECOND_TOKENIZER, "tokenizer") if second else ("tokenizer",)
    folder = next((beside / name for name in names if (beside / name).is_dir()), None)
    source: str | Path = folder or _WORDS
    try:
        tokens = transformers.CLIPTokenizer.from_pretrained(source)
        found = f"one of {len(tokens)} words, expected {words}"
    except Exception as error:
        tokens, found = [], str(error)
    # Some releases make one without words where there is none.
    if len(tokens) != words:
        raise NelboError(
            f"{checkpoint.path} holds no tokenizer, and {source} gives none that fits: copy the "
            f"folder tokenizer/ of any Stable Diffusion pipeline into {beside} ({found})"
        )
    return tokens
