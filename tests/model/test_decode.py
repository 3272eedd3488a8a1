"""Decoding against loops without cache or padding, stock `generate` one by one, and exhaustive search."""

from __future__ import annotations

import logging
import re
import warnings

import pytest
import torch
from transformers import GenerationConfig

from slamlab.errors import OptionError
from slamlab.model.decode import LOOP_REPEATS, LOOP_SPAN, LOOP_TOKENS, Generated, generate, loops

EOS, PAD = 2, 0
CAPS = [12, 7, 12, 1, 9, 12, 10]
"""Too short for a loop to end a row before its cap does."""


@pytest.fixture
def decoder(decoder):
    """One of each architecture, made less sure of itself, so that beams change places."""
    decoder.lm_head.register_forward_hook(lambda _module, _inputs, logits: logits / 4)
    return decoder


@torch.no_grad()
def naive(decoder, sequence, cap, eos=EOS):
    """One row, no cache, no padding, argmax by argmax."""
    embed, tokens = decoder.get_input_embeddings(), []
    while len(tokens) < cap and not loops(tokens):
        inputs = torch.cat([sequence, embed(torch.tensor(tokens, dtype=torch.long))])
        token = int(decoder(inputs_embeds=inputs[None], use_cache=False).logits[0, -1].argmax())
        if token == eos:
            return Generated(tokens=tokens, stopped="eos")
        tokens.append(token)
    return Generated(tokens=tokens, stopped="loop" if loops(tokens) else "length")


@torch.no_grad()
def naive_beams(decoder, sequence, cap, eos, num_beams):
    """One row, no cache, no padding: the beam search that the module's docstring tells of, in lists."""
    embed = decoder.get_input_embeddings()
    open_, ended = [(0.0, [])], []  # (sum of log-probabilities, tokens), (mean of them, answer), best first
    while open_ and (len(ended) < num_beams or open_[0][0] / len(open_[0][1]) > ended[-1][0]):
        inputs = torch.stack([torch.cat([sequence, embed(torch.tensor(t, dtype=torch.long))]) for _, t in open_])
        scores = decoder(inputs_embeds=inputs, use_cache=False).logits[:, -1].log_softmax(-1).tolist()
        grown = [
            (total + score, [*tokens, token])
            for (total, tokens), row in zip(open_, scores, strict=True)
            for token, score in enumerate(row)
        ]
        open_ = []
        for rank, (total, tokens) in enumerate(sorted(grown, reverse=True)[: 2 * num_beams]):
            reasons = {"eos": tokens[-1] == eos, "loop": loops(tokens), "length": len(tokens) == cap}
            stopped = next((reason for reason, holds in reasons.items() if holds), None)
            if stopped is None:
                open_.append((total, tokens))
            elif rank < num_beams:
                answer = Generated(tokens=tokens[:-1] if stopped == "eos" else tokens, stopped=stopped)
                ended.append((total / len(tokens), answer))
        open_ = open_[:num_beams]
        ended = sorted(ended, key=lambda pair: pair[0], reverse=True)[:num_beams]
    return ended[0][1]


def stock(decoder, sequence, cap, eos, num_beams):
    """What `transformers` says to one row alone, up to the end token."""
    tokens = decoder.generate(
        inputs_embeds=sequence[None],
        attention_mask=torch.ones(1, len(sequence), dtype=torch.long),
        max_new_tokens=cap,
        do_sample=False,
        num_beams=num_beams,
        eos_token_id=eos,
        pad_token_id=PAD,
    )[0].tolist()
    return tokens[: tokens.index(eos)] if eos in tokens else tokens


def ending_token(decoder, sequences, num_beams):
    """A token that, taken as the end token, ends some rows and leaves others to their caps."""
    tried = [naive(decoder, row, 4, eos=-1).tokens for row in sequences]
    for eos in [tokens[at] for at in (1, 2, 3, 0) for tokens in tried]:  # preferably not the first thing said
        answers = generate(decoder, sequences, CAPS, eos_token_id=eos, pad_token_id=PAD, num_beams=num_beams)
        if {answer.stopped for answer in answers} >= {"eos", "length"}:
            return eos
    raise AssertionError("no token ends some rows only")


def echo(decoder):
    """Make a decoder say again what it last heard, for ever."""
    with torch.no_grad():
        for layer in decoder.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        decoder.lm_head.weight.copy_(decoder.get_input_embeddings().weight)
    return decoder


def follow(decoder, script):
    """Make a decoder all but sure of the tokens of `script`, one a step; the list that is returned counts steps."""
    steps = []

    def say(_module, _inputs, logits):
        logits = torch.zeros_like(logits)
        logits[..., script[len(steps) % len(script)]] = 20.0
        steps.append(1)
        return logits

    decoder.lm_head.register_forward_hook(say)
    return steps


@pytest.mark.parametrize("num_beams", [1, 3])
def test_equals_uncached_search_and_stock_generate_in_any_batch_and_order(decoder, sequences, num_beams):
    eos = ending_token(decoder, sequences, num_beams)
    rows = list(zip(sequences, CAPS, strict=True))
    if num_beams == 1:
        expected = [naive(decoder, row, cap, eos) for row, cap in rows]
    else:
        expected = [naive_beams(decoder, row, cap, eos, num_beams) for row, cap in rows]
        assert any(answer != naive(decoder, row, cap, eos) for answer, (row, cap) in zip(expected, rows, strict=True))
    assert [answer.tokens for answer in expected] == [stock(decoder, row, cap, eos, num_beams) for row, cap in rows]
    for batch_size, order in [(1, range(7)), (4, range(7)), (16, range(7)), (3, [3, 0, 6, 5, 1, 4, 2])]:
        got = generate(
            decoder,
            [sequences[i] for i in order],
            [CAPS[i] for i in order],
            eos_token_id=eos,
            pad_token_id=eos if batch_size == 4 else PAD,  # of no account
            batch_size=batch_size,
            num_beams=num_beams,
        )
        assert got == [expected[i] for i in order], batch_size


@torch.no_grad()
def test_as_many_beams_as_tokens_find_the_best_of_all_answers(new_decoder, sequences):
    decoder = new_decoder("qwen3")
    embed = decoder.get_input_embeddings().weight  # [V, D]
    vocabulary, expected = len(embed), []
    eos = naive(decoder, sequences[2], 1, eos=-1).tokens[0]
    for row in sequences:
        first = decoder(inputs_embeds=row[None]).logits[0, -1].log_softmax(-1)  # [V]
        pairs = torch.cat([row.expand(vocabulary, -1, -1), embed[:, None]], dim=1)  # [V, N + 1, D]
        mean = (first[:, None] + decoder(inputs_embeds=pairs).logits[:, -1].log_softmax(-1)) / 2  # [V, V]
        mean[eos] = -torch.inf  # nothing comes after the end
        best = divmod(int(mean.argmax()), vocabulary)
        expected.append([] if first[eos] > mean.max() else [token for token in best if token != eos])
    got = generate(decoder, sequences, [2] * 7, eos_token_id=eos, pad_token_id=PAD, num_beams=vocabulary)
    assert [answer.tokens for answer in got] == expected
    assert {len(tokens) for tokens in expected} >= {0, 2}


@pytest.mark.parametrize("num_beams", [1, 4])
def test_each_row_has_its_own_cap(new_decoder, sequences, num_beams):
    decoder, caps = new_decoder("llama"), [5, 1, 9, 3, 7]
    got = generate(decoder, [sequences[0]] * 5, caps, eos_token_id=60, pad_token_id=PAD, num_beams=num_beams)
    assert [answer.tokens for answer in got] == [stock(decoder, sequences[0], cap, 60, num_beams) for cap in caps]
    assert [len(answer.tokens) for answer in got] == caps
    assert {answer.stopped for answer in got} == {"length"}


@pytest.mark.parametrize("num_beams", [1, 3])
def test_sampling_and_penalties_of_the_checkpoint_are_set_aside(new_decoder, sequences, num_beams, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    decoder = new_decoder("qwen2")
    expected = generate(decoder, sequences, CAPS, eos_token_id=EOS, pad_token_id=PAD, num_beams=num_beams)
    own = GenerationConfig(
        do_sample=True,
        temperature=5.0,
        top_k=20,
        top_p=0.8,
        repetition_penalty=9.0,
        num_beams=2,
        length_penalty=-9.0,
        early_stopping=True,
        eos_token_id=[7, 2],
    )
    decoder.generation_config = own
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = generate(decoder, sequences, CAPS, eos_token_id=EOS, pad_token_id=PAD, num_beams=num_beams)
    assert got == expected
    assert not caplog.records
    assert decoder.generation_config is own
    with pytest.raises(RuntimeError):
        generate(decoder, [torch.zeros(3, 5)], [4], eos_token_id=EOS, pad_token_id=PAD, num_beams=num_beams)
    assert decoder.generation_config is own


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_loop_ends_its_row_only_and_spares_the_budget(new_decoder, num_beams):
    decoder, calls = echo(new_decoder("llama")), []
    decoder.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        rows = [decoder.get_input_embeddings()(torch.tensor(tokens)) for tokens in ([5, 9], [4, 3, EOS], [8])]
    got = generate(decoder, rows, [200, 200, 3], eos_token_id=EOS, pad_token_id=EOS, num_beams=num_beams)
    assert got == [
        Generated(tokens=[9] * LOOP_SPAN, stopped="loop"),
        Generated(tokens=[], stopped="eos"),
        Generated(tokens=[8] * 3, stopped="length"),
    ]
    # The worst of the beams may say another token first, and loop after.
    assert len(calls) <= (LOOP_SPAN if num_beams == 1 else 2 * LOOP_SPAN)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_loops_end_the_same_in_any_batch(new_decoder, sequences, num_beams):
    decoder, caps = new_decoder("gemma3"), [30, 14, 30, 25, 13, 30, 30]
    expected = [naive_beams(decoder, row, cap, EOS, num_beams) for row, cap in zip(sequences, caps, strict=True)]
    assert {"loop", "length"} <= {answer.stopped for answer in expected}
    for batch_size in (1, 3, 16):
        got = generate(
            decoder, sequences, caps, eos_token_id=EOS, pad_token_id=PAD, batch_size=batch_size, num_beams=num_beams
        )
        assert got == expected


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("size", [1, 2, 3, 5, LOOP_TOKENS])
def test_loops_of_several_tokens_end_too(new_decoder, sequences, size, num_beams):
    decoder, unit = new_decoder("llama"), list(range(10, 10 + size))
    steps = follow(decoder, unit)
    [got] = generate(decoder, sequences[:1], [200], eos_token_id=EOS, pad_token_id=PAD, num_beams=num_beams)
    assert got == Generated(tokens=unit * max(LOOP_REPEATS, LOOP_SPAN // size), stopped="loop")
    assert len(steps) < 200


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("said", [[7, 9, 9, 9, 9, 8], [5] * 6 + [4], [5, 6, 7] * 4 + [8], [5, 6, 7, 8] * 4 + [9]])
def test_what_people_repeat_survives(new_decoder, sequences, said, num_beams):
    decoder = new_decoder("llama")
    follow(decoder, [*said, EOS])
    [got] = generate(decoder, sequences[:1], [60], eos_token_id=EOS, pad_token_id=PAD, num_beams=num_beams)
    assert got == Generated(tokens=said, stopped="eos")


def test_decoding_stops_once_all_rows_have_ended(new_decoder, sequences):
    decoder, calls = new_decoder("llama"), []
    decoder.register_forward_hook(lambda *_: calls.append(1))
    eos = naive(decoder, sequences[2], 1, eos=-1).tokens[0]
    [answer] = generate(decoder, sequences[2:3], [200], eos_token_id=eos, pad_token_id=PAD)
    assert (answer, len(calls)) == (Generated(tokens=[], stopped="eos"), 1 + 1)  # and one by `naive`


@pytest.mark.parametrize("num_beams", [1, 3])
def test_bfloat16_runs(decoder, sequences, num_beams):
    rows = [row.bfloat16() for row in sequences]
    got = generate(decoder.bfloat16(), rows, CAPS, eos_token_id=EOS, pad_token_id=PAD, num_beams=num_beams)
    assert all(1 <= len(row.tokens) + (row.stopped == "eos") <= cap for row, cap in zip(got, CAPS, strict=True))
    assert all(0 <= token < 61 and token != EOS for row in got for token in row.tokens)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([], False),
        ([1] * 11, False),
        ([7] + [1] * 12, True),
        ([1] * 12 + [7], False),
        ([1, 2] * 5 + [1], False),
        ([5] + [1, 2] * 6, True),
        ([1, 2] * 5 + [1, 3], False),
        ([1, 2, 3] * 4, False),
        ([1, 2, 3] * 5, True),
        ([*range(16)] * 4, False),
        ([*range(16)] * 5, True),
        ([*range(17)] * 5, False),
    ],
)
def test_loops(tokens, expected):
    assert loops(tokens) is expected


def test_loops_are_what_a_regular_expression_finds():
    draw, found = torch.Generator().manual_seed(0), []
    for _ in range(2000):
        size, copies, before = (int(torch.randint(1, high, (), generator=draw)) for high in (19, 15, 4))
        unit = torch.randint(0, 3, (size,), generator=draw).tolist()
        tokens = torch.randint(0, 3, (before,), generator=draw).tolist() + unit * copies
        if copies % 3 == 0:
            tokens[-1 - before] += 1
        matches = (
            re.search(rf"(.{{{n}}})\1{{{max(LOOP_REPEATS, -(-LOOP_SPAN // n)) - 1}}}$", "".join(map(str, tokens)))
            for n in range(1, LOOP_TOKENS + 1)
        )
        found.append(any(matches))
        assert loops(tokens) is found[-1], tokens
    assert 500 < sum(found) < 1500


def test_no_rows_give_no_answers(new_decoder):
    assert generate(new_decoder("llama"), [], [], eos_token_id=EOS, pad_token_id=PAD) == []


def test_impossible_requests_are_refused(new_decoder, sequences):
    decoder = new_decoder("llama")
    with pytest.raises(OptionError, match="caps"):
        generate(decoder, sequences, CAPS[1:], eos_token_id=EOS, pad_token_id=PAD)
    with pytest.raises(OptionError, match="1 or more"):
        generate(decoder, sequences[:1], [0], eos_token_id=EOS, pad_token_id=PAD)
    with pytest.raises(OptionError, match="1 or more"):
        generate(decoder, sequences[:1], [3], eos_token_id=EOS, pad_token_id=PAD, batch_size=0)
    with pytest.raises(OptionError, match="beams is 1 or more, got 0: take 1"):
        generate(decoder, sequences[:1], [3], eos_token_id=EOS, pad_token_id=PAD, num_beams=0)
