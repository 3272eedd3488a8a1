"""The benchmark of decoding has all ways say the same, and times a decoder that is really shorter."""

import pytest
import torch
from scripts import load_script
from transformers import LlamaConfig


@pytest.fixture(scope="module")
def benchmark():
    return load_script("benchmarks/decode.py")


def test_all_ways_give_the_same_answers(benchmark):
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 1, "num_key_value_heads": 1}
    decoder = benchmark.new_decoder(LlamaConfig(num_hidden_layers=5, vocab_size=300, **sizes), "cpu", torch.float32)
    with torch.inference_mode():
        found = benchmark.against_stock(decoder, length=12, num_tokens=5)
        runs = benchmark.whole_against_pruned(decoder, 0.4, length=12, num_tokens=3)
    assert found["same_answers"] == {"stock": "16 of 16", "alone": "16 of 16"}
    assert found["tokens_an_answer"] == 5
    assert [(run["batch_size"], run["tokens"], run["layers"]) for run in runs] == [
        (1, 1, [5, 3]),
        (1, 3, [5, 3]),
        (16, 1, [5, 3]),
        (16, 3, [5, 3]),
    ]


def test_a_mistake_gets_a_sentence(benchmark, capsys):
    with pytest.raises(SystemExit) as left:
        benchmark.main(width=100)
    assert left.value.code == 2
    assert "width 100" in capsys.readouterr().err
