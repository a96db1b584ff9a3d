"""Prompts, and what a network attends to in their place (the extra `text`)."""

from nelbo.text.encoder import (
    LEAST_TOKENS,
    TEXT_ENCODER,
    TOKENIZER,
    PromptEncoder,
    TextEncoder,
    shorten,
)
from nelbo.text.tokenizer import ClipTokenizer

__all__ = [
    "LEAST_TOKENS",
    "TEXT_ENCODER",
    "TOKENIZER",
    "ClipTokenizer",
    "PromptEncoder",
    "TextEncoder",
    "shorten",
]
