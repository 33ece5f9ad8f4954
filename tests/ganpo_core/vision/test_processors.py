"""Processors as models come with them: without what reads videos, and with what they say of tokens."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoConfig, ProcessorMixin
from transformers.models.smolvlm import processing_smolvlm
from vision_families import FAMILIES, UNLISTED, save_family, write_rows

from ganpo_core.config import DataConfig, ModelConfig
from ganpo_core.data import load_pairs
from ganpo_core.data.processor import ImagePairTokenizer
from ganpo_core.errors import ConfigError
from ganpo_core.models import load_processor
from ganpo_core.vision import NO_VIDEO, image_token_id, without_video


class VideoFirst(ProcessorMixin):  # type: ignore[misc]
    """Hands its parts on in an order of its own, as some do, and asks what reads videos for its settings."""

    def __init__(self, video_processor: Any, image_processor: Any, tokenizer: Any) -> None:
        super().__init__(video_processor, image_processor, tokenizer)


def test_what_reads_videos_is_left_out_wherever_it_stands() -> None:
    whole, _ = FAMILIES["llava"][0]()
    kind = without_video(VideoFirst)
    assert kind.get_attributes() == ["image_processor", "tokenizer"]
    made = kind.from_args_and_dict([whole.image_processor, whole.tokenizer], {})
    assert made.image_processor is whole.image_processor and made.tokenizer is whole.tokenizer
    assert made.video_processor is NO_VIDEO and made.video_processor.fps is None


def test_smolvlm_is_read_with_its_own_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As saved; where the package is missing that it wants for videos, the error says which."""
    config = ModelConfig(path=str(save_family("smolvlm", tmp_path)))
    found = load_processor(config)
    assert type(found).__name__ == "SmolVLMProcessor" and AutoConfig.from_pretrained(tmp_path).model_type == "smolvlm"
    monkeypatch.setattr(processing_smolvlm, "num2words", None)
    with pytest.raises(ConfigError, match=r"no processor in .* `num2words` is required"):
        load_processor(config)


@pytest.mark.parametrize(("name", "types"), [
    ("llava", {}), ("smolvlm", {}), ("qwen2_5_vl", {"mm_token_type_ids": "image"}), ("gemma3", {"token_type_ids": "image"}),
    ("paligemma", {"token_type_ids": "response"}),
])
def test_token_types_are_those_that_the_processor_gives(name: str, types: dict[str, str]) -> None:
    processor, _ = FAMILIES[name][0]()
    assert ImagePairTokenizer(processor).token_types == types


def test_marks_that_are_not_known_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    processor, _ = FAMILIES["gemma3"][0]()
    monkeypatch.setattr(type(processor), "create_mm_token_type_ids", lambda _self, ids: [[1] * len(row) for row in ids])
    with pytest.raises(ConfigError, match="token_type_ids of Gemma3Processor mark neither the tokens of images nor those of"):
        ImagePairTokenizer(processor)


def test_a_processor_that_fails_on_an_image_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    processor, _ = FAMILIES["llava"][0]()

    def fail(*_: object, **__: object) -> None:
        raise AttributeError("no such thing")

    monkeypatch.setattr(type(processor.image_processor), "__call__", fail)
    with pytest.raises(ConfigError, match="LlavaProcessor cannot read an image of 64 x 64 pixels: AttributeError: no such"):
        ImagePairTokenizer(processor)


def test_a_processor_without_a_token_for_images_is_refused() -> None:
    with pytest.raises(ConfigError, match="SimpleNamespace names no token that stands for images"):
        image_token_id(SimpleNamespace(image_token_ids=[None], image_token="<image>"))


def test_the_token_of_images_is_the_models_where_the_processor_is_named_after_another(tmp_path: Path) -> None:
    """Ovis 2, whose image is 4 tokens and one around them on each side at least."""
    processor = load_processor(ModelConfig(path=str(save_family("ovis2", tmp_path / "model"))))
    assert processor is not None and "ovis2" in UNLISTED
    atom = processor.tokenizer.convert_tokens_to_ids("<IMG_ATOM>")
    assert image_token_id(processor) == atom != processor.image_token_id
    pairs, _ = load_pairs(DataConfig(path=str(write_rows(tmp_path, (0, 1, 3)))), processor.tokenizer, processor)
    assert [pair.prompt.count(atom) for pair in pairs] == [0, 4, 12]
    assert all(pair.images is not None and pair.images.image_token_id == atom for pair in pairs)
