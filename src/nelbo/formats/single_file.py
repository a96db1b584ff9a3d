"""Single files as pipelines: Stable Diffusion 1, 2 and XL, with or without a ControlNet.

`nelbo.formats.single` has the layout. Notes that a pipeline keeps in nelbo.json (`shape`, `pixels`,
`decoder_scale`), and `prediction` and `scaling_factor`, lie beside a file in NAME.nelbo.json.
"""

from __future__ import annotations

import warnings
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from nelbo.base.arguments import check_path
from nelbo.base.errors import NelboError
from nelbo.base.suggestions import did_you_mean
from nelbo.chain.model import Model
from nelbo.diffusion import Continuous, NoiseSchedule
from nelbo.formats.chain import read_chain
from nelbo.formats.config_fields import ConfigFields
from nelbo.formats.files import PipelineIndex
from nelbo.formats.latent import FORMAT, assemble
from nelbo.formats.pipeline import OPENERS, Pipeline
from nelbo.formats.scheduler import READERS, SchedulerConfig
from nelbo.formats.single.checkpoint import SUFFIX, Checkpoint
from nelbo.formats.single.networks import predicts_v, read_autoencoder, read_controlnet, read_unet
from nelbo.formats.single.prompts import read_prompts
from nelbo.networks import AutoencoderKL, ControlledUNet, ControlNet

_BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
_FIRST: dict[str, Any] = {
    "_class_name": "DDIMScheduler",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    **_BETAS,
}
_XL: dict[str, Any] = {
    "_class_name": "EulerDiscreteScheduler",
    "timestep_spacing": "leading",
    "steps_offset": 1,
    **_BETAS,
}


class SingleFile(Pipeline):
    """A single file, opened as the pipeline that it would be in a directory."""

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """What the file holds."""
        return Checkpoint.open(Path(self.path))

    @property
    def own_fields(self) -> ConfigFields:
        """The notes beside the file, each of which is checked as it is read."""
        return ConfigFields(self.checkpoint.notes_file, self.notes)

    @cached_property
    def scheduler(self) -> SchedulerConfig:
        """That of the pipeline of its kind, with the betas that the file states."""
        checkpoint = self.checkpoint
        fields = dict(_XL if checkpoint.is_xl else _FIRST)
        if predicts_v(checkpoint):
            fields["prediction_type"] = "v_prediction"
        if "ztsnr" in checkpoint.names:
            fields["rescale_betas_zero_snr"] = True
        betas = checkpoint.value("betas")
        if betas is not None and not _usual(betas):
            fields |= {"trained_betas": betas.double().tolist(), "num_train_timesteps": len(betas)}
        name = fields["_class_name"]
        return SchedulerConfig(checkpoint.path, READERS[name].complete(name, fields) | fields)

    def model(self) -> Model:
        """The model; see `nelbo.load`."""
        checkpoint = self.checkpoint
        if checkpoint.is_second and "modelspec.prediction_type" not in checkpoint.metadata:
            warnings.warn(
                f"{self.path} does not state what its network predicts: assuming "
                f'{self.scheduler.fields["prediction_type"]} ("prediction" in its notes decides)',
                stacklevel=3,
            )
        text = read_prompts(checkpoint)
        unet = read_unet(checkpoint)
        controlled = "ControlNet" in checkpoint.kind
        network = ControlledUNet(unet, [read_controlnet(checkpoint)]) if controlled else unet
        prior = read_chain(self, self.scheduler, network, Continuous())
        return assemble(self, read_autoencoder(checkpoint), prior, text)


def open_single_file(path: Any) -> SingleFile | None:
    """The pipeline in a single file; None for a directory or a Hub id.

    Raises:
        NelboError: no such file, a network alone, or as `Checkpoint.open`.
    """
    if not _is_file(path):
        return None
    checkpoint = Checkpoint.open(Path(path))
    if not checkpoint.is_pipeline:
        raise NelboError(
            f"{path} holds the network {checkpoint.kind} alone, which is a part of a model: "
            "nelbo.load gives it in Python, and its save_pretrained(DIR) writes a folder of it"
        )
    index = PipelineIndex(Path(path), checkpoint.kind, {})
    return SingleFile(path, index, FORMAT, checkpoint.notes)


def load_network(path: Any) -> AutoencoderKL | ControlNet | None:
    """The ControlNet or autoencoder that a single file holds alone; None for anything else."""
    if not _is_file(path):
        return None
    checkpoint = Checkpoint.open(Path(path))
    if checkpoint.is_pipeline:
        return None
    read: Any = {"ControlNetModel": read_controlnet, "AutoencoderKL": read_autoencoder}
    return read[checkpoint.kind](checkpoint)


def _is_file(path: Any) -> bool:
    """Whether a path is that of a file; an error for the name of one that is missing."""
    check_path("path", path)
    file = Path(path)
    if file.suffix == SUFFIX and not file.exists():
        near = did_you_mean(file.name, [each.name for each in file.parent.glob(f"*{SUFFIX}")])
        raise NelboError(f"there is no file {file}{near}")
    return file.is_file()


def _usual(betas: torch.Tensor) -> bool:
    """Whether these are those of Stable Diffusion, which a file of 16 bits has rounded."""
    usual, rounding = NoiseSchedule.scaled_linear().betas[1:], torch.finfo(betas.dtype).eps
    if len(betas) != len(usual):
        return False
    return bool((betas.double() / usual - 1).abs().max() < max(1e-4, rounding))


OPENERS.append(open_single_file)
