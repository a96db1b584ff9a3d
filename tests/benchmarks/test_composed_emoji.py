"""The folder of composed emoji: no training picture shows what is held out."""

from __future__ import annotations

import json

import composed_emoji
import pytest
from _emoji_drawings import OUTLINE, STYLES, Drawing, page, plain
from _emoji_things import BESIDE, Thing, colours_of, held_out, split_name, split_of_style
from _recolour import dominant
from folders import MARK, make_anew

from nelbo.data import load_data
from nelbo.data.image_file import read_image

pytest.importorskip("resvg_py")


@pytest.fixture(scope="module")
def things() -> list[Thing]:
    """Eighty things, each a rectangle of its own, of which the last four are held out."""
    made = []
    for i in range(80):
        body = f'<rect x="1" y="1" width="{3 + i % 6}" height="{3 + i % 5}" fill="#d22"/>'
        own = {style: Drawing("0 0 10 10", body) for style in STYLES}
        kinds = {style: dominant(one) for style, one in own.items() if style != OUTLINE}
        split = "test" if i >= 76 else "train"
        name = f"thing{i}"
        made.append(Thing(f"{i:x}", name, "Objects", name, "", split, own, kinds))
    return made


@pytest.fixture(scope="module")
def made(things):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(composed_emoji, "PAIRS", {"train": 60, "validation": 4, "test": 8})
        return list(composed_emoji.pictures(things))


def test_only_a_folder_of_its_own_is_made_anew(tmp_path):
    own, other = tmp_path / "own", tmp_path / "photos"
    make_anew(own)
    (own / "a.svg").touch()
    make_anew(own)
    assert [path.name for path in own.iterdir()] == [MARK]
    other.mkdir()
    make_anew(other)
    for taken in (tmp_path, other / MARK):
        with pytest.raises(SystemExit, match="was not made by this script"):
            make_anew(taken)


def test_what_is_held_out_is_in_no_training_picture(things, made):
    pairs = {
        split: [p.thing for p in made if (p.kind, p.split) == ("pair", split)]
        for split in ("validation", "test")
    }
    out = held_out(things, pairs)
    for split in ("validation", "test"):
        train = [p for p in made if p.split == "train"]
        assert out[split]["colours"]
        assert out[split]["styles"]
        assert out[split]["pairs"]
        for thing, colour in out[split]["colours"]:
            assert not any(f"{colour} {thing} " in f"{p.text.replace(',', '')} " for p in train)
        for thing, style in out[split]["styles"]:
            assert not any(thing in p.thing.split(BESIDE) and p.style == style for p in train)
        shown = {frozenset(p.thing.split(BESIDE)) for p in train if p.kind == "pair"}
        assert not shown & {frozenset(pair.split(BESIDE)) for pair in out[split]["pairs"]}
    names = {thing.thing for thing in things if thing.split == "test"}
    assert not any(names & set(p.thing.split(BESIDE)) for p in made if p.split == "train")


def test_the_colours_that_a_thing_has_anyway_are_trained_on(things):
    assert all(colours_of(thing, things)["red"] == "train" for thing in things)
    green = Thing("0", "green thing0", "Objects", "thing0", "green", "train", {}, {})
    assert "green" not in colours_of(things[0], [*things, green])


def test_captions_name_what_is_drawn(made):
    assert len({p.file_name for p in made}) == len(made)
    for picture in made[:500]:
        assert picture.thing in picture.text
        assert picture.kind != "style" or picture.text.endswith(f", {picture.style}")
        assert picture.kind != "colour" or picture.text.removeprefix("small ").startswith(
            f"{picture.colour} "
        )


def test_places_and_sides_are_where_the_caption_has_them(made, tmp_path):
    def drawn(picture):
        (tmp_path / "one.svg").write_text(picture.svg)
        return (read_image(tmp_path / "one.svg", (3, 32, 32)).float() < 250).any(0)

    left = next(p for p in made if "at the top left" in p.text)
    right = next(p for p in made if "at the bottom right" in p.text)
    assert drawn(left)[:16, :16].any()
    assert not drawn(left)[16:].any()
    assert drawn(right)[16:, 16:].any()
    assert not drawn(right)[:, :15].any()
    pair = next(p for p in made if p.kind == "pair")
    assert drawn(pair)[8:24, :16].any()
    assert drawn(pair)[8:24, 16:].any()
    assert not drawn(pair)[:8].any()


def test_the_folder_is_data(made, tmp_path):
    some = [p for p in made if p.kind == "colour"][:30]
    for p in some:
        path = tmp_path / p.file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(p.svg)
    lines = (json.dumps({"file_name": p.file_name, "text": p.text}) for p in some)
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    data = load_data(str(tmp_path), "train", size=32)
    by_name = {p.file_name: p for p in some}
    assert all(by_name[n].split == "train" for n in data.names)
    assert data.captions == tuple(by_name[n].text for n in data.names)


def test_two_drawings_of_a_page_keep_their_ids_apart():
    body = '<radialGradient id="a"/><rect fill="url(#a)"/><use href="#a"/>'
    drawing = Drawing("0 0 1 1", body)
    both = page(drawing.at(0, 0, 50, "x"), drawing.at(50, 0, 50, "y"))
    assert both.count('id="xa"') == both.count('id="ya"') == 1
    assert both.count("url(#xa)") == both.count('href="#ya"') == 1
    assert 'id="a"' not in both


def test_names_and_codes():
    assert split_name("green apple") == ("green", "apple")
    assert split_name("greenhouse") == ("", "greenhouse")
    assert split_name("orange") == ("", "orange")
    assert plain("1F3F3-FE0F-200D-1F308") == "1f3f3-200d-1f308"
    skin = Thing("0", "cook", "x", "cook", "", "train", {"openmoji": Drawing("0 0 1 1", "")})
    assert split_of_style(skin, "openmoji") == "train"
