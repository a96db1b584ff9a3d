"""The processes that train together: this one alone, or those that a launcher started.

`accelerate launch` and `torchrun` start a process a device; accelerate finds out which one this is
and joins the group. Each process computes its part of every batch. Weights are replicated (DDP), or
those of networks are sharded (FSDP) and the few beside them, such as a learned scale, replicated.
Gradients of the parts are averaged either way, so that the parts of a step are together the step
that one process would have taken.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from nelbo.base.console import notice
from nelbo.base.errors import NelboError
from nelbo.diffusion.objectives import BatchPart
from nelbo.networks.attention import SpatialSelfAttention
from nelbo.networks.resnet import ResnetBlock
from nelbo.networks.sharding import is_sharded, whole
from nelbo.networks.transformer import SpatialTransformer

# What is gathered at a time to be computed; the rest of a network is gathered as one. Whole stages
# would not do: FSDP copies the arguments of what it wraps, and a stage takes its skip connections
# off a list. Nor would the blocks of a transformer, which add to outputs in place: that loses
# FSDP's hooks on them.
_GATHERED = (ResnetBlock, SpatialTransformer, SpatialSelfAttention)
# What errors of the transport between processes speak of.
_CONNECTION = ("gloo", "nccl", "connection", "broken pipe", "timed out")


class LostProcessError(NelboError):
    """Another process of the group is gone."""


@dataclass(frozen=True)
class Processes:
    """Who trains.

    Attributes:
        device: where this process computes.
        rank: number of this process.
        count: how many there are.
        sharded: each keeps only its share of the weights of networks.
    """

    device: torch.device
    rank: int = 0
    count: int = 1
    sharded: bool = False

    @staticmethod
    def launched() -> bool:
        """Whether a launcher started more processes than this one."""
        return int(os.environ.get("WORLD_SIZE", "1")) > 1

    @classmethod
    def join(cls, device: torch.device, *, sharded: bool = False) -> Processes:
        """This process alone, or as one of those that were launched.

        Args:
            device: the kind of device; each process gets its own.
            sharded: shard the weights, as `accelerate launch --use_fsdp` also asks for.
        """
        if not cls.launched():
            return cls(device)
        # Here, because a process alone need not wait for its import.
        from accelerate import PartialState

        state = PartialState(cpu=device.type == "cpu")
        asked = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
        return cls(state.device, state.process_index, state.num_processes, sharded or asked)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def notice(self, line: str) -> None:
        """A line for people, from the first process alone."""
        if self.is_main:
            notice(line)

    @property
    def takes_part(self) -> bool:
        """Whether it computes what the first process alone would, for what is sharded takes all."""
        return self.is_main or self.sharded

    def parts(self, batch: int, pieces: int) -> list[BatchPart]:
        """What this process computes of a batch, in `pieces` one after another.

        Raises:
            NelboError: fewer images than there are pieces to fill.
        """
        total = self.count * pieces
        if batch < total:
            raise NelboError(
                f"batch_size {batch} is too small to be split between {self.count} processes with "
                f"gradient_accumulation {pieces}: expected at least {total}"
            )
        edges = [batch * i // total for i in range(total + 1)]
        mine = range(self.rank * pieces, (self.rank + 1) * pieces)
        return [BatchPart(edges[i], edges[i + 1], batch) for i in mine]

    def shard(self, network: nn.Module) -> None:
        """Spread the weights of a network over the processes, if they are to be.

        It must be called as a module: only then are its weights gathered.
        """
        if not self.sharded or self.count == 1:
            return
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(self.device.type, (self.count,))
        learns = any(weight.requires_grad for weight in network.parameters())
        for block in network.modules():
            if isinstance(block, _GATHERED):
                fully_shard(block, mesh=mesh)
        # The backward pass puts back what the network itself has gathered; an average has none.
        fully_shard(network, mesh=mesh, reshard_after_forward=None if learns else True)

    def replicate(self, model: nn.Module) -> nn.Module:
        """The model whose backward pass averages gradients over the processes."""
        if self.count == 1 or self.sharded:
            return model
        from torch.nn.parallel import DistributedDataParallel

        ids = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=ids)

    def synchronise(self, networks: Sequence[nn.Module], now: bool) -> None:
        """Whether the next backward pass through sharded networks averages gradients."""
        if not self.sharded:
            return
        from torch.distributed.fsdp import FSDPModule

        for network in networks:
            if isinstance(network, FSDPModule):
                network.set_requires_gradient_sync(now)

    def average_gradients(self, model: nn.Module) -> None:
        """Average the gradients of unsharded parameters; all others are averaged already."""
        if not self.sharded:
            return
        beside = [p.grad for p in model.parameters() if p.grad is not None]
        beside = [gradient for gradient in beside if not is_sharded(gradient)]
        if beside:
            joined = torch.cat([gradient.flatten() for gradient in beside])
            distributed.all_reduce(joined)
            sizes = [gradient.numel() for gradient in beside]
            for gradient, mean in zip(beside, (joined / self.count).split(sizes), strict=True):
                gradient.copy_(mean.view_as(gradient))

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sums of numbers over all processes.

        Raises:
            LostProcessError: another process is gone.
        """
        if self.count == 1:
            return list(values)
        numbers = torch.tensor(values, dtype=torch.float64, device=self.device)
        with self.together():
            distributed.all_reduce(numbers)
        return numbers.tolist()

    def of_first(self, value: float) -> float:
        """The number that the first process has; every process must ask for it.

        What a clock measures differs between processes. Where it decides on what is computed next,
        all of them go by the first one, or they wait for one another.

        Raises:
            LostProcessError: another process is gone.
        """
        return self.sum([value if self.is_main else 0.0])[0]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Context manager for collective operations; reports a lost process."""
        try:
            yield
        except RuntimeError as error:
            if self.count == 1 or not _is_of_a_connection(error):
                raise
            raise LostProcessError(
                f"process {self.rank} of {self.count} stops, because another one is gone "
                f"({str(error).splitlines()[0]}); --resume goes on from the last checkpoint, with "
                "any number of processes"
            ) from error

    def leave(self) -> None:
        """Leave the group."""
        if self.count > 1 and distributed.is_initialized():
            distributed.destroy_process_group()


def _is_of_a_connection(error: RuntimeError) -> bool:
    """Whether an error means that a process is unreachable; gloo raises plain RuntimeErrors."""
    message = str(error).lower()
    return isinstance(error, distributed.DistError) or any(word in message for word in _CONNECTION)


@torch.no_grad()
def clip_gradients(model: nn.Module, most: float) -> float:
    """Scale all gradients down to a norm of at most `most`; the norm before.

    Some may be sharded and others not; every process must ask for it.
    """
    gradients: dict[bool, list[Tensor]] = {}
    weights: dict[bool, list[Tensor]] = {}
    for weight in model.parameters():
        if weight.grad is not None:
            sharded = is_sharded(weight)
            weights.setdefault(sharded, []).append(weight)
            gradients.setdefault(sharded, []).append(weight.grad)
    norms = [whole(get_total_norm(some)) for some in gradients.values()]
    norm = norms[0] if len(norms) == 1 else torch.stack(norms).norm()
    found = norm.item()
    if not found <= most:
        for some in weights.values():
            clip_grads_with_norm_(some, most, norm)
    return found
