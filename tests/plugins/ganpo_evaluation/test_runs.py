"""A finished run's policy, reference and discriminators: sampled from, matched in entropy, and asked for scores."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from ganpo_evaluation.critic import CriticJudge
from ganpo_evaluation.exchange import tokenize_exchange
from ganpo_evaluation.implicit_reward import ImplicitReward
from ganpo_evaluation.language_model import LanguageModel, load_language_model
from ganpo_evaluation.matching import match_entropy, read_sequences
from ganpo_evaluation.sampling import GumbelNoise, Sampling, generate, generate_with_vllm
from typer.testing import CliRunner

import ganpo_core
from ganpo_core import CheckpointError, ConfigError, GanpoError, Prompt
from ganpo_core.cli.main import make_app
from ganpo_core.testing import check_judge

PROMPTS: list[Prompt] = ["<bos> w1 w2", "<bos> w3", "<bos> w4 w5 w6 w7"]
SAMPLES = [(prompt, "w1 w2") for prompt in PROMPTS]


@pytest.fixture(scope="module")
def policy(run: Path) -> LanguageModel:
    return load_language_model(str(run))


def test_the_batch_size_does_not_change_what_is_drawn(policy: LanguageModel) -> None:
    together = generate(policy, PROMPTS, Sampling(1.0, seed=3, max_new_tokens=12, batch_size=3))
    apart = generate(policy, PROMPTS, Sampling(1.0, seed=3, max_new_tokens=12, batch_size=1))
    assert together == apart
    assert together != generate(policy, PROMPTS, Sampling(1.0, seed=4, max_new_tokens=12, batch_size=3))


def test_temperature_zero_is_the_likeliest_token(policy: LanguageModel) -> None:
    found = generate(policy, PROMPTS[:1], Sampling(0.0, max_new_tokens=1))
    ids = torch.tensor([policy.tokenizer(PROMPTS[0])["input_ids"]])
    wanted = policy.model(input_ids=ids).logits[0, -1].argmax().item()
    assert found == ["" if wanted == policy.tokenizer.eos_token_id else policy.tokenizer.decode([wanted])]


def test_noise_draws_from_the_softmax_at_a_temperature() -> None:
    """Logits 2 log 0.7, 2 log 0.3 at T = 2 are probabilities 0.7 and 0.3: met within 0.02 over 4000 draws."""
    noise = GumbelNoise(2.0, list(range(4000)), "cpu")
    logits = 2 * torch.tensor([0.7, 0.3]).log().expand(4000, 2)
    share = (noise(None, logits).argmax(-1) == 0).double().mean().item()
    assert share == pytest.approx(0.7, abs=0.02)


def test_vllm_is_refused_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(GanpoError, match=r"--engine vllm: vLLM does not import .*`pip install 'ganpo\[vllm\]'"):
        next(generate_with_vllm("model", PROMPTS, [Sampling()]))


def test_a_policy_matches_its_reference_at_the_temperature_that_scales_it(
    policy: LanguageModel, tiny_pairs: Path
) -> None:
    """Logits times 1.5 are as random at T = 1.5 as before at 1; a large vocabulary's passes are run again instead."""
    import copy

    sharper = LanguageModel("sharper", copy.deepcopy(policy.model), policy.tokenizer)
    with torch.no_grad():
        sharper.model.lm_head.weight.mul_(1.5)
    sequences = read_sequences(tiny_pairs, policy.tokenizer, 20, 64)
    found = match_entropy(sharper, policy, sequences)
    assert found.temperature == pytest.approx(1.5, rel=1e-4)
    assert found.entropy < found.reference_entropy
    assert found.sequences == 20


def test_matching_does_not_depend_on_what_is_kept(
    policy: LanguageModel, tiny_model: Path, tiny_pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ganpo_evaluation import matching

    reference, sequences = load_language_model(str(tiny_model)), read_sequences(tiny_pairs, policy.tokenizer, 10, 64)
    kept = match_entropy(policy, reference, sequences, batch_size=4)
    monkeypatch.setattr(matching, "MOST_KEPT", 0)
    again = match_entropy(policy, reference, sequences, batch_size=3)
    assert again.temperature == pytest.approx(kept.temperature, rel=1e-4)


@pytest.mark.parametrize("score", ["C+", "C+-C-", "relativistic"])
def test_discriminators_keep_the_contract_of_a_judge(run: Path, score: Any) -> None:
    check_judge(CriticJudge(str(run), score=score, batch_size=2), SAMPLES)


def test_a_discriminators_score_is_the_saved_modules_on_the_policys_latents(run: Path, policy: LanguageModel) -> None:
    """By hand: last hidden states of prompt, response and end through the loaded module."""
    from safetensors.torch import load_file

    from ganpo_core.adversary.critic import Critic

    prompt, response = PROMPTS[0], "w1 w2"
    ids, more = tokenize_exchange(policy.tokenizer, prompt, response)
    states = policy.model.model(input_ids=torch.tensor([ids + more])).last_hidden_state
    discriminator = ganpo_core.component("discriminator", "transformer", hidden_dim=8, num_heads=2)
    extractor = ganpo_core.component("latent_extractor", "hidden_state")
    critic = Critic(discriminator, extractor, 16, torch.float32)  # type: ignore[arg-type]
    critic.load_state_dict(load_file(run / "adversary" / "chosen.safetensors"))
    critic.set_dropout(False)
    wanted = critic(ganpo_core.Latents(states, torch.ones(1, states.shape[1], dtype=torch.bool))).scores.item()
    plain = CriticJudge(str(run)).build()([prompt], [response])
    assert plain == pytest.approx([wanted], abs=1e-5)
    means = load_file(run / "adversary" / "means.safetensors")["latent.means"]
    relative = CriticJudge(str(run), score="relativistic").build()([prompt], [response])
    assert relative == pytest.approx([wanted - means[0, 0].item()], abs=1e-5)
    assert CriticJudge(str(run), latents="reference").build()([prompt], [response]) != plain


def test_a_run_without_discriminators_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no discriminators"):
        CriticJudge(str(tmp_path)).build()
    (tmp_path / "run.yaml").write_text("model: {path: x}\n")
    with pytest.raises(ConfigError, match="a run without a policy"):
        load_language_model(str(tmp_path))


def test_the_implicit_reward_is_the_log_ratio(run: Path, policy: LanguageModel, tiny_model: Path) -> None:
    """Token by token, from both models' own softmax."""
    check_judge(ImplicitReward(str(run), batch_size=2), SAMPLES)
    ids, more = tokenize_exchange(policy.tokenizer, PROMPTS[0], "w1 w2")

    def logp(model: Any) -> float:
        logps = model(input_ids=torch.tensor([ids + more])).logits.log_softmax(-1)[0]
        return sum(logps[len(ids) - 1 + place, token].item() for place, token in enumerate(more))

    reference = load_language_model(str(tiny_model)).model
    found = ImplicitReward(str(run)).build()([PROMPTS[0]], ["w1 w2"])
    assert found == pytest.approx([logp(policy.model) - logp(reference)], abs=1e-4)
    mean = ImplicitReward(str(run), kind="mean_logp").build()([PROMPTS[0]], ["w1 w2"])
    assert mean == pytest.approx([logp(policy.model) / len(more)], abs=1e-4)


def test_generate_and_score_from_the_command_line(run: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"instruction": prompt, "dataset": "d"}) + "\n" for prompt in PROMPTS))
    call, app = CliRunner(), make_app()
    found = call.invoke(
        app,
        ["generate", str(run), "--prompts", str(prompts), "--output", str(tmp_path / "out.json"), "--temperatures", "0,1",
         "--match-entropy", "--max-new-tokens", "8"],
        catch_exceptions=False,
    )
    assert found.exit_code == 0, found.output
    rows = json.loads((tmp_path / "out_Tmatched.json").read_text())
    assert [set(row) for row in rows] == [{"instruction", "output", "generator", "dataset"}] * 3
    assert rows[0]["generator"] == "ganpo_Tmatched"
    assert {path.name for path in tmp_path.iterdir()} == {"prompts.jsonl", "out_T0.json", "out_T1.json", "out_Tmatched.json"}
    found = call.invoke(
        app,
        ["score", str(run), "--responses", str(tmp_path / "out_T1.json"), "--output", str(tmp_path / "scores.jsonl"),
         "--with", "latents=reference"],
        catch_exceptions=False,
    )
    assert found.exit_code == 0, found.output
    scores = [json.loads(line)["score"] for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert len(set(scores)) == 3


def test_a_chat_is_split_where_the_answer_begins(reward_folder: Path) -> None:
    """`<user> w1 <model> ` then `w2 `: 3 5+1 4, and 5+2."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(reward_folder)
    assert tokenize_exchange(tokenizer, [{"role": "user", "content": "w1"}], "w2") == ([3, 6, 4], [7])


def test_a_prompt_that_is_too_long_loses_its_beginning(policy: LanguageModel) -> None:
    from ganpo_evaluation.sampling import encode

    words = [f"w{random.Random(0).randrange(20)}"] * 100
    assert len(encode(policy, " ".join(words), 10)) == 54  # of a context of 64
    with pytest.raises(ConfigError, match="64 leaves no room for a prompt"):
        encode(policy, " ".join(words), 64)
