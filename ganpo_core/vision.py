"""Models that see: which they are, what of them sees, and which weights belong to which part.

Nothing here names a family: what differs between them comes from transformers' configurations and processors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ganpo_core.errors import ConfigError, first_line

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn

TOKEN_TYPES = ("token_type_ids", "mm_token_type_ids")
"""What processors call their marks of single tokens."""
OF_TEXT = frozenset({"input_ids", "attention_mask", "labels", *TOKEN_TYPES})
"""What a processor makes of text; everything else is of images."""
IN_TENSORS: dict[str, Any] = {"images_kwargs": {"return_tensors": "pt"}}
"""Options of a processor: tensors of images, lists of tokens."""
BLANK = 64
"""Pixels of a side of the image that models and processors are tried with."""


def sees(config: Any) -> bool:
    """Whether a configuration is that of a model that reads images and text."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    return type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and config.get_text_config() is not config


def load_processor(path: str, revision: str | None, config: Any, trust_remote_code: bool = False) -> Any:
    """The processor of a model that sees. Raises ConfigError where there is none."""
    from transformers import AutoProcessor
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise ConfigError("model.path: a model that sees needs pillow; install it with `pip install 'ganpo[vision]'`") from error
    try:
        try:
            processor = AutoProcessor.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
        except (ImportError, OSError):
            # Reading videos needs torchvision and a file of its own; reading images needs neither.
            if type(config) not in PROCESSOR_MAPPING:
                raise
            processor = without_video(PROCESSOR_MAPPING[type(config)]).from_pretrained(path, revision=revision)
    except (OSError, ValueError, ImportError, TypeError, KeyError) as error:
        reason = first_line(error)
        raise ConfigError(f"model.path: no processor in '{path}' for the model's images: {reason}") from error
    if getattr(processor, "image_processor", None) is None or getattr(processor, "tokenizer", None) is None:
        raise ConfigError(f"model.path: the processor of '{path}' reads no images")
    own = image_token_id(processor)
    asked = getattr(config, "image_token_id", own)
    # Some processors are named after what the user writes for an image, and put in another token.
    if asked != own and asked in tried(processor)["input_ids"][0]:
        processor.image_token_ids = [asked]
    return processor


NO_VIDEO = SimpleNamespace(num_frames=None, fps=None)
"""In the place of what reads videos; some chat templates are given its settings, whether there is a video or not."""


def without_video(kind: Any) -> Any:
    """A class of processors that does without what reads videos: NO_VIDEO stands for it."""
    from transformers import ProcessorMixin

    class Seeing(ProcessorMixin):  # type: ignore[misc]
        """Between `kind` and ProcessorMixin, whose constructor is handed every part by name or in order."""

        video_processor = NO_VIDEO

        def __init__(self, *parts: Any, **named: Any) -> None:
            kept = {name: part for name, part in named.items() if part is not NO_VIDEO}
            super().__init__(*(part for part in parts if part is not NO_VIDEO), **kept)

        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in super().get_attributes() if "video" not in name]

        @classmethod
        def from_args_and_dict(cls, args: Any, processor_dict: dict[str, Any], **named: Any) -> Any:
            loaded = iter(args)
            parts = [NO_VIDEO if "video" in name else next(loaded) for name in super().get_attributes()]
            return super().from_args_and_dict(parts, processor_dict, **named)

    return type(kind.__name__, (kind, Seeing), {"__module__": kind.__module__})


def image_token_id(processor: Any) -> int:
    """The token that stands for a piece of an image; those around it, where a processor names them too, come after.

    Raises ConfigError for a processor without such a token.
    """
    found = next((token for token in processor.image_token_ids if token is not None), None)
    if found is None or not getattr(processor, "image_token", None):
        raise ConfigError(
            f"model.path: {type(processor).__name__} names no token that stands for images in the text, and models that take "
            "their images in another way are not trained here"
        )
    return int(found)


def blank_image() -> Image:
    """An image to try a processor or a model with."""
    from PIL import Image

    # Not quite grey: what is normalized to 0 is padding to some models.
    return Image.new("RGB", (BLANK, BLANK), (200, 100, 50))


def blank_pixels(processor: Any) -> dict[str, Tensor]:
    """What a processor makes of one image."""
    return pixels(processor, processor.image_token, [blank_image()])


def tried(processor: Any, **options: Any) -> Any:
    """What a processor makes of a prompt that is one image. Raises ConfigError where it makes nothing."""
    try:
        return processor(text=[processor.image_token], images=[[blank_image()]], **IN_TENSORS, **options)
    except Exception as error:  # of any kind: processors are programs
        raise ConfigError(
            f"model.path: {type(processor).__name__} cannot read an image of {BLANK} x {BLANK} pixels: "
            f"{type(error).__name__}: {error}"
        ) from error


def pixels(processor: Any, text: str, images: Sequence[Any]) -> dict[str, Tensor]:
    """What a model is given of the images of one prompt."""
    import torch

    made = processor(text=[text], images=[list(images)], **IN_TENSORS)
    return {name: value for name, value in made.items() if name not in OF_TEXT and isinstance(value, torch.Tensor)}


def image_model(base: nn.Module) -> Any:
    """The module whose forward pass makes image features. Raises ConfigError for a model that has none."""
    inner: Any = getattr(base, "base_model", base)
    for found in (inner, base):
        if hasattr(found, "get_image_features"):
            return found
    raise ConfigError(f"latents: {type(base).__name__} has no get_image_features; use a module path")


def part_names(base: Any, pixels: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """The names of the weights of `language_model`, `vision_tower` and `projector`, in this order.

    The tower is what its last states depend on for an image (`pixels`, as the processor makes them), the projector the
    rest of what is not the language model.
    """
    import torch

    sighted = seeing_weights(base)
    seeing = {name: weight for name, weight in base.named_parameters() if id(weight) in sighted}
    asked = [(name, weight) for name, weight in seeing.items() if weight.requires_grad and weight.is_floating_point()]
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        states = image_features(base, pixels).last_hidden_state
        found = torch.autograd.grad(states.sum(), [weight for _, weight in asked], allow_unused=True)
    tower = {name for (name, _), gradient in zip(asked, found, strict=True) if gradient is not None}
    return {
        "language_model": [name for name, weight in base.named_parameters() if id(weight) not in sighted],
        "vision_tower": [name for name in seeing if name in tower],
        "projector": [name for name in seeing if name not in tower],
    }


def seeing_weights(base: Any) -> set[int]:
    """The `id` of every weight that is not the language model's."""
    language = {id(weight) for module in _language(base) for weight in module.parameters()}
    return {id(weight) for weight in base.parameters()} - language


def image_features(base: Any, pixels: Mapping[str, Tensor]) -> Any:
    """What the model makes of images by themselves."""
    weight = next(base.parameters())
    inner = image_model(base)
    given = {name: value.to(weight.device) for name, value in pixels.items()}
    given = {name: value.to(weight.dtype) if value.is_floating_point() else value for name, value in given.items()}
    taken = _defaults(base, given)
    return inner.get_image_features(**taken)


def _defaults(base: Any, given: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of `get_image_features`, where configurations hold some of them."""
    from inspect import signature

    parameters = signature(image_model(base).get_image_features).parameters
    taken: dict[str, Any] = {name: value for name, value in given.items() if name in parameters}
    for name in parameters:
        if name not in taken and getattr(base.config, name, None) is not None:
            taken[name] = getattr(base.config, name)
    return taken


def _language(base: Any) -> list[nn.Module]:
    found = [base.get_decoder(), base.get_input_embeddings(), base.get_output_embeddings()]
    return [module for module in found if module is not None]
