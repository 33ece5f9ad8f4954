"""What is not finite stops a step before anything moves; what is frozen stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from run_files import SMALL_GAME
from torch import Tensor

from ganpo_core.assemble import assemble
from ganpo_core.checkpoint import gather_weights
from ganpo_core.config import load_run
from ganpo_core.errors import NotFiniteError, TrainingError
from ganpo_core.metrics import MetricSums
from ganpo_core.resume import load_state
from ganpo_core.run import Run
from ganpo_core.soundness import check_reference, check_weights
from ganpo_core.step import train_step
from ganpo_core.weights import bit_sums, fingerprint, frozen_weights, not_finite

MakeRun = Callable[..., dict[str, Any]]

QUEUE: dict[str, Any] = {"latents": {"use": "hidden_state"}, "divergence": {"use": "mmd", "queue": 6}}


def made(run_file: dict[str, Any]) -> Run:
    return assemble(load_run(run_file), Accelerator(cpu=True))


def everything(run: Run) -> dict[str, Tensor]:
    """All that a step may change."""
    found = {name: weight.detach().clone() for name, weight in run.models.trainable().items()}
    for regularizer in run.regularizers:
        found |= {f"adversary {name}": tensor.detach().clone() for name, tensor in regularizer.tensors().items()}
    for name, weight in run.models.trainable().items():
        found |= {f"optimizer {name} {key}": value.clone() for key, value in run.optimizer.state[weight].items()}
    return found


def assert_same(before: dict[str, Tensor], after: dict[str, Tensor]) -> None:
    assert before.keys() == after.keys()
    for name in before:
        torch.testing.assert_close(before[name], after[name], rtol=0, atol=0, equal_nan=True, msg=name)


@pytest.mark.parametrize("first_step", [0, 2])
@pytest.mark.parametrize(
    "adversary",
    [
        {"preset": "ganpo", "weight_warmup_ratio": 0},
        {"preset": "paper"},
        {"preset": "official"},
    ],
    ids=["simultaneous", "alternating", "legacy"],
)
@pytest.mark.parametrize("spoilt", ["policy", "critic", "mean"])
def test_a_stopped_step_moves_neither_policy_nor_critics(
    spoilt: str, adversary: dict[str, Any], first_step: int, tiny_run: MakeRun
) -> None:
    """Critics that move first are put back bit for bit, optimizer, norms, means and waiting gradients included."""
    training = {"learning_rate": 1e-3, "max_steps": 8, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    run = made(tiny_run(**SMALL_GAME, adversary=adversary, training=training))
    metrics = MetricSums(run.models.device)
    for step in range(first_step):
        train_step(run, run.window(step), step, metrics)
    (game,) = run.regularizers
    with torch.no_grad():
        if spoilt == "policy":
            run.models.policy.model.layers[1].mlp.down_proj.weight[2, 3] = torch.nan  # type: ignore[union-attr, index]
        elif spoilt == "critic":
            next(iter(game.modules().values())).get_parameter(
                next(name for name, _ in next(iter(game.modules().values())).named_parameters())
            ).view(-1)[0] = torch.inf
        else:
            means = game.baselines.means  # type: ignore[attr-defined]
            means.values_KG, means.started = torch.full_like(means.values_KG, torch.nan), True
    before = everything(run)
    with pytest.raises(NotFiniteError, match=rf"step {first_step + 1}: .*the policy was not updated, nor was anything else"):
        train_step(run, run.window(first_step), first_step, metrics)
    assert_same(before, everything(run))


def test_a_queue_that_is_not_finite_is_named(tiny_run: MakeRun) -> None:
    run = made(tiny_run(**QUEUE, adversary={"weight_warmup_ratio": 0}))
    metrics = MetricSums(run.models.device)
    train_step(run, run.window(0), 0, metrics)
    run.regularizers[0]._queues["chosen"][0, 0] = torch.nan  # type: ignore[attr-defined]
    before = everything(run)
    with pytest.raises(NotFiniteError) as caught:
        train_step(run, run.window(1), 1, metrics)
    assert "adversary queue of past latents" in caught.value.found
    assert_same(before, everything(run))


def test_a_step_waits_for_the_device_once(tiny_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way in which Python can ask for a tensor's value, counted over one step of a game with moving critics."""
    run = made(tiny_run(**SMALL_GAME, adversary={"preset": "paper"}))
    metrics = MetricSums(run.models.device)
    train_step(run, run.window(0), 0, metrics)
    waits: list[str] = []
    from_step = False

    def counted(name: str) -> Callable[..., Any]:
        original = getattr(Tensor, name)

        def call(self: Tensor, *arguments: Any, **options: Any) -> Any:
            if from_step and self.is_floating_point():
                waits.append(name)
            return original(self, *arguments, **options)

        return call

    window = run.window(1)
    for name in ("item", "tolist", "__float__", "__bool__"):
        monkeypatch.setattr(Tensor, name, counted(name))
    from_step = True
    train_step(run, window, 1, metrics)
    from_step = False
    # AdamW counts its steps in CPU tensors, which nobody waits for.
    assert [name for name in waits if name == "tolist"] == ["tolist"]
    assert len([name for name in waits if name in ("__float__", "__bool__")]) == 0


def test_the_wish_of_one_process_to_stop_comes_back(tiny_run: MakeRun) -> None:
    run = made(tiny_run())
    metrics = MetricSums(run.models.device)
    assert train_step(run, run.window(0), 0, metrics) == 0
    assert train_step(run, run.window(1), 1, metrics, stop=lambda: 15) == 15


def test_weights_that_no_row_reads_are_checked_too(tiny_run: MakeRun) -> None:
    run = made(tiny_run(**SMALL_GAME))
    check_weights(run)
    with torch.no_grad():
        run.models.policy.model.embed_tokens.weight[3, 0] = torch.inf  # type: ignore[union-attr, index]
    with pytest.raises(TrainingError, match=r"not finite: model\.embed_tokens\.weight; nothing was trained or saved"):
        check_weights(run)


@pytest.mark.parametrize("lora", [None, {"r": 2, "target_modules": ["q_proj"]}], ids=["full", "lora"])
def test_one_flipped_bit_of_the_reference_is_noticed(lora: dict[str, Any] | None, tiny_run: MakeRun) -> None:
    run = made(tiny_run(model={"path": tiny_run()["model"]["path"], "lora": lora}))
    metrics = MetricSums(run.models.device)
    train_step(run, run.window(0), 0, metrics)
    check_reference(run)
    model = run.models.policy if run.models.reference is None else run.models.reference
    name, weight = next((n, w) for n, w in model.named_parameters() if "down_proj" in n)
    with torch.no_grad():
        weight.view(torch.int32)[1, 1] ^= 1
    with pytest.raises(TrainingError, match=rf"the reference has changed during the run: (reference )?{name}"):
        check_reference(run)


def test_a_reference_that_follows_the_policy_may_change(tiny_run: MakeRun) -> None:
    training = {"max_steps": 3, "learning_rate": 1e-2, "sync_reference": {"every": 1}}
    run = made(tiny_run(training=training))
    train_step(run, run.window(0), 0, MetricSums(run.models.device))
    check_reference(run)


def test_bits_are_added_up_whatever_the_type() -> None:
    """int32 view of 1.0f is 0x3f800000 = 1065353216; of -0.0f the lowest integer, -2147483648."""
    ones = torch.ones(2)
    both = bit_sums([ones, torch.tensor([-0.0]), torch.tensor([1, 2], dtype=torch.uint8)])
    assert both is not None
    assert both.tolist() == [2 * 1065353216, -2147483648, 3]
    assert bit_sums([]) is None
    assert bit_sums([torch.ones(3, dtype=torch.bfloat16)]) is not None


def test_a_fingerprint_is_that_of_the_weights(tiny_run: MakeRun) -> None:
    first, second = made(tiny_run()), made(tiny_run())
    assert fingerprint(first.models, lambda sums: sums) == fingerprint(second.models, lambda sums: sums)
    with torch.no_grad():
        next(iter(second.models.reference.parameters())).view(-1)[0] += 1e-3  # type: ignore[union-attr]
    assert fingerprint(first.models, lambda sums: sums) != fingerprint(second.models, lambda sums: sums)


def test_large_finite_sums_are_not_called_infinite() -> None:
    assert not_finite({"large": torch.full((4,), 3e38), "none": torch.empty(0), "nan": torch.tensor([0.0, torch.nan])}) == ["nan"]
    assert not_finite({"both": torch.tensor([torch.inf, -torch.inf])}) == ["both"]


class _Shifted(torch.nn.Module):
    """A layer with a buffer of its own, as the routers of some models have."""

    def __init__(self, inner: torch.nn.Module, stored: bool) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("shift", torch.zeros(16), persistent=stored)

    def forward(self, states: Tensor) -> Tensor:
        found: Tensor = self.inner(states + self.shift)
        return found


def shifted(run: Run, stored: bool = True) -> Run:
    """The run with such a layer in policy and reference."""
    for model in (run.models.policy, run.models.reference):
        layer = model.model.layers[0]  # type: ignore[union-attr, index]
        layer.mlp = _Shifted(layer.mlp, stored)  # type: ignore[union-attr, arg-type]
    run.reference_sums = bit_sums(frozen_weights(run.models).values())
    return run


def test_a_buffer_that_the_files_hold_is_watched_as_weights_are(tiny_run: MakeRun) -> None:
    run = shifted(made(tiny_run()))
    before = fingerprint(run.models, lambda sums: sums)
    check_reference(run)
    run.models.reference.model.layers[0].mlp.shift[3] = 0.5  # type: ignore[union-attr, index]
    assert fingerprint(run.models, lambda sums: sums) != before
    with pytest.raises(TrainingError, match=r"the reference has changed during the run: reference model\.layers\.0\.mlp\.shift"):
        check_reference(run)
    run.models.policy.model.layers[0].mlp.shift[3] = torch.nan  # type: ignore[union-attr, index]
    with pytest.raises(TrainingError, match=r"weights that are not finite: model\.layers\.0\.mlp\.shift;"):
        check_weights(run)


def test_a_buffer_that_the_files_hold_is_saved_and_restored(tiny_run: MakeRun) -> None:
    run = shifted(made(tiny_run()))
    run.models.policy.model.layers[0].mlp.shift[3] = 0.25  # type: ignore[union-attr, index]
    saved = gather_weights(run)
    assert saved["policy"]["model.layers.0.mlp.shift"].tolist() == [0, 0, 0, 0.25, *[0] * 12]
    fresh = shifted(made(tiny_run()))
    load_state(fresh, saved, {"adversary": {}, "statistics": fresh.statistics.state()})
    assert float(fresh.models.policy.model.layers[0].mlp.shift[3]) == 0.25  # type: ignore[union-attr, index]


def test_what_a_model_computed_when_it_was_loaded_is_blamed_before_a_plugin(tiny_run: MakeRun) -> None:
    run = shifted(made(tiny_run()), stored=False)
    check_weights(run)
    run.models.policy.model.layers[0].mlp.shift[3] = torch.nan  # type: ignore[union-attr, index]
    check_weights(run)  # a mask may hold what is not finite
    told = r"Values that the model computed when it was loaded are not numbers: model\.layers\.0\.mlp\.shift\. "
    with pytest.raises(NotFiniteError, match=told):
        train_step(run, run.window(0), 3, MetricSums(run.models.device))


def test_sums_of_what_is_not_sharded_are_not_added_up_over_processes(tiny_run: MakeRun) -> None:
    run = shifted(made(tiny_run()))
    assert fingerprint(run.models, lambda sums: sums * 2) == fingerprint(run.models, lambda sums: sums)
