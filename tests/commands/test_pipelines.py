"""The commands on pipelines that diffusers itself wrote."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import nelbo
from nelbo.chain.estimators import Importance, proposal_from
from nelbo.cli import main
from nelbo.data import load_data
from nelbo.evidence.evaluation import batch_generators
from nelbo.evidence.pilot import pilot
from tests.formats import tiny

pytestmark = pytest.mark.filterwarnings("ignore:.*does not state the number of its pixel levels")


@pytest.fixture
def pictures(tmp_path):
    random = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(6):
        colours = random.integers(0, 256, (9 + i, 12, 3), dtype=np.uint8)
        Image.fromarray(colours).save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize("kind", ["ddpm", "ddim"])
def test_evaluate_a_pipeline_of_pictures(kind, tmp_path, pictures, capsys):
    getattr(tiny, kind)(tmp_path / "pipeline")
    arguments = ["evaluate", str(tmp_path / "pipeline"), "--data", str(pictures), "--split", "all"]
    arguments += ["--resize", "--levels", "7" if kind == "ddim" else "all"]  # of 1,000 and 20
    main([*arguments, "--seed", "5", "--json"])
    printed = json.loads(capsys.readouterr().out)
    model = nelbo.load(tmp_path / "pipeline")
    data = load_data(str(pictures), "all", size=8, channels=3)
    # Seven levels are drawn where the pilot of the seed finds the bound to vary.
    drawn = None
    if kind == "ddim":
        square, _ = pilot(model, data, torch.Generator().manual_seed(5))
        drawn = Importance(7, proposal_from(square), reconstructions=2)
    with torch.no_grad():
        bound = model.elbo(
            model.data.to_network(data.images),
            levels=drawn,
            generator=batch_generators(torch.Generator().manual_seed(5))(0),
        )
    assert printed["examples"] == 6
    assert printed["levels_per_image"] == (7 if kind == "ddim" else 19)
    terms, summary = printed["bits_per_dim"], bound.mean()
    assert terms["total"]["mean"] == pytest.approx(summary.bits_per_dim.mean)
    parts = [terms[name]["mean"] for name in ("reconstruction", "prior_matching", "score_matching")]
    assert sum(parts) == pytest.approx(terms["total"]["mean"])
    main(arguments)
    assert "bits/dim" in capsys.readouterr().out


def test_a_latent_pipeline_from_elsewhere_has_a_bound_on_pixels(tmp_path, pictures, capsys):
    tiny.unconditional(tmp_path / "pipeline")
    arguments = ["evaluate", str(tmp_path / "pipeline"), "--data", str(pictures), "--split", "all"]
    main([*arguments, "--resize", "--levels", "2", "--images", "3", "--json"])
    shown = capsys.readouterr()
    terms = json.loads(shown.out)["bits_per_dim"]
    costs = [value["mean"] for name, value in terms.items() if name != "total"]
    assert len(costs) == 5
    assert sum(costs) == pytest.approx(terms["total"]["mean"])
    # Its decoder says nothing of its scale.
    assert "has no scale of its decoder" in " ".join(shown.err.split())
    assert "which flatters the bound a little" in " ".join(shown.err.split())
    main([*arguments[:-1], "test", "--resize", "--levels", "2", "--images", "3", "--json"])
    assert "that are not for test" in " ".join(capsys.readouterr().err.split())
