"""Random models of a few thousand weights, and a report on disk whose checkpoints they are."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from slamlab.model.slam import SlamConfig, SlamModel
from slamlab.zoo.decoders import train_tokenizer

REPORTS = Path(__file__).parents[2] / "reports"
TEXTS = [" the red house is old", " we see a green tree", " eine alte Katze"]
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def new_model(architecture: str = "qwen", num_layers: int = 3, **changed) -> SlamModel:
    """Build a random model: a Qwen2 with tied embeddings, or a Llama with untied ones."""
    tokenizer = train_tokenizer(TEXTS, vocab_size=280)
    configuration = Qwen2Config if architecture == "qwen" else LlamaConfig
    sizes = SIZES | {"vocab_size": len(tokenizer), "tie_word_embeddings": architecture == "qwen"}
    torch.manual_seed(num_layers)
    decoder = AutoModelForCausalLM.from_config(
        configuration(num_hidden_layers=num_layers, **sizes), dtype=torch.float32
    )
    config = SlamConfig(
        **{
            "family": architecture,
            "scale": "mini",
            "encoder": "whisper-base",
            "encoder_width": 24,
            "stack": 5,
            "projector_hidden": 16,
            **changed,
        }
    )
    return SlamModel(config, decoder, tokenizer).eval()


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """Return folders of models by architecture, and of a deeper one as `unpruned`."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for name, model in (
        ("qwen", new_model()),
        ("llama", new_model("llama", 2)),
        ("unpruned", new_model(num_layers=4)),
    ):
        model.save(folder / name)
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture
def make_report(tmp_path, checkpoints):
    """Return a function that writes a shipped report's results, with changes, beside a store with its checkpoints."""

    def make(name="max_prune-qwen", change=lambda results: None):
        results = json.loads((REPORTS / name / "results.json").read_text(encoding="utf-8"))
        for one in [*results["cells"], *results["joints"]]:
            if checkpoint := (one.get("pruned") or one).get("checkpoint"):
                shutil.copytree(checkpoints["qwen"], tmp_path / "runs" / checkpoint, dirs_exist_ok=True)
        change(results)
        report = tmp_path / "reports" / name
        report.mkdir(parents=True, exist_ok=True)
        (report / "results.json").write_text(json.dumps(results), encoding="utf-8")
        return report, tmp_path / "runs", results

    return make
