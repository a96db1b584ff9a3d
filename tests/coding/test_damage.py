"""An archive never gives wrong pixels in silence, and what cannot be compressed is refused."""

from __future__ import annotations

import dataclasses
import json
import struct
import zlib

import pytest
import torch
from PIL import Image

from nelbo import Continuous, Diffusion, NelboError, NoiseSchedule, Pixels, coding
from nelbo.coding.agreement import Agreement
from nelbo.coding.chain_code import ChainCode
from nelbo.coding.container import _FRAME, _USUAL, MAGIC, VERSION, Container
from nelbo.coding.header import check_header
from nelbo.coding.identity import machine
from nelbo.coding.plan import Plan
from nelbo.coding.reading import Decoded
from nelbo.coding.writing import write_picture, write_pictures
from nelbo.data import ImageData
from nelbo.families import RNN
from tests.coding.models import random_images, tiny


@pytest.fixture(scope="module")
def model():
    return tiny(17, T=3)


@pytest.fixture(scope="module")
def images(model):
    return random_images(6, model)


@pytest.fixture(scope="module")
def archive(model, images):
    return coding.compress(model, images, block=2, verify=False)


def test_no_flipped_bit_gives_wrong_pixels(model, archive):
    random = torch.Generator().manual_seed(0)
    for _ in range(200):
        at = int(torch.randint(8 * len(archive), (1,), generator=random))
        broken = bytearray(archive)
        broken[at // 8] ^= 1 << at % 8
        with pytest.raises(NelboError):
            coding.decompress(model, bytes(broken))


@pytest.mark.parametrize("kept", [0, 5, 12, 40, -1, -30])
def test_a_file_that_is_cut_off(model, archive, kept):
    with pytest.raises(NelboError):
        coding.decompress(model, archive[:kept])


def test_whole_blocks_are_recovered(model, images, archive):
    sizes = coding.contents(archive)["blocks"]
    broken = bytearray(archive)
    broken[len(archive) - sizes[2] - 3] ^= 4  # in the second block
    with pytest.raises(NelboError, match=r"block 2 of 3, pictures 3 to 4: .*--recover"):
        coding.decompress(model, bytes(broken))
    found = coding.read(model, bytes(broken), recover=True)
    assert found.index == [0, 1, 4, 5]
    assert torch.equal(torch.stack(found.images), images[[0, 1, 4, 5]])
    assert len(found.damage) == 1


def test_a_truncated_archive_is_recovered_as_far_as_it_goes(model, images, archive):
    found = coding.read(model, archive[:-3], recover=True)
    assert torch.equal(torch.stack(found.images), images[:4])


def test_other_weights_are_refused(archive):
    with pytest.raises(NelboError, match="a model of other weights, levels or guidance"):
        coding.decompress(tiny(17, T=3, seed=1), archive)


@pytest.mark.parametrize("coder", ["ANS 16 12", "ZSTD", ""])
def test_another_coder(model, archive, coder):
    header = coding.contents(archive) | {"coder": coder}
    with pytest.raises(NelboError, match=f"needs the coder {coder}, this nelbo has ANS"):
        coding.decompress(model, written(json.dumps(header).encode()))


@pytest.mark.parametrize(("step", "todo"), [(1, "update nelbo"), (-1, "take the nelbo that")])
def test_another_version(model, archive, step, todo):
    content = Container.from_bytes(archive)
    newer = bytearray(content.to_bytes())
    newer[8] = VERSION + step
    end = 13 + struct.unpack("<I", newer[9:13])[0]
    newer[end : end + 4] = struct.pack("<I", zlib.crc32(bytes(newer[:end])))
    with pytest.raises(NelboError, match=f"version {VERSION + step}.*{todo}"):
        coding.decompress(model, bytes(newer))


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n" + b"0" * 99])
def test_a_foreign_file(model, content):
    with pytest.raises(NelboError, match="no nelbo archive"):
        coding.decompress(model, content)


def written(header: bytes) -> bytes:
    """An archive with this header, whose checksum is right, as another program may write it."""
    deflate = zlib.compressobj(9, wbits=-15, zdict=_USUAL)
    packed = deflate.compress(header) + deflate.flush()
    start = _FRAME.pack(MAGIC, VERSION, len(packed)) + packed
    return start + struct.pack("<I", zlib.crc32(start))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"count": "6"}, "no count that can be read"),
        ({"count": 2.5}, "no count that"),
        ({"count": 0}, "no count that"),
        ({"block": 0}, "no block that"),
        ({"shape": [1, 0, 4]}, "no shape that"),
        ({"shape": "abc", "plan": []}, "no shape, plan that"),
        ({"shape": [1, 10**9, 10**9]}, "tiles"),
        ({"blocks": [-1, 5]}, "no blocks that"),
        ({"blocks": [1]}, "counts 3 blocks .* there are 1"),
        ({"dtype": "complex64"}, "type complex64, expected uint8"),
        # Enormous counts are refused before anything of their size is made.
        ({"count": 10**12}, "counts 500000000000 blocks .* there are 3"),
        ({"count": 10**12, "block": 10**12}, "counts 1,000,000,000,000 pictures .* GiB are free"),
        ({"sizes": [[10**9, 10**9]], "block": 10**18}, r"GiB, and .* GiB are free"),
        ({"sizes": [[8, 8]] * 2}, "no sizes that"),
        ({"sizes": [["8", 8]]}, "no sizes that"),
        ({"sizes": [[8]]}, "no sizes that"),
        ({"sizes": 5}, "no sizes that"),
        ({"labels": ["a"] * 6}, "no labels that"),
        ({"captions": {"a": 1}}, "no captions that"),
        ({"names": ["a"] * 6}, "no names that"),
        ({"stacked": 1}, "no stacked that"),
        ({"plan": {"levels": [1]}}, "no plan that"),
        ({"plan": {"levels": ["a"], "scales": [1]}}, "no plan that"),
        ({"plan": {"steps": [10**6], "turns": [2, 62, -60]}}, "no plan that"),
        ({"plan": {"steps": [1], "turns": [2, 62, 10**6]}}, "no plan that"),
        ({"plan": {"steps": [1], "turns": [2, 62, -60]}}, "steps for 1 levels .* chain has 4"),
        ({"plan": {"more": [1]}}, "no plan that"),
    ],
)
def test_a_header_that_nelbo_did_not_write(model, archive, changed, message):
    header = coding.contents(archive) | changed
    with pytest.raises(NelboError, match=message):
        coding.decompress(model, written(json.dumps(header).encode()))


@pytest.mark.parametrize(
    ("field", "at", "least", "most"),
    [
        ("levels", 0, 1, 2**31),
        ("scales", 0, -(2**14), 2**14),
        ("steps", 0, -64, 64),
        ("turns", 0, 0, 2**31),  # `Turns`: a share, images, log₂ of a step
        ("turns", 1, 1, 2**31),
        ("turns", 2, 0, 64),
    ],
)
def test_numbers_of_a_plan_have_ends(archive, field, at, least, most):
    """Those beyond are of no chain, and would be laid out as they are before that is seen."""
    header = coding.contents(archive)
    plan = dataclasses.asdict(Plan.from_json(header["plan"]))

    def check(number: int) -> None:
        values = [*plan[field][:at], number, *plan[field][at + 1 :]]
        changed = Plan(**plan | {field: values}).to_json()
        check_header(header | {"plan": changed}, (1, 4, 4), 3)

    for number in (least, most):
        check(number)
    for number in (least - 1, most + 1):
        with pytest.raises(NelboError, match="no plan that can be read"):
            check(number)


def test_a_draw_that_cannot_be_put_back_is_damage(model, images, archive, monkeypatch):
    """As of outputs far from those that it was coded with, of which the coder has an error."""

    def broken(*_):
        raise KeyError("Tried to encode symbol that has zero probability")

    monkeypatch.setattr("nelbo.coding.stack.Stack.push", broken)
    with pytest.raises(NelboError, match="not those that it was coded with"):
        coding.decompress(model, archive)
    assert not coding.read(model, archive, recover=True).images


@pytest.mark.parametrize("header", [b"[]", b"{", b"\xff", b"3"])
def test_a_header_that_is_none(model, header):
    with pytest.raises(NelboError, match="it was not written by nelbo"):
        coding.decompress(model, written(header))


def test_no_header_is_written_that_other_readers_of_json_refuse():
    with pytest.raises(ValueError, match="JSON"):
        Container({"run": float("nan")}, []).to_bytes()


def test_no_pictures(model, images):
    for empty in (images[:0], []):
        with pytest.raises(NelboError, match="empty"):
            coding.compress(model, empty)


def test_a_name_twice(model, images):
    with pytest.raises(NelboError, match="'a' is given to more than one"):
        coding.compress(model, images[:2], names=["a", "a"])


def test_other_pixel_levels(model, images):
    with pytest.raises(NelboError, match=r"0\.\.16"):
        coding.compress(model, images + 17)
    data = ImageData("photos", images, 256, tuple("abcdef"))
    with pytest.raises(NelboError, match="photos has 256 pixel levels, the model has 17"):
        coding.compress(model, data)


def test_continuous_data():
    model = Diffusion(tiny().network, NoiseSchedule.cosine(4), data=Continuous(), shape=(1, 4, 4))
    with pytest.raises(NelboError, match="real numbers"):
        coding.compress(model, torch.zeros(1, 1, 4, 4))


def test_another_number_of_channels(model):
    with pytest.raises(NelboError, match=r"shape \(3, 4, 4\), expected \(1, H, W\)"):
        coding.compress(model, torch.zeros(1, 3, 4, 4, dtype=torch.uint8))


class Noisy(torch.nn.Module):
    """A network whose outputs are those of another machine: the last digits differ."""

    def __init__(self, network, error: float) -> None:
        super().__init__()
        self.network, self.error = network, error
        self.random = torch.Generator().manual_seed(1)

    def forward(self, x, time, condition=None):
        output = self.network(x, time, condition)
        noise = torch.rand(output.shape, generator=self.random, dtype=output.dtype)
        return output * (1 + self.error * (2 * noise - 1))


def test_another_machine_reads_the_same(model, images, monkeypatch):
    """Outputs that differ by 1e-9, in batches of another size, and every time in another way."""
    many = random_images(40, model, seed=3)
    archive = coding.compress(model, many, block=3, verify=False)
    other = model.replace(network=Noisy(model.network, 1e-9))
    monkeypatch.setattr("nelbo.coding.reading._check_model", lambda *_: None)
    assert torch.equal(coding.decompress(other, archive), many)


def rounded(monkeypatch, compress) -> list[tuple]:
    """What is rounded while `compress` runs, with its margins."""
    round_, seen = Agreement.round, []

    def spied(self, values, error, place):
        seen.append((values.copy(), error))
        return round_(self, values, error, place)

    with monkeypatch.context() as patch:
        patch.setattr(Agreement, "round", spied)
        compress()
    return seen


def check_margins(here: list[tuple], there: list[tuple]) -> None:
    """Unless a margin covers how far two machines are apart, it is chance that they agree."""
    used = 0.0
    for (values, error), (others, _) in zip(here, there, strict=True):
        apart = float(abs(values - others).max())
        assert apart <= error + 2**-44 * float(abs(values).max())
        used = max(used, apart / error if error else 0.0)
    assert used > 0.02  # and is no wider than it has to be


def test_a_margin_covers_what_another_machine_moves_a_number_by(model, images, monkeypatch):
    """Outputs that differ by 4e-9. In float32 there is no other machine, and no margin."""
    other = model.replace(network=Noisy(model.network, 4e-9))
    check_margins(
        *(
            rounded(monkeypatch, lambda m=m: coding.compress(m, images, steps=3, verify=False))
            for m in (model, other)
        )
    )
    fast = rounded(monkeypatch, lambda: coding.compress(model, images, fast=True, verify=False))
    assert {error for _, error in fast} == {0.0}


def test_a_margin_covers_what_moves_a_probability(monkeypatch):
    """Logarithms of 16 in size, differing by 4e-9 of that."""
    torch.manual_seed(0)
    family = RNN(width=8, layers=1)
    family.allocate((1, 3, 3), Pixels(5))
    images = random_images(9, tiny(5, (1, 3, 3)))
    conditionals, random = RNN.conditionals, torch.Generator().manual_seed(1)

    def moved(self, batch_size):
        steps = conditionals(self, batch_size)
        log_p = next(steps)
        while True:
            noise = torch.rand(log_p.shape, generator=random, dtype=log_p.dtype)
            values = yield log_p + 16 * 4e-9 * (noise - 0.5)
            log_p = steps.send(values)

    def compress(**options):
        return lambda: coding.compress(family, images, verify=False, **options)

    here = rounded(monkeypatch, compress())
    fast = rounded(monkeypatch, compress(fast=True))
    monkeypatch.setattr(RNN, "conditionals", moved)
    check_margins(here, rounded(monkeypatch, compress()))
    assert {error for _, error in fast} == {0.0}


def test_blocks_of_a_fast_archive_are_each_coded_alone(model, monkeypatch):
    """In float32 a batch of more decides last digits, and one block may be lost; else 64 tiles."""
    many = random_images(70, model)
    for name in ("push", "pop"):
        sizes, whole = [], getattr(ChainCode, name)

        def spied(self, lanes, parts, progress=None, whole=whole, sizes=sizes):
            sizes.append([len(part.index) for part in parts])
            return whole(self, lanes, parts, progress)

        with monkeypatch.context() as patch:
            patch.setattr(ChainCode, name, spied)
            for fast in (True, False):
                coding.compress(model, many, steps=1, block=20, fast=fast)
        assert sizes == [[20], [20], [20], [10], [20, 20, 20], [10]]


def test_outputs_beyond_the_margin_are_noticed(model, images, archive, monkeypatch):
    other = model.replace(network=Noisy(model.network, 1e-2))
    monkeypatch.setattr("nelbo.coding.reading._check_model", lambda *_: None)
    with pytest.raises(NelboError, match="not those that it was coded with"):
        coding.decompress(other, archive)


def test_a_fast_archive_opens_on_its_machine_alone(model, images, monkeypatch):
    archive = coding.compress(model, images, fast=True)
    assert torch.equal(coding.decompress(model, archive), images)
    monkeypatch.setattr("nelbo.coding.reading.machine", lambda _: "another")
    with pytest.raises(NelboError, match=r"float32 on a machine with .* this one has another"):
        coding.decompress(model, archive)


def test_a_machine_is_known_by_all_that_decides_float32():
    cpu, apple = (machine(torch.device(kind)) for kind in ("cpu", "mps"))
    assert f"{torch.get_num_threads()} threads" in cpu
    assert f"torch {torch.__version__}, mps, " in apple


def test_an_archive_that_does_not_read_back_is_not_returned(model, images, monkeypatch):
    read = coding.archive.decoded

    def other(*arguments, **options):
        found = read(*arguments, **options)
        return dataclasses.replace(found, images=[1 - image for image in found.images])

    monkeypatch.setattr("nelbo.coding.archive.decoded", other)
    with pytest.raises(NelboError, match="does not read back"):
        coding.compress(model, images)


def test_an_archive_whose_blocks_do_not_read_back_is_not_returned(model, images, monkeypatch):
    def broken(*_):
        raise KeyError("Tried to encode symbol that has zero probability")

    monkeypatch.setattr(ChainCode, "pop", broken)
    with pytest.raises(NelboError, match="not those that it was coded with"):
        coding.compress(model, images)


@pytest.mark.parametrize("names", [("a", "a.png/b"), ("a.png", "a.png/b/c.png")])
def test_a_name_below_another_picture_has_no_folder(names, tmp_path):
    """As no folder of pictures has, but a data set of one's own may."""
    images = [torch.full((1, 2, 2), i, dtype=torch.uint8) for i in range(2)]
    found = Decoded(images, [0, 1], list(names), 2, True)
    with pytest.raises(NelboError, match=r"cannot write .*a\.png/b.*: (File exists|Not a dir)"):
        write_pictures(found, tmp_path)
    assert [file.name for file in tmp_path.rglob("*")] == ["a.png"]


def test_a_picture_that_was_not_begun_leaves_its_error(tmp_path, monkeypatch):
    def full(self, file) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(NelboError, match=r"cannot write .*: No space left on device"):
        write_picture(torch.zeros(1, 2, 2), tmp_path / "folder" / "a.png")
