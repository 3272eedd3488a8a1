"""The benchmark of healing has three ways do one and the same work."""

from itertools import cycle
from types import ModuleType

import numpy as np
import pytest
import torch
from scripts import load_script
from transformers import Qwen2Config

from slamlab.zoo.profiles import HealRecipe, TrainRecipe


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return load_script("benchmarks/heal.py")


def test_all_ways_take_the_same_steps(benchmark: ModuleType) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 1, "num_key_value_heads": 1}
    config = Qwen2Config(num_hidden_layers=2, vocab_size=300, **sizes)
    model = benchmark.new_model(config, "cpu", torch.float32)
    recipe = HealRecipe(train=TrainRecipe(num_steps=4, batch_size=2, peak_lr=1e-2), r=4, dropout=0.0)
    found = benchmark.side_by_side(model, benchmark.new_batches(model, 2, 1.0), recipe, repeats=1)
    assert set(found["time_to_ours"]) == {"plain", "trainer"}
    assert max(found["largest_loss_difference"].values()) < 1e-5
    assert found["losses"][-1] < found["losses"][0], "they learn"
    # It can fail: another batch first is other work.
    batches = benchmark.new_batches(model, 2, 1.0)
    losses, _ = benchmark.plain(model, 1, cycle(batches[1:]), recipe)
    assert np.abs(np.array(losses) - found["losses"]).max() > 1e-5


def test_a_mistake_gets_a_sentence(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        benchmark.main(width=100)
    assert left.value.code == 2
    assert "width 100" in capsys.readouterr().err
