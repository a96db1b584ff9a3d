"""A scorer of pictures and names, trained on real emoji only.

    score(x, name) = cos(f(x), g(name)),    g(name) = A Σ_w e_w

f is a small convolutional network. g adds vectors of the words of a name and of its pairs of
neighbouring words, so that a name never seen is scored by words that were. Both are trained by one
cross-entropy: which of all training names is this the picture of? Names of the same picture share
the answer; one name may have many pictures. A fifth of the words and pairs is left out at random,
so that no name is known by one of them alone.

Pictures are shown shifted by up to two pixels, scaled by up to 8%, blurred, with other brightness
and tint, and with noise, so that what an autoencoder does to a picture does not decide its name. No
generated picture and none of the test split is ever shown.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from nelbo.data import ImageData
from nelbo.training.order import DataOrder

BATCH = 128
STEPS = 700
WIDTH, DIMENSIONS = 32, 128
SHARPNESS = 30.0  # 1 over the temperature of the softmax
DROPPED = 0.2  # share of words and pairs
# Augmentation: a share of the picture's side, of its size, of brightness; in units of [−1, 1].
SHIFT, SCALE, BRIGHTNESS, TINT, NOISE = 0.06, 0.08, 0.1, 0.05, 0.15


def words_of(name: str) -> list[str]:
    """The words of a name, then its pairs of neighbours; "skin tone" carries no information and is
    left out.

    The first word has the mark of the start as its neighbour.
    """
    words = re.findall(r"[^\s:,()]+", name.lower().replace(" skin tone", ""))
    return [*words, *(" ".join(pair) for pair in zip(["^", *words], words, strict=False))]


def to_network(images: Tensor) -> Tensor:
    """Pixel levels 0..255 as −1..1."""
    return images.float() / 127.5 - 1


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Shifted, scaled, blurred, tinted and noisy pictures; outside of a picture is white."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    n = len(x)
    transform = torch.zeros(n, 2, 3)
    transform[:, 0, 0] = transform[:, 1, 1] = 1 + SCALE * (2 * uniform(n) - 1)
    transform[:, :, 2] = 2 * SHIFT * (2 * uniform(n, 2) - 1)
    grid = F.affine_grid(transform, list(x.shape), align_corners=False)
    x = F.grid_sample(x - 1, grid, align_corners=False) + 1
    binomial = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    kernel = torch.outer(binomial, binomial).expand(3, 1, 5, 5)
    blurred = F.conv2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), kernel, groups=3)
    x = torch.lerp(x, blurred, uniform(n, 1, 1, 1))
    x = x * (1 + BRIGHTNESS * (2 * uniform(n, 1, 1, 1) - 1))
    x = x + TINT * torch.randn((n, 3, 1, 1), generator=generator) * uniform(n, 1, 1, 1)
    return x + NOISE * uniform(n, 1, 1, 1) * torch.randn(x.shape, generator=generator)


def _convolution(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 2 + stride, stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.SiLU(),
    )


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _convolution(channels, channels, 1),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x + self.body(x))


class Scorer(nn.Module):
    """f and g above; `images` and `names` give unit vectors.

    Args:
        names: the training names, whose words are known.
        width: channels at half of the picture's size.
        dimensions: of the vectors.
    """

    def __init__(
        self, names: Sequence[str], width: int = WIDTH, dimensions: int = DIMENSIONS
    ) -> None:
        super().__init__()
        known = dict.fromkeys(word for name in names for word in words_of(name))
        self.index = {word: i for i, word in enumerate(known, 1)}  # 0 is no word
        self.body = nn.Sequential(
            _convolution(3, width, 2),
            Residual(width),
            _convolution(width, 2 * width, 2),
            Residual(2 * width),
            _convolution(2 * width, 4 * width, 2),
            nn.Flatten(),
            nn.Linear(4 * width * 16, dimensions, bias=False),
            nn.BatchNorm1d(dimensions),
        )
        self.words = nn.EmbeddingBag(len(known) + 1, dimensions, mode="sum", padding_idx=0)
        nn.init.normal_(self.words.weight, std=0.1)
        nn.init.zeros_(self.words.weight[0])
        self.out = nn.Linear(dimensions, dimensions)

    def images(self, x: Tensor) -> Tensor:
        """(N, 3, 32, 32) in [−1, 1] → (N, D)."""
        return F.normalize(self.body(x), dim=1)

    def tokens(self, names: Sequence[str]) -> Tensor:
        """The known words and pairs of each name, padded with 0, (N, L) int64."""
        rows = [[self.index[w] for w in words_of(name) if w in self.index] for name in names]
        longest = max(map(len, rows))
        return torch.tensor([row + [0] * (longest - len(row)) for row in rows])

    def names(self, tokens: Tensor, keep: Tensor | None = None) -> Tensor:
        """(N, L) → (N, D); `keep`, 1 or 0, marks the words that count, all by default."""
        return F.normalize(self.out(self.words(tokens, per_sample_weights=keep)), dim=1)


def train_scorer(data: ImageData, steps: int = STEPS, seed: int = 0) -> Scorer:
    """A scorer of the named pictures of `data`, 32×32."""
    captions = data.captions or ()
    named = torch.tensor([i for i, caption in enumerate(captions) if caption])
    x = to_network(data.images[named])
    of_each = [captions[i] or "" for i in named.tolist()]
    names = list(dict.fromkeys(of_each))
    name = torch.tensor([*map({name: i for i, name in enumerate(names)}.get, of_each)])
    first: dict[bytes, int] = {}
    picture = torch.tensor([first.setdefault(image.numpy().tobytes(), len(first)) for image in x])
    right = torch.zeros(len(first), len(names), dtype=torch.bool)
    right[picture, name] = True
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        scorer = Scorer(names)
    tokens = scorer.tokens(names)
    optimizer = torch.optim.AdamW(scorer.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 3e-3, total_steps=steps, pct_start=0.1
    )
    order = DataOrder(len(x), min(BATCH, len(x)), seed)
    for step in range(steps):
        batch = order.batch(step)
        keep = (torch.rand(tokens.shape, generator=generator) >= DROPPED).float()
        vectors = scorer.images(augment(x[batch], generator))
        scores = SHARPNESS * vectors @ scorer.names(tokens, keep).T
        same = right[picture[batch]].float()
        loss = F.cross_entropy(scores, same / same.sum(1, keepdim=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return scorer.eval()


def load_scorer(data: ImageData, cache: Path, steps: int = STEPS, seed: int = 0) -> Scorer:
    """`train_scorer`, kept in `cache` for the same data, settings and version of this file."""
    what = hashlib.blake2b(digest_size=8)
    for part in (Path(__file__).read_bytes(), data.images.numpy(), repr(data.captions).encode()):
        what.update(part)
    file = cache / f"emoji-scorer-{steps}-{seed}-{what.hexdigest()}.safetensors"
    if file.exists():
        scorer = Scorer([caption for caption in data.captions or () if caption])
        scorer.load_state_dict(load_file(file))
        return scorer.eval()
    scorer = train_scorer(data, steps, seed)
    cache.mkdir(parents=True, exist_ok=True)
    save_file(scorer.state_dict(), file)
    return scorer
