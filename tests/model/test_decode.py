from __future__ import annotations

import logging
import warnings

import pytest
import torch
from transformers import GenerationConfig

from slamlab.errors import OptionError
from slamlab.model.decode import Generated, generate, loops

EOS, PAD = 2, 0
CAPS = [12, 7, 12, 1, 9, 12, 10]


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


def common_token(decoder, sequences):
    """A token that some row says in mid-answer: taken as the end token, that row ends early."""
    answers = [naive(decoder, row, cap, eos=-1).tokens for row, cap in zip(sequences, CAPS, strict=True)]
    longest = max(answers, key=len)
    return longest[len(longest) // 2]


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_equals_the_uncached_loop_in_any_batch(decoder, sequences, batch_size):
    eos = common_token(decoder, sequences)
    expected = [naive(decoder, row, cap, eos) for row, cap in zip(sequences, CAPS, strict=True)]
    got = generate(decoder, sequences, CAPS, eos_token_id=eos, pad_token_id=PAD, batch_size=batch_size)
    assert got == expected
    assert "eos" in {row.stopped for row in got} and "length" in {row.stopped for row in got}
    assert all(len(row.tokens) <= cap for row, cap in zip(got, CAPS, strict=True))


def test_results_follow_the_callers_order(decoder, sequences):
    order = [3, 0, 6, 5, 1, 4, 2]
    straight = generate(decoder, sequences, CAPS, eos_token_id=EOS, pad_token_id=PAD, batch_size=3)
    shuffled = generate(
        decoder,
        [sequences[i] for i in order],
        [CAPS[i] for i in order],
        eos_token_id=EOS,
        pad_token_id=EOS,
        batch_size=3,
    )
    assert shuffled == [straight[i] for i in order]


def test_equals_plain_generate_one_by_one(decoder, sequences):
    eos = common_token(decoder, sequences)
    got = generate(decoder, sequences, CAPS, eos_token_id=eos, pad_token_id=PAD)
    for row, cap, answer in zip(sequences, CAPS, got, strict=True):
        plain = decoder.generate(
            inputs_embeds=row[None],
            attention_mask=torch.ones(1, len(row), dtype=torch.long),
            max_new_tokens=cap,
            do_sample=False,
            eos_token_id=eos,
            pad_token_id=PAD,
        )[0].tolist()
        if answer.stopped == "loop":
            plain = plain[: len(answer.tokens)]
        assert answer.tokens == (plain[: plain.index(eos)] if eos in plain else plain)


def test_sampling_and_penalties_of_the_checkpoint_are_set_aside(new_decoder, sequences, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    decoder = new_decoder("qwen2")
    expected = generate(decoder, sequences, CAPS, eos_token_id=EOS, pad_token_id=PAD)
    own = GenerationConfig(
        do_sample=True, temperature=5.0, top_k=20, top_p=0.8, repetition_penalty=9.0, num_beams=2, eos_token_id=[7, 2]
    )
    decoder.generation_config = own
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert generate(decoder, sequences, CAPS, eos_token_id=EOS, pad_token_id=PAD) == expected
    assert not caplog.records
    assert decoder.generation_config is own


def test_a_loop_ends_its_row_only(new_decoder, sequences):
    decoder = new_decoder("llama")
    with torch.no_grad():
        for layer in decoder.model.layers:  # a decoder that says again what it last heard
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        decoder.lm_head.weight.copy_(decoder.get_input_embeddings().weight)
        rows = [decoder.get_input_embeddings()(torch.tensor(tokens)) for tokens in ([5, 9], [4, 3, EOS], [8])]
    got = generate(decoder, rows, [30, 30, 3], eos_token_id=EOS, pad_token_id=EOS)
    assert got == [
        Generated(tokens=[9] * 4, stopped="loop"),
        Generated(tokens=[], stopped="eos"),
        Generated(tokens=[8] * 3, stopped="length"),
    ]


def test_decoding_stops_once_all_rows_have_ended(new_decoder, sequences):
    decoder, calls = new_decoder("llama"), []
    decoder.register_forward_hook(lambda *_: calls.append(1))
    eos = naive(decoder, sequences[2], 1, eos=-1).tokens[0]
    [answer] = generate(decoder, sequences[2:3], [200], eos_token_id=eos, pad_token_id=PAD)
    assert (answer, len(calls)) == (Generated(tokens=[], stopped="eos"), 1 + 1)  # and one by `naive`


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([], False),
        ([1, 1, 1], False),
        ([7, 1, 1, 1, 1], True),
        ([1, 1, 1, 1, 7], False),
        ([1, 2] * 3 + [1], False),
        ([5] + [1, 2] * 4, True),
        ([1, 2] * 3 + [1, 3], False),
        (list(range(8)) * 4, True),
        (list(range(9)) * 4, False),
    ],
)
def test_loops(tokens, expected):
    assert loops(tokens) is expected


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
