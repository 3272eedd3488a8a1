"""How fast is scoring, and what does stopping early save? Ratios, each of two ways measured side by side in one run.

- bootstrap: 10,000 paired resamples over 5,000 utterances, from texts to interval, against a Python loop that calls
  `jiwer.wer` on every resample (timed on a few of them, and multiplied: the loop is linear in their number).
- decode: the pocket test set by the shipped base, in batches, against `generate` of `transformers` one by one.
- encoder: forward passes of the speech encoder for a first probe and for a second one.
- stopping: the share of utterances that is scored until the anytime-valid bound stops, on simulated splits.

Examples:

    python benchmarks/scoring.py
    python benchmarks/scoring.py --only bootstrap,stopping
    python benchmarks/scoring.py --num-test 60 --repeats 1 --json scoring.json
"""

from __future__ import annotations

import json
import platform
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import jiwer
import numpy as np
import torch
import typer
from rich.console import Console
from transformers import GenerationConfig

from slamlab.data.features import FeatureStore
from slamlab.errors import OptionError, exit_on_user_error
from slamlab.model.decode import generate
from slamlab.model.slam import SlamModel, left_pad, load
from slamlab.scoring.bootstrap import Statistics, paired_relative_degradation
from slamlab.scoring.stopping import early_stop
from slamlab.scoring.wer import word_error_rate
from slamlab.sweep.bases import SHIPPED
from slamlab.zoo.corpora import open_corpus

NUM_RESAMPLES, NUM_UTTERANCES = 10_000, 5_000
DECODE_CAP = 40
"""Tokens; beyond every answer in the pocket corpus."""
PARTS = ("bootstrap", "decode", "encoder", "stopping")


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began_s = time.perf_counter()
    result = work()
    return time.perf_counter() - began_s, result


def _ratio(slow_s: list[float], fast_s: list[float]) -> dict[str, float]:
    """Return how many times faster one way is, by the medians and by the most and least favourable pair."""
    return {
        "ratio": float(np.median(slow_s) / np.median(fast_s)),
        "least": min(slow_s) / max(fast_s),
        "most": max(slow_s) / min(fast_s),
    }


def bench_bootstrap(repeats: int, seed: int) -> dict[str, Any]:
    """Compare the vectorised bootstrap, from texts on, with a loop over `jiwer`."""
    rng = np.random.default_rng(seed)
    words = np.array([f"word{i}" for i in range(300)])
    references = [" ".join(rng.choice(words, rng.integers(4, 25))) for _ in range(NUM_UTTERANCES)]

    def answer(rate: float) -> list[str]:
        return [
            " ".join(
                word if draw >= rate else "wrong" for word, draw in zip(text.split(), rng.random(25), strict=False)
            )
            for text in references
        ]

    base, pruned = answer(0.08), answer(0.1)
    ids = [f"{i:05d}" for i in range(NUM_UTTERANCES)]

    def ours() -> Any:
        both = [
            Statistics(ids=ids, values=np.stack([rate.edits, rate.lengths], axis=1))
            for rate in (word_error_rate(references, base), word_error_rate(references, pruned))
        ]
        return paired_relative_degradation(*both, "wer", tolerance=0.25, num_resamples=NUM_RESAMPLES, seed=seed)

    num_looped = 3

    def loop() -> list[float]:
        draws = np.random.default_rng(seed)
        found = []
        for _ in range(num_looped):
            picked = draws.integers(0, NUM_UTTERANCES, size=NUM_UTTERANCES)
            said = [references[i] for i in picked]
            before, after = (jiwer.wer(said, [texts[i] for i in picked]) for texts in (base, pruned))
            found.append((after - before) / before)
        return found

    ours_s, loop_s = [], []
    for _ in range(repeats):
        seconds, found = _timed(ours)
        ours_s.append(seconds)
        seconds, looped = _timed(loop)
        loop_s.append(seconds * NUM_RESAMPLES / num_looped)
    return {
        "what": f"{NUM_RESAMPLES} resamples of {NUM_UTTERANCES} utterances against a loop over jiwer.wer",
        "num_looped": num_looped,
        "relative_degradation": found.value,
        "ci95": found.ci95,
        "looped": looped,
        **_ratio(loop_s, ours_s),
    }


def _prefixes(model: SlamModel, features: FeatureStore, utterances: list[Any]) -> list[torch.Tensor]:
    prompt = model.prompt("asr", "en")
    return model.prefixes(features.get(utterances), [prompt] * len(utterances))


def bench_decode(repeats: int, num_test: int, store: Path, batch_size: int) -> dict[str, Any]:
    """Compare batched decoding with `generate` one by one, from encoder frames to tokens."""
    corpus = open_corpus("pocket", store / "cache", seed=0)
    utterances = corpus.utterances("en", "test", num_test)
    features = FeatureStore("whisper-base", store / "cache" / "features", store / "cache" / "models")
    features.ensure(utterances)
    model = load(SHIPPED / "qwen-mini-whisper-base").float()
    ids = {"eos_token_id": model.tokenizer.eos_token_id, "pad_token_id": model.tokenizer.pad_token_id or 0}
    utterances.sort(key=lambda utterance: utterance.duration_s)

    @torch.inference_mode()
    def batched() -> list[list[int]]:
        prefixes = []
        for begin in range(0, len(utterances), batch_size):
            prefixes += _prefixes(model, features, utterances[begin : begin + batch_size])
        answers = generate(model.decoder, prefixes, [DECODE_CAP] * len(prefixes), batch_size=batch_size, **ids)
        return [answer.tokens for answer in answers]

    @torch.inference_mode()
    def one_by_one() -> list[list[int]]:
        config = GenerationConfig(max_new_tokens=DECODE_CAP, do_sample=False, **ids)
        answers = []
        for utterance in utterances:
            inputs, mask = left_pad(_prefixes(model, features, [utterance]))
            (row,) = model.decoder.generate(inputs_embeds=inputs, attention_mask=mask, generation_config=config)
            answers.append([token for token in row.tolist() if token != ids["eos_token_id"]])
        return answers

    batched_s, single_s = [], []
    for _ in range(repeats):
        seconds, fast = _timed(batched)
        batched_s.append(seconds)
        seconds, slow = _timed(one_by_one)
        single_s.append(seconds)
    return {
        "what": f"{len(utterances)} utterances of the pocket test set in batches of {batch_size} against one by one",
        "num_utterances": len(utterances),
        "num_different": sum(a != b for a, b in zip(fast, slow, strict=True)),
        **_ratio(single_s, batched_s),
    }


def bench_encoder(num_test: int, store: Path) -> dict[str, Any]:
    """Count what a second probe asks of the encoder."""
    corpus = open_corpus("pocket", store / "cache", seed=0)
    utterances = corpus.utterances("en", "test", num_test)
    encoded, seconds = [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):  # a store of its own each, as two workers, or two trials after a restart, have
            features = FeatureStore("whisper-base", Path(folder), store / "cache" / "models")
            told: list[int] = [0]  # how many recordings were encoded so far; nothing is told where none has to be
            took_s, _ = _timed(lambda store=features, told=told: store.ensure(utterances, lambda n, _: told.append(n)))
            encoded.append(told[-1])
            seconds.append(took_s)
    return {
        "what": f"encoder frames of {len(utterances)} utterances for a first probe and a second one",
        "num_encoded": encoded,
        "second_to_first": seconds[1] / seconds[0],
    }


def bench_stopping(num_splits: int, seed: int, delta: float) -> list[dict[str, Any]]:
    """Count how many utterances are scored until the bound stops, and how often it contradicts the whole split."""
    rows = []
    for num_utterances in (240, 2000):
        for factor in (0.5, 1.0, 1.15, 1.35, 1.6, 2.0, 3.0, 6.0):
            rng = np.random.default_rng(seed)
            scored, wrong, reasons = [], 0, {"hopeless": 0, "safe": 0}
            for _ in range(num_splits):
                words = rng.integers(3, 20, num_utterances)
                rate = np.clip(0.07 * rng.gamma(2, 0.5, num_utterances), 0, 0.5)
                base, pruned = (rng.binomial(words, np.minimum(rate * k, 0.95)) for k in (1.0, factor))
                reason, seen = _scored_until(base, pruned, words, delta)
                scored.append(seen / num_utterances)
                if reason:
                    reasons[reason] += 1
                    exceeded = bool((pruned - 1.25 * base).sum() > 0)
                    wrong += reason != ("hopeless" if exceeded else "safe")
            rows.append(
                {
                    "num_utterances": num_utterances,
                    "factor": factor,
                    "share_scored": float(np.mean(scored)),
                    "num_splits": num_splits,
                    "num_wrong": wrong,
                    **reasons,
                }
            )
    return rows


def _scored_until(base: np.ndarray, pruned: np.ndarray, words: np.ndarray, delta: float) -> tuple[str | None, int]:
    """Return why scoring stops, and after how many utterances, with 16 looks and answers of at most 60 words."""
    total, ids = len(base), tuple(map(str, range(len(base))))
    whole = Statistics(ids=ids, values=np.stack([base, words], axis=1))
    step = max(64, -(-total // 16))
    for seen in range(step, total, step):
        part = Statistics(ids=ids[:seen], values=np.stack([pruned[:seen], words[:seen]], axis=1))
        longest = np.full(total, 60.0)
        if reason := early_stop(whole, part, "wer", tolerance=0.25, delta=delta, num_looks=16, longest=longest):
            return reason, seen
    return None, total


def main(
    only: Annotated[str, typer.Option(help=f"Parts to run, with commas: {', '.join(PARTS)}.")] = ",".join(PARTS),
    repeats: Annotated[int, typer.Option(help="Times that each pair is measured, in turn.")] = 3,
    num_test: Annotated[int, typer.Option(help="Utterances of the pocket test set.")] = 300,
    batch_size: Annotated[int, typer.Option(help="Utterances decoded together.")] = 64,
    num_splits: Annotated[int, typer.Option(help="Simulated splits a row of the stopping table.")] = 200,
    delta: Annotated[float, typer.Option(help="Chance that a stop contradicts the whole split.")] = 0.001,
    seed: Annotated[int, typer.Option(help="Seed of texts and simulations.")] = 0,
    store: Annotated[Path, typer.Option(help="Store whose speech and models are used, or made.")] = Path("runs"),
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write everything to this file.")] = None,
) -> None:
    """Measure the speed of scoring as ratios, and what early stopping saves."""
    with exit_on_user_error():
        parts = [part.strip() for part in only.split(",") if part.strip()]
        for part in parts:
            if part not in PARTS:
                raise OptionError(f"a part is one of {', '.join(PARTS)}", part, "choose among them")
        if min(repeats, num_test, batch_size, num_splits) < 1:
            raise OptionError("counts are 1 or more", min(repeats, num_test, batch_size, num_splits), "ask for more")
        results: dict[str, Any] = {
            "seed": seed,
            "versions": {name: version(name) for name in ("torch", "transformers", "jiwer", "numpy")},
            "python": platform.python_version(),
            "num_threads": torch.get_num_threads(),
        }
        console = Console(soft_wrap=True)
        console.print(results, highlight=False)
        if "bootstrap" in parts:
            results["bootstrap"] = bench_bootstrap(repeats, seed)
        if "decode" in parts:
            results["decode"] = bench_decode(repeats, num_test, store, batch_size)
        if "encoder" in parts:
            results["encoder"] = bench_encoder(num_test, store)
        for part in PARTS[:3]:
            if part in results:
                console.print(f"[bold]{part}[/bold]", results[part], highlight=False)
        if "stopping" in parts:
            results["stopping"] = bench_stopping(num_splits, seed, delta)
            console.print("[bold]stopping[/bold]: splits, WER pruned / base, share scored, hopeless, safe, wrong")
            for row in results["stopping"]:
                console.print(
                    f"  n={row['num_utterances']:<5} x{row['factor']:<5} {row['share_scored']:6.1%} scored, "
                    f"{row['hopeless']} hopeless, {row['safe']} safe, {row['num_wrong']} wrong of {row['num_splits']}",
                    highlight=False,
                )
        if json_file is not None:
            json_file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
