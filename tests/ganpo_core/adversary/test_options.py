"""Single options of the adversary, each against what it should do written out by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from ganpo_divergences import ganpo_divergences
from torch import Tensor
from torch.nn.functional import softplus

from ganpo_core.adversary import CriticGame
from ganpo_core.assemble import assemble
from ganpo_core.config import load_run
from ganpo_core.errors import ConfigError
from ganpo_core.metrics import MetricSums
from ganpo_core.run import Run
from ganpo_core.step import train_step

MakeRun = Callable[..., dict[str, Any]]

PAIRS = 4
DIRECT = sorted(name for name, cls in ganpo_divergences().items() if not cls.needs_critic)


@pytest.fixture
def make(tiny_run: MakeRun) -> Callable[..., Run]:
    """A float64 run of some steps; a game with a small critic unless other sections are given."""

    def run(steps: int = 3, **sections: Any) -> Run:
        written: dict[str, Any] = {
            "model": {"path": tiny_run()["model"]["path"], "dtype": "float64"},
            "latents": {"use": "hidden_state"},
            "divergence": {"use": "ragan"},
            "discriminator": {"use": "linear"},
            "training": {"learning_rate": 1e-2, "max_steps": steps, "per_device_train_batch_size": PAIRS},
            **sections,
        }
        return assemble(load_run(tiny_run(**written)), Accelerator(cpu=True))

    return run


def step(run: Run, index: int) -> dict[str, float]:
    """One optimizer step's metrics."""
    metrics = MetricSums(run.models.device)
    train_step(run, run.window(index), index, metrics)
    return metrics.means(run.sum_over_processes)


def last_states(model: Any, run: Run, index: int) -> tuple[Tensor, Tensor]:
    """A step's hidden states that the head reads, without ganpo's hooks, and the mask."""
    (batch,) = run.window(index)
    output = model(input_ids=batch.input_ids, attention_mask=batch.tokens.valid.long(), output_hidden_states=True)
    return output.hidden_states[-1], batch.tokens.valid


def pooled(states: Tensor, mask: Tensor) -> Tensor:
    return (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def norm_of_distinct(gradient: Tensor, prompts: Tensor) -> Tensor:
    """Of a gradient at states: chosen's and rejected's copies of the prompt are one state, whose gradient is their sum."""
    chosen, rejected = gradient.chunk(2)
    prompt = prompts[:PAIRS, :, None]
    shared = (chosen + rejected)[prompt.expand_as(chosen)]
    return torch.cat([shared, chosen[~prompt.expand_as(chosen)], rejected[~prompt.expand_as(rejected)]]).norm()


@pytest.mark.parametrize("name", DIRECT)
def test_direct_distances_are_exactly_at_rest_before_the_first_update(name: str, make: Callable[..., Run]) -> None:
    found = step(make(divergence={"use": name}, adversary={"weight_warmup_ratio": 0}), 0)
    assert found["adversary/penalty"] == 0.0
    assert found["adversary/gradient_ratio"] == 0.0


@pytest.mark.parametrize("form", ["feature_matching", "paired_score"])
@pytest.mark.parametrize("critic", [{"use": "transformer", "hidden_dim": 8, "num_heads": 2}, {"use": "mlp"}], ids=str)
def test_paired_forms_are_exactly_at_rest_before_the_first_update(
    critic: dict[str, Any], form: str, make: Callable[..., Run]
) -> None:
    found = step(make(discriminator=critic, adversary={"form": form, "weight_warmup_ratio": 0}), 0)
    assert found["adversary/penalty"] == 0.0
    assert found["adversary/gradient_ratio"] == 0.0


@pytest.mark.parametrize("weight", [1e-4, 50.0])
def test_grad_ratio_is_the_ratio_at_the_latents_and_only_lowers_the_weight(
    weight: float, make: Callable[..., Run]
) -> None:
    """scale = min(1, grad_ratio / (|weight * d penalty / dh| / |d objective / dh|)), settled by the step before."""
    options = {"weight": weight, "weight_mode": "grad_ratio", "grad_ratio": 0.02, "form": "non_saturating"}
    run = make(adversary={**options, "weight_warmup_ratio": 0})
    (game,) = run.regularizers
    assert isinstance(game, CriticGame)
    policy, reference = run.models.policy, run.models.reference
    (batch,) = run.window(0)
    states, mask = last_states(policy, run, 0)
    heads = [critic.module.head for critic in game.critics]  # type: ignore[union-attr]
    theirs = pooled(last_states(reference, run, 0)[0].detach(), mask)

    logps = (states @ policy.lm_head.weight.T).log_softmax(-1)  # type: ignore[operator, union-attr]
    tokens = logps[:, :-1].gather(-1, batch.input_ids[:, 1:, None]).squeeze(-1)
    sums = (tokens * batch.tokens.response[:, 1:]).sum(-1)
    margin = 0.1 * ((sums[:PAIRS] - sums[:PAIRS].detach()) - (sums[PAIRS:] - sums[PAIRS:].detach()))
    objective = softplus(-margin).mean()
    answers = []
    for index, head in enumerate(heads):
        rows = slice(index * PAIRS, (index + 1) * PAIRS)
        mine, anchor = head(pooled(states, mask)[rows])[:, 0], head(theirs[rows])[:, 0]
        answers.append(softplus(anchor.mean().detach() - mine).mean())
    prompts = batch.tokens.prompt
    pull = norm_of_distinct(torch.autograd.grad(weight * sum(answers) / 2, states, retain_graph=True)[0], prompts)
    push = norm_of_distinct(torch.autograd.grad(objective, states)[0], prompts)
    expected = float(pull / push)

    first = step(run, 0)
    assert first["adversary/gradient_ratio"] == pytest.approx(expected, rel=1e-9)
    assert first["adversary/weight"] == weight
    assert float(game.scale) == pytest.approx(min(1.0, 0.02 / expected), rel=1e-9)
    second = step(run, 1)
    assert second["adversary/weight"] == pytest.approx(weight * min(1.0, 0.02 / expected), rel=1e-9)


def test_step_every_moves_the_critics_on_every_second_step(make: Callable[..., Run]) -> None:
    run = make(adversary={"step_every": 2, "learning_rate": 0.1, "weight": 0.1})
    (game,) = run.regularizers
    weights = [{name: value.clone() for name, value in game.tensors().items() if "body" in name or "head" in name}]
    for index in range(3):
        step(run, index)
        weights.append({name: game.tensors()[name].clone() for name in weights[0]})
    moved = [any(not torch.equal(a[name], b[name]) for name in a) for a, b in itertools.pairwise(weights)]
    assert moved == [False, True, False]


def test_the_critics_schedule_counts_their_own_steps(make: Callable[..., Run]) -> None:
    """Ten steps, a move at every second: the rate falls on a line from 0.1, to 0 after five moves."""
    run = make(10, adversary={"step_every": 2, "learning_rate": 0.1, "lr_scheduler_type": "linear", "warmup_ratio": 0})
    (game,) = run.regularizers
    assert isinstance(game, CriticGame) and game.critics.optimizer is not None
    rates = []
    for index in range(10):
        step(run, index)
        rates.append(game.critics.optimizer.param_groups[0]["lr"])
    assert rates[1::2] == pytest.approx([0.1, 0.08, 0.06, 0.04, 0.02])


def test_the_full_form_refuses_micro_batches(make: Callable[..., Run]) -> None:
    """The policy's own mean is of all the step's scores."""
    training = {"learning_rate": 1e-2, "max_steps": 1, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    with pytest.raises(ConfigError, match=r"form: full differentiates .* set gradient_accumulation_steps: 1"):
        make(adversary={"form": "full"}, training=training)
    training |= {"gradient_accumulation_steps": 1, "max_tokens_per_batch": 64}
    with pytest.raises(ConfigError, match="form: full needs the whole step in one micro-batch"):
        make(adversary={"form": "full"}, training=training)


@pytest.mark.parametrize("detach", ["both", "policy"])
def test_means_detach_decides_whether_critics_learn_through_batch_means(detach: str, make: Callable[..., Run]) -> None:
    """The gradient of the critic's loss by its weights, with the baselines as constants or as functions of them."""
    adversary = {"means": "none", "means_detach": detach, "form": "non_saturating", "max_grad_norm": None}
    run = make(adversary={**adversary, "cross_weight": 0.0})
    (game,) = run.regularizers
    assert isinstance(game, CriticGame) and game.critics.optimizer is not None
    step(run, 0)  # afterwards policy and reference differ
    expected = []
    with torch.no_grad():
        states, mask = last_states(run.models.policy, run, 1)
        policy, anchor = pooled(states, mask), pooled(last_states(run.models.reference, run, 1)[0], mask)
    for index, critic in enumerate(game.critics):
        rows, head = slice(index * PAIRS, (index + 1) * PAIRS), critic.module.head  # type: ignore[union-attr]
        high, low = head(anchor[rows])[:, 0], head(policy[rows])[:, 0]  # type: ignore[operator]
        means = high.mean(), low.mean()
        m_high, m_low = means if detach == "policy" else (means[0].detach(), means[1].detach())
        loss = 0.25 * (softplus(m_low - high).mean() + softplus(low - m_high).mean())
        expected.append(torch.autograd.grad(loss, head.weight)[0])  # type: ignore[union-attr]
    found: list[Tensor] = []
    game.critics.optimizer.register_step_pre_hook(
        lambda *_: found.extend(critic.module.head.weight.grad.clone() for critic in game.critics)  # type: ignore[union-attr]
    )
    step(run, 1)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_what_is_logged_of_the_order_of_groups(make: Callable[..., Run]) -> None:
    """gap = s_O - s_T, gap_cross = s_T - s_X, overshoot = s_T - m_O; accuracies count the rows in order."""
    run = make(adversary={"form": "non_saturating", "means": "none"})
    (game,) = run.regularizers
    assert isinstance(game, CriticGame)
    step(run, 0)
    with torch.no_grad():
        states, mask = last_states(run.models.policy, run, 1)
        policy, anchor = pooled(states, mask), pooled(last_states(run.models.reference, run, 1)[0], mask)
        head = game.critics[0].module.head  # type: ignore[union-attr]
        own, mine = head(anchor[:PAIRS])[:, 0], head(policy[:PAIRS])[:, 0]  # type: ignore[operator]
        cross = head(anchor[PAIRS:])[:, 0]  # type: ignore[operator]
    found = step(run, 1)
    expected = {
        "gap": (own - mine).mean(),
        "gap_cross": (mine - cross).mean(),
        "overshoot": (mine - own.mean()).mean(),
        "accuracy": (own > mine).double().mean(),
        "accuracy_cross": (mine > cross).double().mean(),
    }
    for name, value in expected.items():
        assert found[f"adversary/chosen/{name}"] == pytest.approx(float(value), rel=1e-9, abs=1e-12)
    loss = found["adversary/chosen/critic_loss_own"]
    assert found["adversary/chosen/estimate"] == pytest.approx(2 * torch.tensor(2.0).log().item() - loss, rel=1e-6)


@pytest.mark.parametrize("divergence", ["mse", "ragan"])
def test_standardized_latents_have_the_references_mean_and_deviation(divergence: str, make: Callable[..., Run]) -> None:
    """Over the first pairs' valid positions: mean 0 and deviation 1 in every dimension; kept in checkpoints."""
    run = make(latents={"use": "hidden_state", "norm": "zscore"}, divergence={"use": divergence})
    (regularizer,) = run.regularizers
    assert regularizer.standard is not None
    states = []
    with torch.no_grad():
        for index in range(len(run.pairs)):
            batch = run.batch(run.pairs, [index])
            output = run.models.reference(  # type: ignore[misc]
                input_ids=batch.input_ids, attention_mask=batch.tokens.valid.long(), output_hidden_states=True
            )
            states.append(output.hidden_states[-1][batch.tokens.valid])
    together = torch.cat(states)
    torch.testing.assert_close(regularizer.standard.mean, together.mean(0), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(regularizer.standard.deviation, together.std(0, correction=0), rtol=1e-8, atol=1e-10)
    saved = {name: value.clone() for name, value in regularizer.tensors().items()}
    regularizer.standard = type(regularizer.standard)(saved["standard.mean"] + 1, saved["standard.deviation"])
    state = regularizer.state()
    regularizer.load(saved, state)
    assert torch.equal(regularizer.standard.mean, saved["standard.mean"])


def test_a_queue_keeps_the_latest_reference_rows_and_is_restored(make: Callable[..., Run]) -> None:
    run = make(divergence={"use": "energy", "queue": 6})
    (regularizer,) = run.regularizers
    wanted = []
    for index in range(3):
        with torch.no_grad():
            wanted.append(pooled(*last_states(run.models.reference, run, index))[:PAIRS])
        step(run, index)
    saved = regularizer.tensors()
    torch.testing.assert_close(saved["queue.chosen"], torch.cat(wanted)[-6:], rtol=1e-9, atol=1e-12)
    other = make(divergence={"use": "energy", "queue": 6})
    other.regularizers[0].load(saved, {})
    assert torch.equal(other.regularizers[0].tensors()["queue.rejected"], saved["queue.rejected"])
