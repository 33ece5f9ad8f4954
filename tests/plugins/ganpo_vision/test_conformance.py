"""Every extractor of what models see keeps its contract, and reads what it says, by hand."""

from __future__ import annotations

import pytest
import torch
from ganpo_vision import ganpo_latent_extractors
from ganpo_vision.cross_modal import CrossModal
from ganpo_vision.image_path import Projector, VisionTower
from ganpo_vision.positions import ImagePositions, TextPositions

from ganpo_core import ImageFeatures, Layer, TokenMap
from ganpo_core.testing import check_extractor

TOKENS = TokenMap(
    valid=torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool(),
    prompt=torch.tensor([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]).bool(),
    response=torch.tensor([[0, 0, 0, 1, 1], [0, 1, 1, 0, 0]]).bool(),
    image=torch.tensor([[0, 1, 1, 0, 0], [0, 0, 0, 0, 0]]).bool(),
)
"""A row with an image at its second and third token, and a row without."""
STATES = torch.arange(10.0).view(2, 5, 1)


@pytest.mark.parametrize("name", sorted(ganpo_latent_extractors()))
def test_extractor_keeps_its_contract(name: str) -> None:
    check_extractor(ganpo_latent_extractors()[name]())


@pytest.mark.parametrize("positions", ["all", "response", "prompt"])
@pytest.mark.parametrize("layer", [0, 0.5, -2])
def test_extractor_keeps_its_contract_with_other_options(layer: float, positions: object) -> None:
    check_extractor(TextPositions(layer=layer, positions=positions))  # type: ignore[arg-type]
    check_extractor(CrossModal(layer=layer, positions=positions))  # type: ignore[arg-type]
    check_extractor(ImagePositions(layer=layer))


def test_text_and_image_share_out_the_valid_positions() -> None:
    text, image = TextPositions().selected(TOKENS), ImagePositions().selected(TOKENS)
    assert torch.equal(text | image, TOKENS.valid) and not (text & image).any()
    assert TextPositions(positions="prompt").selected(TOKENS).int().tolist() == [[1, 0, 0, 0, 0], [1, 0, 0, 0, 0]]
    without = TokenMap(TOKENS.valid, TOKENS.prompt, TOKENS.response)
    assert torch.equal(TextPositions().selected(without), TOKENS.valid)
    assert not ImagePositions().selected(without).any()


def test_cross_modal_is_two_means_side_by_side() -> None:
    """Response tokens hold 3 and 4, image tokens 1 and 2: (3.5, 1.5). With the whole prompt, text is (0 + 3 + 4) / 3."""
    found = CrossModal().extract({Layer(-1): STATES}, TOKENS)
    assert found.states[0, 0].tolist() == [3.5, 1.5]
    assert found.mask.tolist() == [[True], [False]]
    every = CrossModal(positions="all").extract({Layer(-1): STATES}, TOKENS)
    assert every.states[0, 0].tolist() == pytest.approx([7 / 3, 1.5])


@pytest.mark.parametrize(("extractor", "part"), [(VisionTower(), "tower"), (Projector(), "projector")])
def test_the_image_path_is_read_at_image_tokens(extractor: VisionTower | Projector, part: str) -> None:
    (source,) = extractor.sources(torch.nn.Module())
    assert source == ImageFeatures(part)  # type: ignore[arg-type]
    found = extractor.extract({source: STATES}, TOKENS)
    assert found.states[found.mask].flatten().tolist() == [1.0, 2.0]


def test_sides_share_latents_of_images_alone() -> None:
    shared = {name for name, kind in ganpo_latent_extractors().items() if kind.shared_by_sides}
    assert shared == {"image_positions", "vision_tower", "projector"}
