"""What a network of sequences reads at each step, put together by hand."""

from __future__ import annotations

import pytest
import torch

from nelbo import Continuous, Pixels
from nelbo.families.neighbours import Neighbours

LEVELS, WIDTH = 4, 6
# Channels, height and width of an image: a row of the sequence has six values.
SHAPE = (2, 3, 3)
ROW = SHAPE[0] * SHAPE[2]


@pytest.mark.parametrize("space", [Pixels(LEVELS), Continuous()])
def test_features_are_of_the_neighbours_that_there_are(space, generator):
    """Both values, whether they exist, their levels, and row, column and channel."""
    net = Neighbours(WIDTH, SHAPE, space)
    k = torch.randint(LEVELS, (2, ROW * SHAPE[1]), generator=generator)
    x = 2 * k / (LEVELS - 1) - 1
    by_level = not space.is_density
    with torch.no_grad():
        found = net.of_sequence(x)
        for n in range(2):
            for i in range(x.shape[1]):
                before = float(x[n, i - 1]) if i > 0 else 0.0
                above = float(x[n, i - ROW]) if i >= ROW else 0.0
                values = torch.tensor([before, float(i > 0), above, float(i >= ROW)])
                none = LEVELS if by_level else 0
                expected = (
                    net.values(values)
                    + net.before.weight[int(k[n, i - 1]) if by_level and i > 0 else none]
                    + net.above.weight[int(k[n, i - ROW]) if by_level and i >= ROW else none]
                    + net.down.weight[i // ROW]
                    + net.along.weight[(i % ROW) // SHAPE[0]]
                    + net.channel.weight[i % SHAPE[0]]
                )
                torch.testing.assert_close(found[n, i], expected)
                torch.testing.assert_close(net.at(x, i)[n], expected)


def test_all_tables_start_alike(generator):
    torch.manual_seed(0)
    net = Neighbours(256, (3, 16, 16), Pixels(16))
    for table in (net.down, net.along, net.channel, net.before, net.above):
        assert table.weight.std().item() == pytest.approx(0.3, rel=0.15)
