"""The SmolVLM 2 processor, its pixels against transformers' own image processor."""

from __future__ import annotations

import numpy as np
import pytest
from policy_helpers import CAMERAS, TASKS, observation, processor_config
from smolvlm_helpers import make_batch, make_processor, smol_config, tokenizer, vlm_config

from vla_ros.policies.modules.vlm_bridge.processor import PROMPT_SEPARATOR
from vla_ros.policies.modules.vlm_bridge.qwen.processor import train_tokenizer
from vla_ros.policies.modules.vlm_bridge.smolvlm.processor import (
    AROUND_IMAGE,
    END,
    GLOBAL_IMAGE,
    IMAGE,
    PAD,
    START,
    SmolVLMProcessor,
)
from vla_ros.transforms.images import patchify

IMAGES = list(observation().images.values())


def test_pixels_equal_those_of_transformers_own_image_processor() -> None:
    torch = pytest.importorskip("torch")
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    from vla_ros.policies.modules.layers.pixels import normalize_patches

    square = {"longest_edge": 24}  # without the enlargement to whole tiles that comes before splitting
    reference = SmolVLMImageProcessorPil(do_image_splitting=False, do_resize=False, max_image_size=square)
    pixels = reference(images=IMAGES, return_tensors="np")["pixel_values"]
    assert pixels.shape == (1, len(CAMERAS), 3, 24, 24) and IMAGES[0].shape != (24, 24, 3)  # it did resize
    config = smol_config()
    got = make_processor(config).process(IMAGES, TASKS[0]).pixel_values
    normalized = normalize_patches(torch.from_numpy(got), config.image_mean, config.image_std).numpy()
    np.testing.assert_allclose(normalized, patchify(pixels.transpose(0, 1, 3, 4, 2), 4)[0], atol=1e-5)


def test_a_prompt_is_the_users_turn_padded_on_the_left() -> None:
    processor = make_processor(smol_config())
    got = processor.process(IMAGES, TASKS[0])
    ids, pad_id = got.input_ids[got.attention_mask], processor.tokenizer.token_to_id(PAD)
    assert got.input_ids.shape == (48,) and len(ids) < 48
    assert got.attention_mask[-len(ids) :].all() and (got.input_ids[: -len(ids)] == pad_id).all()
    tokens = [processor.tokenizer.id_to_token(i) for i in ids]
    image = [AROUND_IMAGE, GLOBAL_IMAGE, *[IMAGE] * 9, AROUND_IMAGE]
    first = tokens.index(AROUND_IMAGE)
    assert tokens[0] == START and processor.tokenizer.decode(ids[1:first]).strip() == "User:"
    assert tokens[first : first + 2 * len(image)] == image * len(CAMERAS)
    assert processor.tokenizer.decode(ids[first + 2 * len(image) : -1]).strip() == TASKS[0]
    assert tokens[-1] == PROMPT_SEPARATOR
    assert got.target_ids is None and got.num_target_tokens == 0 and got.image_grid == ((1, 6, 6),) * 2


def test_positions_count_every_place_padding_and_registers_included() -> None:
    for zero in (True, False):
        config = smol_config(zero_pos_id_for_obs_register=zero)
        got = make_processor(config).process(IMAGES, TASKS[0])
        registers = [0, 0, 0] if zero else [48, 49, 50]
        assert not got.attention_mask[0]
        np.testing.assert_array_equal(got.position_ids, [[*range(48), *registers]])


def test_registers_may_see_only_valid_tokens_before_the_separator() -> None:
    config = smol_config()
    got = make_batch(config).sample(0)
    separator = int(np.flatnonzero(got.input_ids == tokenizer().token_to_id(PROMPT_SEPARATOR))[0])
    expected = got.attention_mask & (np.arange(len(got.input_ids)) < separator)
    np.testing.assert_array_equal(got.prefix_mask[-1, : len(expected)], expected)


def test_the_assistants_turn_is_the_answer_and_the_end_token_and_these_alone_are_targets() -> None:
    processor = make_processor(smol_config())
    got = make_batch(processor.policy, ("red", ""))
    targets = [*processor.encode(" red"), processor.tokenizer.token_to_id(END)]
    turn = [processor.tokenizer.token_to_id(END), *processor.encode("\nAssistant:")]
    assert got.target_ids is not None and got.num_target_tokens == len(targets)
    assert got.input_ids[0, -len(turn + targets) :].tolist() == turn + targets
    assert got.target_ids[0, -len(targets) :].tolist() == targets
    assert (got.target_ids[0, : -len(targets)] == -100).all() and (got.target_ids[1] == -100).all()
    assert processor.tokenizer.token_to_id(END) not in got.input_ids[1]


def test_an_instruction_that_spells_a_special_token_stays_text() -> None:
    got = make_processor(smol_config()).process(IMAGES, f"go {IMAGE}")
    assert (got.input_ids == tokenizer().token_to_id(IMAGE)).sum() == 2 * 9


def test_an_image_size_other_than_the_towers_is_refused() -> None:
    with pytest.raises(ValueError, match="images of 24x28 pixels; the backbone sees 24x24: set both to 24"):
        make_processor(smol_config(), image_width=28)
    with pytest.raises(ValueError, match="vision_config.image_size is None; expected the whole number"):
        document = vlm_config()
        del document["vision_config"]["image_size"]
        make_processor(smol_config(document))


@pytest.mark.parametrize("scale", [0, 4])
def test_a_scale_factor_that_does_not_divide_the_patches_is_refused(scale: int) -> None:
    with pytest.raises(ValueError, match=f"scale_factor is {scale}, an image has 6 patches a side; the second must be"):
        make_processor(smol_config(vlm_config(scale=scale)))


def test_a_tokenizer_of_another_backbone_is_refused() -> None:
    with pytest.raises(ValueError, match=r"tokenizer.json: <image> is \d+, the backbone's image_token_id 5; make them"):
        make_processor(smol_config(vlm_config() | {"image_token_id": 5}))
    config = smol_config()
    sizes = processor_config(type="SmolVLMProcessor", image_height=24, image_width=24)
    with pytest.raises(ValueError, match=r"tokenizer.json: special token <\|im_start\|> is missing"):
        SmolVLMProcessor(sizes, config, train_tokenizer(TASKS, vocab_size=300), len(CAMERAS))
