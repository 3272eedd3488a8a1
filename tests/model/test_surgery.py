from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Gemma3nTextConfig, SmolLM3Config

from slamlab.errors import ModelError
from slamlab.model.slam import left_pad
from slamlab.model.surgery import LayerBlock, decoder_layers, original_index, receiving_layer, skipping, without

BLOCKS = [LayerBlock(0, 1), LayerBlock(0, 2), LayerBlock(1, 1), LayerBlock(1, 2), LayerBlock(2, 1)]


def blocks_of(decoder):
    last = len(decoder_layers(decoder))
    return [*BLOCKS, LayerBlock(last - 1, 1), LayerBlock(last - 2, 2), LayerBlock(1, last - 1)]


@torch.no_grad()
def logits(decoder, sequences, **options):
    inputs, mask = left_pad(sequences)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return decoder(inputs_embeds=inputs, attention_mask=mask, position_ids=positions, **options).logits


@torch.no_grad()
def greedy(decoder, sequences, use_cache, num_tokens=8):
    inputs, mask = left_pad(sequences)
    return decoder.generate(
        inputs_embeds=inputs,
        attention_mask=mask,
        max_new_tokens=num_tokens,
        min_new_tokens=num_tokens,
        do_sample=False,
        use_cache=use_cache,
    )


def test_an_empty_block_gives_an_equal_copy(decoder, sequences):
    pruned = without(decoder, LayerBlock(1, 0))
    assert torch.equal(logits(pruned, sequences), logits(decoder, sequences))
    assert pruned.config.to_dict() == decoder.config.to_dict()
    assert pruned.get_input_embeddings().weight.data_ptr() != decoder.get_input_embeddings().weight.data_ptr()


def test_the_given_model_stays_as_it_was(decoder, sequences):
    before, config = logits(decoder, sequences), decoder.config.to_dict()
    layers, generation = list(decoder_layers(decoder)), decoder.generation_config.to_dict()
    pruned = without(decoder, LayerBlock(0, 2))
    with torch.no_grad():
        for weight in pruned.parameters():
            weight.zero_()
    assert torch.equal(logits(decoder, sequences), before)
    assert decoder.config.to_dict() == config
    assert all(a is b for a, b in zip(decoder_layers(decoder), layers, strict=True))
    assert pruned.generation_config.to_dict() == generation == decoder.generation_config.to_dict()


class Uncopiable:
    def __deepcopy__(self, memo):
        raise MemoryError("copied")


def test_the_removed_layers_are_not_copied(decoder):
    decoder_layers(decoder)[1].tag = Uncopiable()
    without(decoder, LayerBlock(1, 1))
    with pytest.raises(MemoryError):
        without(decoder, LayerBlock(0, 1))


def test_a_failed_copy_leaves_the_model_whole(decoder, monkeypatch):
    layers = decoder_layers(decoder)
    monkeypatch.setattr(copy, "deepcopy", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        without(decoder, LayerBlock(0, 1))
    assert decoder_layers(decoder) is layers


def test_without_equals_skipping(decoder, sequences):
    for block in blocks_of(decoder):
        with skipping(decoder, block):
            expected = logits(decoder, sequences, use_cache=False)
        assert torch.equal(logits(without(decoder, block), sequences, use_cache=False), expected), block


def test_skipping_ends(decoder, sequences):
    before = logits(decoder, sequences)
    with skipping(decoder, LayerBlock(1, 2)):
        assert not torch.allclose(logits(decoder, sequences, use_cache=False), before, atol=1e-2)
    assert torch.equal(logits(decoder, sequences), before)


def test_cached_generation_equals_uncached(decoder, sequences):
    for block in blocks_of(decoder):
        pruned = without(decoder, block)
        assert torch.equal(greedy(pruned, sequences, True), greedy(pruned, sequences, False)), block


def test_save_and_load_give_the_same_depth_and_logits(decoder, sequences, tmp_path):
    for block in blocks_of(decoder):
        pruned = without(decoder, block)
        pruned.save_pretrained(tmp_path / str(block.start) / str(block.depth))
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / str(block.start) / str(block.depth)).eval()
        assert loaded.config.num_hidden_layers == len(decoder_layers(loaded)) == len(decoder_layers(pruned))
        assert torch.equal(logits(loaded, sequences), logits(pruned, sequences)), block
        assert torch.equal(greedy(loaded, sequences, True), greedy(pruned, sequences, True)), block


def test_blocks_can_be_removed_one_after_the_other(decoder, sequences):
    twice = without(without(decoder, LayerBlock(1, 1)), LayerBlock(1, 1))
    once = without(decoder, LayerBlock(1, 2))
    assert torch.equal(logits(twice, sequences), logits(once, sequences))
    assert twice.config.to_dict() == once.config.to_dict()


def test_what_is_listed_by_layer_follows(new_decoder):
    config = without(new_decoder("qwen2_sliding"), LayerBlock(1, 2)).config
    assert (config.num_hidden_layers, config.max_window_layers) == (2, 1)
    assert config.layer_types == ["full_attention", "sliding_attention"]
    pruned = without(new_decoder("qwen2_sliding"), LayerBlock(2, 2))
    assert not pruned.model.has_sliding_layers and pruned.config.max_window_layers == 2


def test_hidden_states_captured_before_do_not_linger(decoder, sequences):
    logits(decoder, sequences, output_hidden_states=True)
    pruned = without(decoder, LayerBlock(1, 1))
    inputs, mask = left_pad(sequences)
    states = pruned(inputs_embeds=inputs, attention_mask=mask, output_hidden_states=True).hidden_states
    assert len(states) == len(decoder_layers(pruned)) + 1


def test_layers_without_positions_keep_them_off(tmp_path):
    config = SmolLM3Config(
        num_hidden_layers=4, hidden_size=32, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=61, no_rope_layers=[1, 0, 1, 1], pad_token_id=0,
    )  # fmt: skip
    pruned = without(AutoModelForCausalLM.from_config(config), LayerBlock(0, 1))
    assert pruned.config.no_rope_layers == [0, 1, 1]
    pruned.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert [layer.self_attn.use_rope for layer in decoder_layers(loaded)] == [0, 1, 1]


def test_beneath_peft(new_decoder, sequences):
    decoder = new_decoder("qwen2_sliding")
    expected = logits(without(decoder, LayerBlock(1, 2)), sequences)
    adapted = get_peft_model(decoder, LoraConfig(r=2, target_modules=["up_proj"], task_type="CAUSAL_LM"))
    assert decoder_layers(adapted) is adapted.base_model.model.model.layers
    pruned = without(adapted.eval(), LayerBlock(1, 2))
    assert torch.equal(logits(pruned, sequences), expected)
    assert torch.equal(logits(pruned.merge_and_unload(), sequences), expected)
    assert len(decoder_layers(adapted)) == 4


def test_layers_that_share_keys_and_values_are_refused():
    config = Gemma3nTextConfig(
        num_hidden_layers=4, hidden_size=32, intermediate_size=[48] * 4, num_attention_heads=2, num_key_value_heads=1,
        head_dim=8, vocab_size=61, vocab_size_per_layer_input=61, hidden_size_per_layer_input=8,
        num_kv_shared_layers=2, laurel_rank=4, activation_sparsity_pattern=[0.0] * 4,
        layer_types=["full_attention"] * 4,
    )  # fmt: skip
    with pytest.raises(ModelError, match="reuse the keys and values"):
        decoder_layers(AutoModelForCausalLM.from_config(config))


def test_what_is_no_decoder_is_refused():
    with pytest.raises(ModelError, match="transformers model"):
        decoder_layers(torch.nn.Linear(2, 2))


def test_layers_that_the_configuration_would_not_build_again_are_refused(decoder):
    decoder_layers(decoder)[-1].self_attn.head_dim = 7
    with pytest.raises(ModelError, match="head_dim 7"):
        without(decoder, LayerBlock(0, 1))


@pytest.mark.parametrize(("start", "depth"), [(0, 4), (3, 2), (4, 1)])
def test_blocks_that_do_not_fit_are_refused(new_decoder, start, depth):
    decoder = new_decoder("llama")
    with pytest.raises(ModelError):
        without(decoder, LayerBlock(start, depth))
    with pytest.raises(ModelError), skipping(decoder, LayerBlock(start, depth)):
        pass


@pytest.mark.parametrize(("start", "depth"), [(-1, 2), (0, -1)])
def test_negative_blocks_are_refused(start, depth):
    with pytest.raises(ModelError):
        LayerBlock(start, depth)


def test_a_block_knows_its_end_and_fraction():
    assert LayerBlock(3, 4).stop == 7
    assert LayerBlock(3, 7).fraction(28) == 0.25


@pytest.mark.parametrize(
    ("start", "depth", "before", "after"), [(2, 3, 1, 2), (0, 3, 0, 0), (7, 3, 6, 6), (1, 8, 0, 1), (9, 1, 8, 8)]
)
def test_receiving_layer(start, depth, before, after):
    block = LayerBlock(start, depth)
    assert receiving_layer(block, 10) == receiving_layer(block, 10, "before") == before
    assert receiving_layer(block, 10, "after") == after


@pytest.mark.parametrize("block", BLOCKS)
def test_a_layer_of_the_pruned_decoder_is_found_in_the_whole_one(decoder, block):
    whole, pruned = decoder_layers(decoder), decoder_layers(without(decoder, block))
    for index, layer in enumerate(pruned):
        same = dict(whole[original_index(index, block)].named_parameters())
        assert all(torch.equal(weight, same[name]) for name, weight in layer.named_parameters())


def test_receiving_layer_wants_a_side():
    with pytest.raises(ModelError, match="before or after"):
        receiving_layer(LayerBlock(1, 1), 4, "middle")
