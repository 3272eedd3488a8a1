"""DeepSpeed, kept in one file: start it in this process, and wrap a model in an engine of a given ZeRO stage.

The same code runs on CPU (gloo) and GPU (nccl), in one process or in the ranks that a launcher started (torchrun, the
sweep's team of ranks): RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT are read only to tell which, and where they meet.
"""

from __future__ import annotations

import logging
import os
import socket
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed
from torch import nn

from slamlab.errors import OptionError
from slamlab.model.slam import cast
from slamlab.zoo.profiles import TrainRecipe


def start() -> None:
    """Make a process group for this process and import DeepSpeed, once.

    Alone, the group meets in memory; ranks that a launcher gave a loopback address meet there. Gloo listens in either
    case, and then on loopback only.
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
    rank, world_size = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    address, by_agent = os.environ.get("MASTER_ADDR", ""), "TORCHELASTIC_USE_AGENT_STORE" in os.environ
    if world_size > 1 and (by_agent or not address.startswith("127.")):
        torch.distributed.init_process_group(backend)
    else:
        # Gloo listens where the host's name points, on a cluster its network, even with nobody there to talk to.
        loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
        if loopback:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
        store: Any = torch.distributed.HashStore()
        if world_size > 1:
            port = int(os.environ["MASTER_PORT"])
            # Left to itself, torch's own server listens to every network.
            listener = socket.create_server((address, port)).detach() if rank == 0 else None
            store = torch.distributed.TCPStore(address, port, world_size, rank == 0, master_listen_fd=listener)
        torch.distributed.init_process_group(
            backend, store=store, rank=rank if world_size > 1 else 0, world_size=world_size
        )
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
        "zero_optimization": {"stage": recipe.zero_stage, **_offload(recipe)},
        # torch's AdamW is not on DeepSpeed's list of tested optimisers; its own needs a C++ build of minutes.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
    }


def _offload(recipe: TrainRecipe) -> dict[str, Any]:
    if not recipe.offload:
        return {}
    kept = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {"offload_optimizer": kept} | ({"offload_param": kept} if recipe.zero_stage == 3 else {})


@contextmanager
def engine(model: nn.Module, recipe: TrainRecipe) -> Iterator[Any]:
    """Wrap a model's trainable parameters in a DeepSpeed engine, and take the engine down again.

    Args:
        model: Parameters with `requires_grad` are trained; the rest stay as they are. All take the recipe's
            precision, and keep it.
        recipe: Optimiser, precision and ZeRO stage.

    Yields:
        The engine: call it for the loss, then `backward(loss)` and `step()`. Where one of several ranks fails, its
        model stays as the engine had it, and is of no further use.
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
    whole = True
    try:
        yield wrapped
    except Exception:
        # The other ranks, if any, may wait elsewhere: they would not take part in making this one's model whole.
        whole = torch.distributed.get_world_size() == 1
        if whole:
            wrapped.empty_partition_cache()  # what the step that failed had gathered, at stage 3
        raise
    finally:
        if whole:
            # These two hooks outlive `destroy`, and with them the optimiser's state would live as long as the model.
            wrapped.module_forward_pre_hook.remove()
            wrapped.module_forward_post_hook.remove()
            wrapped.destroy()
            _release(model, own)


def is_partitioned(model: nn.Module) -> bool:
    """Say whether an engine of stage 3 still holds a model in parts."""
    return any(hasattr(parameter, "ds_id") for parameter in model.parameters())


@contextmanager
def gathered(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Make whole the parameters that ZeRO-3 has partitioned, for as long as the context lasts."""
    import deepspeed

    partitioned = [p for p in parameters if hasattr(p, "ds_id")]
    with deepspeed.zero.GatheredParameters(partitioned, enabled=bool(partitioned)):
        yield


def capture(wrapped: Any) -> dict[str, torch.Tensor]:
    """Return what training has changed, on the CPU; every rank takes part, and each gets all of it.

    Args:
        wrapped: An engine, between two steps.

    Returns:
        `weight.NAME` of what is trained, whole and in the engine's precision; of each rank R its own `R.rng.NAME` and,
        of its I-th share of the optimiser, `R.I.master` (fp32 weights) and `R.I.MOMENT`.
    """
    trained = {name: p for name, p in wrapped.module.named_parameters() if p.requires_grad}
    with gathered(trained.values()):
        tensors = {f"weight.{name}": p.detach().to("cpu", copy=True) for name, p in trained.items()}
    optimizer, masters = _optimizer(wrapped)
    own = {f"rng.{name}": state for name, state in _random_states().items()}
    for i, master in enumerate(masters):
        own |= {f"{i}.master": master.detach(), **{f"{i}.{n}": t for n, t in optimizer.state[master].items()}}
    for name, tensor in own.items():
        for rank, theirs in enumerate(_of_all_ranks(tensor)):
            tensors[f"{rank}.{name}"] = theirs
    return tensors


def restore_weights(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Give a model, before an engine is made of it, the trained weights that :func:`capture` took."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(tensors[f"weight.{name}"])


def restore(wrapped: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    """Give a new engine the optimiser and random states that :func:`capture` took; its weights it has already."""
    optimizer, masters = _optimizer(wrapped)
    rank = f"{torch.distributed.get_rank()}."
    own = {name.removeprefix(rank): tensor for name, tensor in tensors.items() if name.startswith(rank)}
    for i, master in enumerate(masters):
        parts = {name.removeprefix(f"{i}."): part for name, part in own.items() if name.startswith(f"{i}.")}
        master.data.copy_(parts.pop("master"))
        # AdamW counts its steps on the CPU, wherever its moments are.
        optimizer.state[master] = {n: part.clone() if n == "step" else part.to(master) for n, part in parts.items()}
    torch.set_rng_state(own["rng.torch"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state(own["rng.cuda"])
    numbers = own["rng.numpy"].numpy()
    keys, (position, has_gauss, gauss) = numbers[:-3].astype(np.uint32), numbers[-3:]
    np.random.set_state(("MT19937", keys, int(position), int(has_gauss), gauss))


def _optimizer(wrapped: Any) -> tuple[Any, list[torch.Tensor]]:
    """Return torch's own optimiser inside an engine, and the fp32 weights that it steps on this rank.

    Those are the parameters themselves at stage 0, else this rank's flat share of them; at stage 3 DeepSpeed shows
    them to the optimiser only while it steps.
    """
    outer = wrapped.optimizer
    flat = getattr(outer, "fp32_partitioned_groups_flat", None)
    masters = flat or [parameter for group in outer.param_groups for parameter in group["params"]]
    return getattr(outer, "optimizer", outer), masters


def _random_states() -> dict[str, torch.Tensor]:
    """Return the states that dropout and numpy draw from; float64 holds numpy's 32-bit words exactly."""
    _, keys, *rest = np.random.get_state()
    states = {"torch": torch.get_rng_state(), "numpy": torch.from_numpy(np.array([*keys, *rest], dtype=np.float64))}
    return states | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def _of_all_ranks(tensor: torch.Tensor) -> list[torch.Tensor]:
    """Return a tensor of every rank, in their order, on the CPU; all have the same shape."""
    if torch.distributed.get_world_size() == 1:
        return [tensor.to("cpu", copy=True)]
    sent = tensor.to("cuda" if torch.cuda.is_available() else "cpu")
    received = [torch.empty_like(sent) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(received, sent)
    return [one.cpu() for one in received]


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
