"""The Qwen3-VL processor, against transformers' own where transformers has one."""

from __future__ import annotations

import numpy as np
import pytest
from policy_helpers import CAMERAS, TASKS, make_processor, observation, pi_config, processor_config, vlm_config

from vla_ros.policies.modules.vlm_bridge.processor import PROMPT_SEPARATOR
from vla_ros.policies.modules.vlm_bridge.qwen.processor import (
    END,
    IMAGE_PAD,
    QwenProcessor,
    train_tokenizer,
)

IMAGES = list(observation().images.values())


@pytest.mark.parametrize("merge", [1, 2])
def test_pixels_equal_those_of_transformers_own_image_processor(merge: int) -> None:
    torch = pytest.importorskip("torch")
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    from vla_ros.policies.modules.layers.pixels import normalize_patches

    mean, std = (0.48, 0.45, 0.4), (0.27, 0.26, 0.275)
    reference = Qwen2VLImageProcessorPil(
        patch_size=4,
        temporal_patch_size=2,
        merge_size=merge,
        size={"shortest_edge": 200, "longest_edge": 400},
        image_mean=mean,
        image_std=std,
    )
    expected = reference(images=IMAGES, return_tensors="np")
    _, rows, cols = expected["image_grid_thw"][0].tolist()
    assert (4 * rows, 4 * cols) != IMAGES[0].shape[:2]  # it did resize
    processor = make_processor(pi_config(vlm_config=vlm_config(merge)), image_height=4 * rows, image_width=4 * cols)
    got = processor.process(IMAGES, TASKS[0])
    assert [list(grid) for grid in got.image_grid] == expected["image_grid_thw"].tolist()
    normalized = normalize_patches(torch.from_numpy(got.pixel_values), mean, std).numpy()
    twice = np.repeat(normalized.reshape(-1, 3, 1, 16), 2, axis=2).reshape(len(normalized), -1)
    np.testing.assert_allclose(twice, expected["pixel_values"], atol=1e-5)


@pytest.mark.parametrize("merge", [1, 2])
def test_position_ids_equal_those_of_transformers(merge: int) -> None:
    torch = pytest.importorskip("torch")
    from transformers import Qwen3VLModel

    from vla_ros.policies.modules.vlm_bridge.qwen.bridge import build_config

    document = vlm_config(merge)
    got = make_processor(pi_config(vlm_config=document)).process(IMAGES, TASKS[1])
    ids, mask = (torch.from_numpy(x)[None] for x in (got.input_ids, got.attention_mask))
    expected, _ = Qwen3VLModel(build_config(document)).get_rope_index(
        ids, (ids == 4).int(), image_grid_thw=torch.tensor(got.image_grid), attention_mask=mask.long()
    )
    valid = got.attention_mask
    np.testing.assert_array_equal(got.position_ids[:, : len(valid)][:, valid], expected[:, 0].numpy()[:, valid])


def test_a_prompt_is_images_task_separator_and_is_padded_on_the_left_to_the_smallest_bucket() -> None:
    processor = make_processor(pi_config())
    got = processor.process(IMAGES, TASKS[0])
    assert got.input_ids.shape == (48,)
    ids = got.input_ids[got.attention_mask]
    assert got.attention_mask[-len(ids) :].all() and not got.attention_mask[: -len(ids)].any()
    tokens = [processor.tokenizer.id_to_token(i) for i in ids]
    image = ["<|vision_start|>", *[IMAGE_PAD] * 16, "<|vision_end|>"]
    assert tokens[: 2 * len(image)] == image * len(CAMERAS)
    assert processor.tokenizer.decode(ids[2 * len(image) : -1]).strip() == TASKS[0]
    assert tokens[-1] == PROMPT_SEPARATOR
    assert got.target_ids is None and got.num_target_tokens == 0


def test_registers_may_see_only_valid_tokens_before_the_separator() -> None:
    processor = make_processor(pi_config())
    got = processor.make_batch(images_of(processor), TASKS[:1], ("where is it?",), ("<loc001>",)).sample(0)
    separator = int(np.flatnonzero(got.input_ids == processor.tokenizer.token_to_id(PROMPT_SEPARATOR))[0])
    expected = got.attention_mask & (np.arange(len(got.input_ids)) < separator)
    np.testing.assert_array_equal(got.prefix_mask[-1, : len(expected)], expected)


def test_targets_are_the_answer_and_the_end_token_alone() -> None:
    processor = make_processor(pi_config())
    images = np.repeat(images_of(processor), 2, axis=0)
    got = processor.make_batch(images, TASKS, ("where?", "where?"), ("<loc001><loc042>", ""))
    ids = [processor.tokenizer.token_to_id(token) for token in ("<loc001>", "<loc042>", END)]
    assert got.target_ids is not None and got.num_target_tokens == 3
    assert got.target_ids[0, -3:].tolist() == ids and got.input_ids[0, -3:].tolist() == ids
    assert (got.target_ids[0, :-3] == -100).all() and (got.target_ids[1] == -100).all()


def test_with_a_chat_tokenizer_the_prompt_is_the_users_turn_and_the_answer_the_assistants() -> None:
    tokenizer = train_tokenizer((*TASKS, "user\n", "assistant\n"), vocab_size=399)
    tokenizer.add_special_tokens(["<|im_start|>"])
    config = pi_config()
    processor = QwenProcessor(processor_config(), config, tokenizer, len(CAMERAS))
    got = processor.make_batch(images_of(processor), TASKS[:1], ("where?",), ("there",)).sample(0)
    ids = got.input_ids[got.attention_mask]
    text = tokenizer.decode(ids, skip_special_tokens=False).replace(IMAGE_PAD, "")
    assert text.replace(" ", "") == (
        "<|im_start|>user\n<|vision_start|><|vision_end|><|vision_start|><|vision_end|>touchtheredblock"
        f"{PROMPT_SEPARATOR}where?<|im_end|>\n<|im_start|>assistant\nthere<|im_end|>"
    )
    positions = got.position_ids[0, : len(got.input_ids)][got.attention_mask]
    assert positions[:2].tolist() == [0, 1] and (np.diff(positions) >= 0).all()


def test_an_instruction_that_spells_a_special_token_stays_text() -> None:
    got = make_processor(pi_config()).process(IMAGES, f"go {IMAGE_PAD}")
    assert (got.input_ids == 4).sum() == 2 * 16


def test_words_the_tokenizer_never_saw_are_encoded() -> None:
    tokenizer = train_tokenizer(TASKS)
    text = " ¿dónde está the xylophone? 青"
    assert tokenizer.decode(tokenizer.encode(text).ids).strip() == text.strip()


@pytest.mark.parametrize("task", ["", "  "])
def test_an_empty_task_is_refused(task: str) -> None:
    with pytest.raises(ValueError, match="the task is empty"):
        make_processor(pi_config()).process(IMAGES, task)


def test_a_prompt_beyond_the_largest_bucket_is_refused_with_the_numbers() -> None:
    with pytest.raises(ValueError, match=r"the prompt has \d+ tokens; the largest bucket is 72"):
        make_processor(pi_config()).process(IMAGES, "touch the red block " * 30)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((32, 24, 3), np.uint8),
        np.zeros((24, 32), np.uint8),
        np.zeros((24, 32, 4), np.uint8),
        np.zeros((24, 32, 3), np.float32),
    ],
)
def test_an_image_of_another_size_channels_or_type_is_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"image is .*; expected uint8 \[24, 32, 3\]"):
        make_processor(pi_config()).process([image, image], TASKS[0])


def test_a_tokenizer_that_does_not_fit_the_backbone_is_refused() -> None:
    document = vlm_config() | {"image_token_id": 5}
    with pytest.raises(ValueError, match=r"tokenizer.json: <\|image_pad\|> is 4, the backbone's image_token_id 5"):
        make_processor(pi_config(vlm_config=document))
    with pytest.raises(ValueError, match="tokens, the backbone has 100"):
        make_processor(pi_config(vlm_config=vlm_config(vocab_size=100)))


def test_images_that_are_no_multiple_of_the_patch_are_refused() -> None:
    with pytest.raises(ValueError, match="images of 18x16 pixels; height and width must be multiples of 4"):
        make_processor(pi_config(), image_height=18)


def images_of(processor: QwenProcessor) -> np.ndarray:
    return np.stack([processor.resize_image(processor.config, image) for image in IMAGES])[None]
