"""The PaliGemma processor, against transformers' own where transformers has one."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from paligemma_helpers import (
    ANSWERS,
    PLACES,
    QUESTIONS,
    TOLERANCE,
    VOCAB_SIZE,
    make_processor,
    make_tokenizer,
    paligemma_config,
    tokenizer_json,
    vlm_config,
)
from policy_helpers import CAMERAS, TASKS, observation
from tokenizers import Tokenizer, models

from vla_ros.policies.modules.vlm_bridge.inputs import PolicyInput
from vla_ros.policies.modules.vlm_bridge.paligemma.processor import BEGIN, END, IMAGE, PAD, PaliGemmaProcessor
from vla_ros.policies.modules.vlm_bridge.processor import PROMPT_SEPARATOR
from vla_ros.transforms.images import patchify

IMAGES = list(observation().images.values())
NUM_IMAGE_TOKENS = 16


def test_pixels_equal_those_of_transformers_own_image_processor() -> None:
    torch = pytest.importorskip("torch")
    from vla_ros.policies.modules.layers.pixels import normalize_patches

    config = paligemma_config()
    assert IMAGES[0].shape[:2] != (16, 16)  # it does resize
    expected = image_processor()(images=IMAGES, return_tensors="np")["pixel_values"]
    got = make_processor(config).process(IMAGES, TASKS[0])
    normalized = normalize_patches(torch.from_numpy(got.pixel_values), config.image_mean, config.image_std).numpy()
    np.testing.assert_allclose(normalized, patchify(expected[None].transpose(0, 1, 3, 4, 2), 4)[0], atol=TOLERANCE)
    assert got.pixel_values.dtype == np.uint8 and got.image_grid == ((1, 4, 4),) * len(CAMERAS)


def test_a_prompt_is_the_one_transformers_own_processor_makes() -> None:
    pytest.importorskip("torch")
    from transformers import PaliGemmaProcessor as Reference
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=make_tokenizer(), pad_token=PAD, bos_token=BEGIN, eos_token=END, padding_side="right"
    )
    reference = Reference(image_processor(), tokenizer)
    texts = [
        f"{IMAGE * len(CAMERAS)}{task}{PROMPT_SEPARATOR}{question}"
        for task, question in zip(TASKS, QUESTIONS, strict=True)
    ]
    expected = reference(
        images=[IMAGES, IMAGES],
        text=texts,
        suffix=list(ANSWERS),
        padding="max_length",
        max_length=64,
        return_tensors="np",
    )
    got = batch_of(make_processor(paligemma_config()))
    np.testing.assert_array_equal(got.input_ids, expected["input_ids"])
    np.testing.assert_array_equal(got.attention_mask, expected["attention_mask"].astype(bool))
    assert got.target_ids is not None
    np.testing.assert_array_equal(got.target_ids, np.where(got.attention_mask, expected["labels"], -100))


def test_a_prompt_is_images_task_separator_and_line_break_and_is_padded_on_the_right() -> None:
    processor = make_processor(paligemma_config())
    got = processor.process(IMAGES, TASKS[0])
    num_valid = int(got.attention_mask.sum())
    assert got.input_ids.shape == (64,) and got.attention_mask[:num_valid].all()
    tokens = [processor.tokenizer.id_to_token(i) for i in got.input_ids]
    num_images = NUM_IMAGE_TOKENS * len(CAMERAS)
    assert tokens[: num_images + 1] == [IMAGE] * num_images + [BEGIN]
    separator = tokens.index(PROMPT_SEPARATOR)
    assert "".join(tokens[num_images + 1 : separator]).replace("Ġ", " ") == TASKS[0]
    assert got.input_ids[separator + 1 : num_valid].tolist() == processor.encode("\n")
    assert set(tokens[num_valid:]) == {PAD}
    assert got.target_ids is None and got.num_target_tokens == 0


def test_positions_count_valid_tokens_from_1_and_registers_go_on_from_there() -> None:
    got = batch_of(make_processor(paligemma_config(zero_pos_id_for_obs_register=False)))
    for mask, positions in zip(got.attention_mask, got.position_ids[:, 0], strict=True):
        num_valid = mask.sum()
        assert positions[: len(mask)][mask].tolist() == list(range(1, num_valid + 1))
        assert positions[len(mask) :].tolist() == [num_valid + 1, num_valid + 2, num_valid + 3]
    zeros = batch_of(make_processor(paligemma_config()))
    assert not zeros.position_ids[:, :, -3:].any()


def test_registers_may_see_only_valid_tokens_before_the_separator() -> None:
    processor = make_processor(paligemma_config())
    got = batch_of(processor)
    for ids, mask in zip(got.input_ids, got.prefix_mask, strict=True):
        separator = ids.tolist().index(processor.tokenizer.token_to_id(PROMPT_SEPARATOR))
        np.testing.assert_array_equal(mask[-1, : len(ids)], np.arange(len(ids)) < separator)
        assert mask[-1, len(ids) :].all()


def test_targets_are_the_answer_and_the_end_token_alone() -> None:
    processor = make_processor(paligemma_config())
    got = processor.make_batch(resized(processor), TASKS, QUESTIONS, (ANSWERS[0], ""))
    answer = [processor.tokenizer.token_to_id(token) for token in (*PLACES[:2], END)]
    assert got.target_ids is not None
    end = int(got.attention_mask[0].sum())
    assert got.target_ids[0, end - 3 : end].tolist() == answer == got.input_ids[0, end - 3 : end].tolist()
    assert (got.target_ids != -100).sum() == 3 and got.num_target_tokens == 64 - (end - 3)


def test_an_instruction_that_spells_a_special_token_stays_text() -> None:
    got = make_processor(paligemma_config()).process(IMAGES, f"go {IMAGE}")
    assert (got.input_ids == VOCAB_SIZE - 1).sum() == NUM_IMAGE_TOKENS * len(CAMERAS)


def test_the_image_token_may_lie_beyond_the_embeddings_and_be_unknown_to_the_tokenizer() -> None:
    document = vlm_config(vocab_size=VOCAB_SIZE - 1)
    expected = batch_of(make_processor(paligemma_config()))
    stored = json.loads(tokenizer_json())
    stored["added_tokens"] = [token for token in stored["added_tokens"] if token["content"] != IMAGE]
    for tokenizer in (make_tokenizer(), Tokenizer.from_str(json.dumps(stored))):
        got = batch_of(make_processor(paligemma_config(document=document), tokenizer))
        np.testing.assert_array_equal(got.input_ids, expected.input_ids)
    with pytest.raises(ValueError, match="290 tokens, the backbone has 288"):
        make_processor(paligemma_config(document={**vlm_config(vocab_size=288), "image_token_index": 280}))


def test_either_name_of_the_image_token_is_read() -> None:
    document = vlm_config()
    document["image_token_id"] = document.pop("image_token_index")
    batch_of(make_processor(paligemma_config(document=document)))
    del document["image_token_id"]
    with pytest.raises(ValueError, match="policy.vlm_config.image_token_index is None"):
        make_processor(paligemma_config(document=document))


def test_a_tokenizer_that_does_not_fit_the_backbone_is_refused() -> None:
    with pytest.raises(ValueError, match="tokenizer.json: <image> is 289, the backbone's image_token_index 5; make"):
        make_processor(paligemma_config(document=vlm_config() | {"image_token_index": 5}))
    with pytest.raises(ValueError, match="special token <pad> is missing"):
        make_processor(paligemma_config(), Tokenizer(models.BPE()))


@pytest.mark.parametrize("size", [{"image_height": 20}, {"image_height": 20, "image_width": 20}])
def test_images_of_another_size_than_the_position_table_are_refused(size: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"images of 20x\d+ pixels; the backbone sees 16x16: set both to 16"):
        make_processor(paligemma_config(), **size)


def test_the_image_size_that_releases_leave_out_is_224() -> None:
    document = vlm_config()
    del document["vision_config"]["image_size"]
    with pytest.raises(ValueError, match="the backbone sees 224x224"):
        make_processor(paligemma_config(document=document))


def test_a_bucket_beyond_the_sliding_window_is_refused() -> None:
    document = vlm_config("gemma2", sliding_window=98)
    with pytest.raises(ValueError, match="make 99 positions; the backbone attends to 98 of them: use smaller buckets"):
        make_processor(paligemma_config(document=document))
    make_processor(paligemma_config(document=vlm_config("gemma2", sliding_window=99)))
    make_processor(paligemma_config(document=vlm_config("gemma2", sliding_window=None)))
    del document["text_config"]["sliding_window"]
    with pytest.raises(ValueError, match="make 4103 positions; the backbone attends to 4096"):
        make_processor(paligemma_config(document=document), buckets=(64, 4100))


def image_processor() -> Any:
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    size = {"height": 16, "width": 16}
    processor = SiglipImageProcessorPil(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    processor.image_seq_length = NUM_IMAGE_TOKENS
    return processor


def resized(processor: PaliGemmaProcessor) -> np.ndarray:
    return np.stack([np.stack([processor.resize_image(processor.config, image) for image in IMAGES])] * 2)


def batch_of(processor: PaliGemmaProcessor) -> PolicyInput:
    return processor.make_batch(resized(processor), TASKS, QUESTIONS, ANSWERS)
