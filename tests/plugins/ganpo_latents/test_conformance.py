"""Every built-in extractor keeps its contract; a new one is found here by itself."""

from __future__ import annotations

import pytest
from ganpo_latents import ganpo_latent_extractors
from ganpo_latents.hidden_state import HiddenState
from ganpo_latents.pooled import Pooled

from ganpo_core.testing import check_extractor


@pytest.mark.parametrize("name", sorted(ganpo_latent_extractors()))
def test_extractor_keeps_its_contract(name: str) -> None:
    check_extractor(ganpo_latent_extractors()[name]())


@pytest.mark.parametrize("positions", ["all", "response", "prompt"])
@pytest.mark.parametrize("norm", ["none", "rms", "layer"])
@pytest.mark.parametrize("layer", [0, 0.5, (1, -1)])
def test_extractor_keeps_its_contract_with_other_options(layer: object, norm: object, positions: object) -> None:
    check_extractor(HiddenState(layer=layer, norm=norm, positions=positions))  # type: ignore[arg-type]
    for pool in ("mean", "last_token"):
        check_extractor(Pooled(layer=layer, norm=norm, positions=positions, pool=pool))  # type: ignore[arg-type]
