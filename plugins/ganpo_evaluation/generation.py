"""`ganpo generate`: responses of a policy to a file of prompts, in AlpacaEval's format."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ganpo_evaluation.sampling import Sampling

app = typer.Typer()


@app.command()
def generate(
    run: Annotated[str, typer.Argument(help="A run's folder, a model's folder, or a name on the hub.")],
    prompts: Annotated[Path, typer.Option(help="A JSON, JSONL or text file of prompts, such as AlpacaEval's 805.")],
    output: Annotated[
        Path, typer.Option(dir_okay=False, help="The file that the responses go to; with several temperatures, one each.")
    ],
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token.")] = 0.7,
    temperatures: Annotated[str | None, typer.Option(help="Several instead, such as 0,0.5,1.")] = None,
    match_entropy: Annotated[
        bool, typer.Option("--match-entropy", help="Also at the temperature that gives the reference's entropy at T = 1.")
    ] = False,
    reference: Annotated[str | None, typer.Option(help="Of --match-entropy; default: the run's.")] = None,
    entropy_data: Annotated[
        Path | None, typer.Option(help="Of --match-entropy: preference pairs; default: the run's held-out, or its own.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many prompts.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Each prompt draws from a stream of its own.")] = 0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Of a response.")] = 512,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts at a time; changes speed, not the draw.")] = 16,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    engine: Annotated[str, typer.Option(help="transformers or vllm.")] = "transformers",
    name: Annotated[str | None, typer.Option(help="`generator` of the rows; default: the folder's name.")] = None,
) -> None:
    """Write a policy's responses, at one temperature or several, as AlpacaEval reads them."""
    from ganpo_evaluation.language_model import load_language_model, policy_folder
    from ganpo_evaluation.sampling import generate as generate_responses
    from ganpo_evaluation.sampling import generate_with_vllm
    from ganpo_evaluation.texts import Answer, read_prompts, write_answers

    if engine not in ("transformers", "vllm"):
        raise typer.BadParameter("--engine: transformers or vllm")
    if dtype not in ("float32", "bfloat16"):
        raise typer.BadParameter("--dtype: float32 or bfloat16")
    asked = read_prompts(prompts)[:limit]
    texts = [prompt for prompt, _ in asked]
    levels = parse_temperatures(str(temperature) if temperatures is None else temperatures)
    labels = [f"{level:g}" for level in levels]
    if match_entropy:
        levels.append(matched_temperature(run, reference, entropy_data))
        labels.append("matched")
        print(f"matched temperature: {levels[-1]:.4f}")
    sampling = Sampling(seed=seed, max_new_tokens=max_new_tokens, batch_size=batch_size)
    samplings = [replace(sampling, temperature=level) for level in levels]
    if engine == "vllm":
        batches = generate_with_vllm(policy_folder(run), texts, samplings)
    else:
        policy = load_language_model(run, "bfloat16" if dtype == "bfloat16" else "float32")
        batches = (generate_responses(policy, texts, each) for each in samplings)
    generator = name or (Path(run).resolve().name if Path(run).exists() else run)
    for label, responses in zip(labels, batches, strict=True):
        own = generator if len(labels) == 1 else f"{generator}_T{label}"
        path = output if len(labels) == 1 else output.with_name(f"{output.stem}_T{label}{output.suffix or '.json'}")
        write_answers(
            [Answer(prompt, text, own, source) for (prompt, source), text in zip(asked, responses, strict=True)], path
        )
        print(f"written: {path} ({len(responses)} responses)")


def parse_temperatures(text: str) -> list[float]:
    """`0,0.5,1` as numbers, none below 0."""
    try:
        found = [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise typer.BadParameter(f"--temperatures: numbers separated by commas, got '{text}'") from error
    if not found or not all(0 <= each < math.inf for each in found):
        raise typer.BadParameter(f"--temperatures: at least one, finite, none below 0, got '{text}'")
    return list(dict.fromkeys(found))


def matched_temperature(run: str, reference: str | None, data: Path | None, count: int = 400) -> float:
    """The temperature at which a run's policy has its reference's entropy."""
    from ganpo_evaluation.language_model import load_language_model, reference_of
    from ganpo_evaluation.matching import match_entropy, read_sequences

    policy, anchor = load_language_model(run), load_language_model(reference or reference_of(run))
    length = policy.context or 2048
    sequences = read_sequences(data or held_out_data(run), policy.tokenizer, count, length)
    return match_entropy(policy, anchor, sequences).temperature


def held_out_data(run: str) -> Path:
    """A run's held-out pairs, or the pairs that it was trained on."""
    from ganpo_evaluation.language_model import run_file

    data = run_file(run)["data"]
    found: Sequence[str | None] = (data.get("eval_path"), data.get("path"))
    path = next((Path(each) for each in found if each and Path(each).exists()), None)
    if path is None:
        raise typer.BadParameter("--entropy-data: the run's data are not a local file; give preference pairs here")
    return path
