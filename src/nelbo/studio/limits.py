"""How much one client, and all of them together, may ask for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds on requests; beyond them a request is refused with a message, and nothing is decoded.

    Attributes:
        waiting: tasks in the queue, the running one not counted.
        upload_bytes: of one request, and of one picture.
        queued_bytes: of the pictures of all requests in the queue.
        upload_pixels: of one picture, which stops decompression bombs.
        pictures: that one request may upload.
        images: that one request may draw.
        drawn_pixels: of all images that one request may draw.
        steps: of a sampler.
        prompts: that one image may be ranked by.
        text: characters of a prompt.
        calls: of the network for one image's bits.
    """

    waiting: int = 32
    upload_bytes: int = 16_000_000
    queued_bytes: int = 128_000_000
    upload_pixels: int = 32_000_000
    pictures: int = 16
    images: int = 16
    drawn_pixels: int = 16 * 512 * 512
    steps: int = 1000
    prompts: int = 32
    text: int = 500
    calls: int = 20_000
