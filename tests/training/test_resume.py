"""A run that is killed and goes on ends where an undisturbed one does, bit for bit; a foreign state is no state."""

from __future__ import annotations

import json
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from slamlab.data.batching import Example
from slamlab.model.slam import SlamModel, load
from slamlab.training.heal import heal
from slamlab.training.resume import Keeper
from slamlab.zoo.profiles import HealRecipe, TrainRecipe

NewModel = Callable[..., SlamModel]
Stream = Callable[[int], Iterator[list[Example]]]
RECIPE = HealRecipe(train=TrainRecipe(num_steps=8, batch_size=4, peak_lr=1e-2), r=4, alpha=8, dropout=0.3)
STAGES = [(0, "fp32"), (1, "fp32"), (2, "fp32"), (3, "fp32"), (1, "bf16"), (2, "bf16"), (3, "bf16")]
WHERE = [*((*stage, False) for stage in STAGES), (2, "fp32", True), (2, "bf16", True), (3, "bf16", True)]


class KeptAt(Keeper):
    """Writes after the given steps of this process, whatever the clock says."""

    def __init__(self, path: Path, *steps: int, run: str = "this") -> None:
        super().__init__(path, run, lambda: (2.5, 1.5))
        self._steps, self._step = steps, 0

    def due(self) -> bool:
        self._step += 1
        return self._step in self._steps


def run(model: SlamModel, stream: Iterator[list[Example]], recipe: HealRecipe, keeper: Keeper, until: int = 99) -> list:
    """Heal until a step, as a process does that is then killed; return the losses."""
    done = keeper.state.losses if keeper.state else ()
    steps = heal(model, 1, islice(stream, len(done), None), recipe, seed=0, keeper=keeper)
    return [*done, *(step.loss for step in islice(steps, until))]


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def differing(model: SlamModel, other: SlamModel) -> list[str]:
    expected = other.state_dict()
    return [name for name, weight in model.state_dict().items() if not torch.equal(weight, expected[name])]


@pytest.mark.parametrize(("zero_stage", "precision", "offload"), WHERE)
def test_a_heal_that_goes_on_ends_where_an_undisturbed_one_does(
    zero_stage: int, precision: Any, offload: bool, new_model: NewModel, stream: Stream, tmp_path: Path
) -> None:
    recipe = replace(RECIPE, train=replace(RECIPE.train, zero_stage=zero_stage, precision=precision, offload=offload))
    straight, resumed, again = new_model(tied=True), new_model(tied=True), new_model(tied=True)
    expected = run(straight, stream(4), recipe, KeptAt(tmp_path / "never"))
    path = tmp_path / "state.safetensors"
    assert run(new_model(tied=True), stream(4), recipe, KeptAt(path, 4), until=5) == expected[:5]
    torch.manual_seed(1234)  # the next process has random states of its own
    np.random.seed(1234)
    keeper = KeptAt(path)
    assert keeper.state is not None
    assert (keeper.state.losses, keeper.state.wall_s, keeper.state.device_s) == (tuple(expected[:4]), 2.5, 1.5)
    assert run(resumed, stream(4), recipe, keeper) == expected
    assert differing(resumed, straight) == []
    # It can fail: without the moments the same losses so far lead elsewhere.
    tensors = {name: t.zero_() if "exp_avg" in name else t for name, t in load_file(path).items()}
    Keeper(path, "this", lambda: (0, 0)).write(expected[:4], tensors)
    assert run(again, stream(4), recipe, KeptAt(path)) != expected
    assert not (tmp_path / "never").exists()


def steps_kept(keeper: Keeper) -> int:
    """Return after how many steps the state was taken that a keeper found."""
    assert keeper.state is not None
    return len(keeper.state.losses)


def test_a_heal_may_be_killed_twice(new_model: NewModel, stream: Stream, tmp_path: Path) -> None:
    straight, resumed = new_model(), new_model()
    expected = run(straight, stream(4), RECIPE, KeptAt(tmp_path / "never"))
    path = tmp_path / "state.safetensors"
    run(new_model(), stream(4), RECIPE, KeptAt(path, 2), until=3)
    run(new_model(), stream(4), RECIPE, KeptAt(path, 1, 3), until=3)
    assert steps_kept(KeptAt(path)) == 5
    assert names_in(tmp_path) == [path.name]
    assert run(resumed, stream(4), RECIPE, KeptAt(path)) == expected
    assert differing(resumed, straight) == []


WORKER = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import torch
from test_resume import RECIPE, KeptAt, heal, load
import pickle
torch.set_num_threads(1)
folder = Path(sys.argv[1])
batches = pickle.loads((folder / "batches.pickle").read_bytes())
for step in heal(load(folder), 1, iter(batches), RECIPE, 0, KeptAt(folder / "state", 4)):
    if step.step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_that_is_killed_leaves_what_the_next_goes_on_from(
    new_model: NewModel, stream: Stream, tmp_path: Path
) -> None:
    new_model().save(tmp_path)
    (tmp_path / "batches.pickle").write_bytes(pickle.dumps(list(islice(stream(4), 8))))
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", WORKER, str(tmp_path), str(Path(__file__).parent)])
    assert done.returncode == -signal.SIGKILL
    straight, resumed = load(tmp_path), load(tmp_path)
    expected = run(straight, stream(4), RECIPE, KeptAt(tmp_path / "never"))
    keeper = KeptAt(tmp_path / "state")
    assert keeper.state is not None and keeper.state.losses == tuple(expected[:4])
    assert run(resumed, stream(4), RECIPE, keeper) == expected
    assert differing(resumed, straight) == []


@pytest.fixture
def kept(new_model: NewModel, stream: Stream, tmp_path: Path) -> Path:
    """Return the state of a heal after three steps."""
    path = tmp_path / "state.safetensors"
    run(new_model(), stream(4), RECIPE, KeptAt(path, 3), until=4)
    return path


def flip(content: bytes) -> bytes:
    return content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]


@pytest.mark.parametrize(
    "spoil", [flip, lambda content: content[:-100], lambda content: b"", lambda content: b"{}" * 99]
)
def test_a_damaged_state_is_no_state(spoil: Callable[[bytes], bytes], kept: Path) -> None:
    kept.write_bytes(spoil(kept.read_bytes()))
    keeper = KeptAt(kept)
    assert (keeper.state, keeper.problem) == (None, "it is damaged")


def test_a_state_without_our_header_is_no_state(kept: Path) -> None:
    save_file(load_file(kept), kept)
    assert KeptAt(kept).problem == "it is damaged"


def test_the_state_of_another_run_is_no_state(kept: Path) -> None:
    assert KeptAt(kept).problem == ""
    keeper = KeptAt(kept, run="another")
    assert (keeper.state, keeper.problem) == (None, "it is of another run")


def test_a_state_is_safetensors_and_json_and_holds_what_learns_alone(kept: Path) -> None:
    with safe_open(kept, "pt") as file:
        told = json.loads(file.metadata()["state"])
        names = {name.split(".")[0] for name in file.keys()}  # noqa: SIM118
        weights = {name for name in file.keys() if name.startswith("weight.")}  # noqa: SIM118
    assert told.keys() == {"revision", "run", "losses", "wall_s", "device_s"}
    assert names == {"weight", "0"}
    assert len(weights) == 6 + 6  # the projector's, and A and B of three linear layers
    assert all("lora" in name or "projector" in name for name in weights)


def test_a_state_is_due_by_the_clock(tmp_path: Path, new_model: NewModel, stream: Stream) -> None:
    assert not Keeper(tmp_path / "a", "this", lambda: (0, 0)).due()
    run(new_model(), stream(4), RECIPE, Keeper(tmp_path / "a", "this", lambda: (0, 0)))
    run(new_model(), stream(4), RECIPE, always := Keeper(tmp_path / "b", "this", lambda: (0, 0), every_s=0))
    assert names_in(tmp_path) == ["b"]
    assert steps_kept(Keeper(tmp_path / "b", "this", lambda: (0, 0))) == 7, "not after the last step"
    always.drop()
    assert names_in(tmp_path) == []
