"""DeepSpeed, kept in one file: start it in this process, and wrap a model in an engine of a given ZeRO stage.

The same code runs on CPU (gloo) and GPU (nccl), in one process or in the ranks that a launcher started (torchrun, Ray
Train): RANK and WORLD_SIZE are read only to tell which.
"""

from __future__ import annotations

import logging
import os
import socket
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed
from torch import nn

from slamlab.errors import OptionError
from slamlab.model.slam import cast
from slamlab.zoo.profiles import TrainRecipe


def start() -> None:
    """Make a process group for this process and import DeepSpeed, once.

    Alone, the group meets in memory, and the port that gloo listens on all the same is a loopback one.
    """
    # DeepSpeed asks for this variable even when told the rank; a launcher's own value wins.
    os.environ.setdefault("LOCAL_RANK", "0")
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else it probes for every vendor and warns
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)
    # ZeRO registers backward hooks that torch warns about at every layer; nothing a user can act on.
    warnings.filterwarnings("ignore", message=".*(backward hook|requires_grad=True to a scalar).*")
    # On CPU the first `initialize` would compile a shared-memory all-reduce in C++ (80-170 s) that one process never
    # calls. The table is private to DeepSpeed, hence the guard.
    import deepspeed.ops

    ops = getattr(deepspeed.ops, "__compatible_ops__", None)
    if isinstance(ops, dict) and not torch.cuda.is_available():
        ops["deepspeed_shm_comm"] = False
    if torch.distributed.is_initialized():
        return
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        torch.distributed.init_process_group(backend)
    else:
        # Gloo listens where the host's name points, on a cluster its network, even with nobody to talk to.
        loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
        if loopback:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
        torch.distributed.init_process_group(backend, store=torch.distributed.HashStore(), rank=0, world_size=1)
    deepspeed.init_distributed(backend, auto_mpi_discovery=False, verbose=False)


def engine_config(recipe: TrainRecipe, world_size: int) -> dict[str, Any]:
    """Return DeepSpeed's configuration for a recipe.

    Raises:
        OptionError: A micro-batch does not divide among `world_size` workers.
    """
    micro_batch = recipe.batch_size // recipe.accumulation
    if micro_batch % world_size:
        raise OptionError(
            f"a micro-batch divides evenly among the {world_size} workers",
            f"{micro_batch} examples",
            "choose a batch that does",
        )
    return {
        "train_batch_size": recipe.batch_size,
        "train_micro_batch_size_per_gpu": micro_batch // world_size,
        "gradient_accumulation_steps": recipe.accumulation,
        "gradient_clipping": recipe.clip_norm,
        "bf16": {"enabled": recipe.precision == "bf16"},
        "zero_optimization": {"stage": recipe.zero_stage},
        # torch's AdamW is not on DeepSpeed's list of tested optimisers; its own needs a C++ build of minutes.
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**31,
    }


@contextmanager
def engine(model: nn.Module, recipe: TrainRecipe) -> Iterator[Any]:
    """Wrap a model's trainable parameters in a DeepSpeed engine, and take the engine down again.

    Args:
        model: Parameters with `requires_grad` are trained; the rest stay as they are. All take the recipe's
            precision, and keep it.
        recipe: Optimiser, precision and ZeRO stage.

    Yields:
        The engine: call it for the loss, then `backward(loss)` and `step()`.
    """
    start()
    import deepspeed

    cast(model, torch.bfloat16 if recipe.precision == "bf16" else torch.float32)
    own = {module: set(vars(module)) for module in model.modules()}
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=recipe.peak_lr, weight_decay=recipe.weight_decay)
    wrapped, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        config=engine_config(recipe, torch.distributed.get_world_size()),
        dist_init_required=False,
    )
    try:
        yield wrapped
    finally:
        # These two hooks outlive `destroy`, and through them the optimiser's state would live as long as the model.
        wrapped.module_forward_pre_hook.remove()
        wrapped.module_forward_post_hook.remove()
        wrapped.destroy()
        _release(model, own)


@contextmanager
def gathered(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Make whole the parameters that ZeRO-3 has partitioned, for as long as the context lasts."""
    import deepspeed

    partitioned = [p for p in parameters if hasattr(p, "ds_id")]
    with deepspeed.zero.GatheredParameters(partitioned, enabled=bool(partitioned)):
        yield


def _release(model: nn.Module, own: dict[nn.Module, set[str]]) -> None:
    """Give a model plain whole parameters back, ties kept, on every rank; one at a time, to bound memory.

    ZeRO hangs its state on the parameters that it trains, and at stage 3 partitions all of them.

    Args:
        model: That an engine was made of.
        own: Names of each module's attributes before.
    """
    plain: dict[nn.Parameter, nn.Parameter] = {}
    for module, names in own.items():
        parameters = dict(module._parameters)
        for name, parameter in parameters.items():
            if parameter is None or not (parameter.requires_grad or hasattr(parameter, "ds_id")):
                continue
            if parameter not in plain:
                with gathered([parameter]):
                    whole = parameter.detach().clone()
                plain[parameter] = nn.Parameter(whole, requires_grad=parameter.requires_grad)
            parameters[name] = plain[parameter]
        module._parameters = parameters
        for name in vars(module).keys() - names:
            delattr(module, name)
    for parameter in plain:  # it and the optimiser hold each other in a way that Python's collector cannot see
        vars(parameter).clear()
