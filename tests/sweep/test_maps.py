"""Maps of the shipped model on real speech: kept, never made twice, and of what they say they are of."""

import json
from dataclasses import replace

import numpy as np
import pytest
import ray
import torch

from slamlab.errors import OptionError
from slamlab.model.redundancy import AngularDistance
from slamlab.sweep import launch
from slamlab.sweep.cluster import maps as cluster_maps
from slamlab.sweep.cluster.start import start_ray
from slamlab.sweep.maps import VIEWS, MapSettings, collect_maps, make_maps
from slamlab.sweep.trial import Bench
from slamlab.zoo.profiles import PROFILES

HOW = MapSettings(num_utterances=12, num_resamples=40)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Map one cell with a barely adapted LoRA decoder, and another without."""
    store = tmp_path_factory.mktemp("runs")
    settings, corpus = launch.prepare(
        PROFILES["pocket"],
        name="maps",
        families=["qwen"],
        scales=[],
        encoders=[],
        tasks=["asr", "st"],
        languages=["de"],
        data=None,
        store=store,
        heal={"num_steps": 2, "batch_size": 2, "num_train": 6},
        num_selection=12,
        num_test=12,
    )
    how = replace(HOW, lora=settings.heal_recipe(settings.cells[0]))
    lines = []

    def collect(how=how, **changed):
        lines.clear()
        asked = replace(settings, **changed)
        made = make_maps(asked, how, lines.append)
        return collect_maps(asked, how, made, command="x", corpus_name=corpus.name, problems=[])

    return settings, collect, collect(), lines


def test_every_view_of_every_cell_and_decoder_is_there(made):
    _, _, (told, arrays), _ = made
    found = [(m["task"], m["decoder"], m["view"], m["selection"]) for m in told["maps"]]
    assert found == [(task, decoder, *view) for task in ("asr", "st") for decoder in ("base", "lora") for view in VIEWS]
    assert len({m["key"] for m in told["maps"]}) == len(found)
    for one in told["maps"]:
        distance, resampled = arrays[f"{one['key']}.distance"], arrays[f"{one['key']}.resampled"]
        assert (one["status"], one["num_layers"], one["num_utterances"]) == ("complete", 12, 12)
        assert distance.shape == (13, 13)
        assert (resampled.shape, resampled.dtype) == ((40, 13, 13), np.float32)
        assert np.array_equal(distance, distance.T)
        assert 0 < distance[0, 1] < 1
        spread = resampled.std(axis=0)
        assert 0 < spread[0, 1] < 0.1
        assert abs(resampled[:, 0, 1].mean() - distance[0, 1]) < 3 * spread[0, 1]
    assert {m["score"]["metric"] for m in told["maps"] if m["task"] == "st"} == {"bleu"}


def test_positions_add_up_and_each_view_is_of_its_own(made):
    _, _, (told, arrays), _ = made
    base = {m["selection"]: m for m in told["maps"][: len(VIEWS)] if m["view"] == "speech"}
    parts = sum(base[name]["num_positions"] for name in ("audio", "prompt", "answer"))
    assert base["all"]["num_positions"] == parts
    assert base["last"]["num_positions"] == 12
    distances = [arrays[f"{m['key']}.distance"] for m in told["maps"][: len(VIEWS)]]
    for i, one in enumerate(distances):
        assert all(np.abs(one - other).max() > 1e-4 for other in distances[:i])
    whole = sum(
        arrays[f"{base[name]['key']}.distance"] * base[name]["num_positions"] for name in ("audio", "prompt", "answer")
    )
    np.testing.assert_allclose(whole / parts, arrays[f"{base['all']['key']}.distance"], atol=1e-6)


def test_a_map_of_all_speech_is_that_of_a_sweep(made):
    settings, _, (_, arrays), _ = made
    bench = Bench(settings)
    (cell, _) = settings.cells
    base = next(_end(bench._get_base(cell)))
    with np.load(bench.store.root / bench._map(base.model, cell)) as kept:
        np.testing.assert_allclose(arrays["m02.distance"], kept["distance"], atol=1e-6)


def test_text_alone_is_read_one_by_one_alike(made):
    settings, _, (_, arrays), _ = made
    bench = Bench(settings)
    (cell, _) = settings.cells
    model = next(_end(bench._get_base(cell))).model
    with torch.inference_mode(), AngularDistance(model.decoder) as meter:
        for utterance in bench.corpus.utterances("de", "selection", 12):
            ids = torch.tensor([model.tokenizer.encode(utterance.text)])
            model.decoder(input_ids=ids, use_cache=False)
            meter.update(torch.ones_like(ids, dtype=torch.bool))
    np.testing.assert_allclose(arrays["m01.distance"], meter.matrix(), atol=1e-5)


def test_lora_changes_the_decoder_and_one_is_made_for_all_cells_of_a_base(made):
    settings, _, (told, arrays), _ = made
    of = {(m["task"], m["decoder"], m["view"], m["selection"]): m["key"] for m in told["maps"]}
    for task in ("asr", "st"):
        base, lora = (arrays[f"{of[task, decoder, 'text', 'all']}.distance"] for decoder in ("base", "lora"))
        assert 1e-7 < np.abs(base - lora).max() < 0.05
    both = [arrays[f"{of[task, 'lora', 'text', 'all']}.distance"] for task in ("asr", "st")]
    np.testing.assert_array_equal(*both)
    assert len(list((settings.store / "checkpoints").iterdir())) == 1


def test_what_is_mapped_is_mapped_once(made):
    _, collect, (told, arrays), lines = made
    again, kept = collect()
    assert json.dumps(again) == json.dumps(told)
    assert all(np.array_equal(kept[name], arrays[name]) for name in arrays)
    assert lines == []


def test_no_lora_is_told_with_its_reason(made):
    _, collect, _, _ = made
    told, arrays = collect(HOW)
    missing = [m for m in told["maps"] if m["decoder"] == "lora"]
    assert {m["status"] for m in missing} == {"not run"}
    assert all("--lora-steps 0" in m["reason"] for m in missing)
    assert not any(f"{m['key']}.distance" in arrays for m in missing)


def test_a_lora_that_fails_ends_nothing_else(made):
    _, collect, (whole, _), lines = made
    recipe = made[0].heal_recipe(made[0].cells[0])
    told, _ = collect(replace(HOW, lora=replace(recipe, target_modules=("nothing",))))
    failed = [m for m in told["maps"] if m["decoder"] == "lora"]
    assert {m["status"] for m in failed} == {"failed"}
    assert all("nothing on any layer" in m["reason"] for m in failed)
    assert any("nothing on any layer" in line for line in lines)
    whole = json.loads(json.dumps(whole))
    assert [m for m in told["maps"] if m["decoder"] == "base"] == [m for m in whole["maps"] if m["decoder"] == "base"]


@pytest.fixture
def on_ray():
    """Start Ray, and stop it again: in a process that has it, no later test could join another."""
    start_ray()
    yield
    ray.shutdown()


@pytest.mark.usefixtures("on_ray")
def test_a_cluster_makes_the_same_maps_and_tells_of_them_meanwhile(made):
    settings, _, (_, arrays), _ = made
    recipe = settings.heal_recipe(settings.cells[0])
    how = replace(HOW, lora=replace(recipe, target_modules=("nothing",)))
    asked = replace(settings, seed=1)  # of this seed none is in the store
    said = []
    found = cluster_maps.make_maps_on_cluster(asked, how, said.append)
    assert set(found) == {(cell, decoder) for cell in asked.cells for decoder in ("base", "lora")}
    for cell, key in zip(asked.cells, ("m02", "m14"), strict=True):
        with np.load(settings.store / found[cell, "base"]["maps"]) as kept:
            np.testing.assert_allclose(kept["speech.all.distance"], arrays[f"{key}.distance"], atol=1e-6)
        assert "nothing on any layer" in found[cell, "lora"]
        assert any(line.startswith(f"{cell.name}, lora: ") for line in said)


@pytest.mark.usefixtures("on_ray")
def test_a_worker_that_dies_is_told_of_and_ends_no_other(made, monkeypatch):
    def dies_for_llama(settings, how, lines):
        import os

        if settings.cells[0].family == "llama":
            os._exit(1)
        return {(cell, "base"): {"kind": "map"} for cell in settings.cells}

    settings = made[0]
    qwen = settings.cells[0]
    llama = replace(qwen, family="llama")
    monkeypatch.setattr(cluster_maps, "_make_maps", dies_for_llama)
    said = []
    found = cluster_maps.make_maps_on_cluster(replace(settings, cells=(qwen, llama)), HOW, said.append)
    assert found[qwen, "base"] == {"kind": "map"}
    assert "worker died" in found[llama, "base"]
    assert any("FAILED" in line for line in said)


@pytest.mark.parametrize("changed", [{"num_utterances": 1}, {"num_resamples": 39}, {"num_resamples": 10_001}])
def test_options_out_of_range_are_refused(changed):
    with pytest.raises(OptionError):
        MapSettings(**changed)


def _end(steps):
    """Yield what a generator returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            yield end.value
            return
