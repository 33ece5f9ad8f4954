"""`ganpo evaluate …`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ganpo_evaluation.choose import JudgeName, Output, Plugins, Seed, With, choose_judge
from ganpo_evaluation.generation import held_out_data, parse_temperatures

evaluate = typer.Typer(no_args_is_help=True, help="The paper's tables and figures, on your models, judges and files.")
FOLDER = Path("runs/evaluation")


@evaluate.callback()
def group() -> None:
    """The paper's tables and figures, on your models, judges and files."""


@evaluate.command()
def alpaca(
    annotations: Annotated[list[Path] | None, typer.Option(help="AlpacaEval's annotations of a model; repeatable.")] = None,
    outputs: Annotated[list[Path] | None, typer.Option(help="Instead: a model's outputs, to be judged; repeatable.")] = None,
    baseline: Annotated[Path | None, typer.Option(help="Of --outputs: the baseline's outputs.")] = None,
    judge: JudgeName = "alpaca_eval",
    options: With = None,
    plugin: Plugins = None,
    gamed: Annotated[Path | None, typer.Option(help="AlpacaEval's df_gamed.csv, for length_controlled_v1.")] = None,
    leaderboard: Annotated[Path | None, typer.Option(help="A leaderboard file whose figures to show beside.")] = None,
    seed: Seed = 0,
    output: Output = FOLDER,
) -> None:
    """Win rate, length-controlled win rate and length on AlpacaEval (Table 1), from annotations or from a judge."""
    from ganpo_evaluation.alpaca_results import draw, from_annotations, from_outputs
    from ganpo_evaluation.results import show

    if (annotations is None) == (outputs is None):
        raise typer.BadParameter("give either --annotations or --outputs")
    if annotations:
        result = from_annotations(annotations, gamed, leaderboard, seed)
    else:
        if baseline is None:
            raise typer.BadParameter("--outputs: needs --baseline, the outputs to win over")
        assert outputs is not None
        chosen = choose_judge(judge, options, plugin, {"baseline": str(baseline)})
        result = from_outputs(outputs, baseline, chosen, judge, gamed, leaderboard, seed)
    show(result, output, partial(draw, result))


@evaluate.command()
def ifeval(
    responses: Annotated[list[Path], typer.Option(help="Responses to IFEval's prompts; repeatable.")],
    data: Annotated[Path, typer.Option(help="IFEval's input_data.jsonl.")],
    output: Output = FOLDER,
) -> None:
    """Strict and loose accuracy on IFEval (Figure 3b), for prompts and for single instructions."""
    from ganpo_evaluation.ifeval_results import draw, from_responses
    from ganpo_evaluation.results import show

    result = from_responses(responses, data)
    show(result, output, partial(draw, result))


@evaluate.command()
def temperature(
    runs: Annotated[list[str], typer.Argument(help="Runs or models to compare; the others are also compared with the first.")],
    prompts: Annotated[Path, typer.Option(help="A JSON, JSONL or text file of prompts.")],
    judge: JudgeName,
    options: With = None,
    plugin: Plugins = None,
    reference: Annotated[str | None, typer.Option(help="By default the first run's.")] = None,
    temperatures: Annotated[str, typer.Option(help="Separated by commas.")] = "0,0.25,0.5,0.7,1,1.25,1.5",
    entropy_data: Annotated[Path | None, typer.Option(help="Pairs to measure entropy on; default: the first run's.")] = None,
    sequences: Annotated[int, typer.Option(min=1, help="Of them, how many.")] = 400,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many prompts.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Of a response.")] = 512,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts at a time.")] = 16,
    seed: Seed = 0,
    output: Output = FOLDER,
) -> None:
    """Score and win rate by temperature (Figure 3), as sampled and at the reference's entropy, beside the reference."""
    from ganpo_evaluation.asking import asked
    from ganpo_evaluation.language_model import load_apart, reference_of
    from ganpo_evaluation.matching import read_sequences
    from ganpo_evaluation.results import show
    from ganpo_evaluation.sampling import Sampling
    from ganpo_evaluation.sweep import Bench, draw, sweep
    from ganpo_evaluation.texts import read_prompts

    score = asked(choose_judge(judge, options, plugin))
    questions = [prompt for prompt, _ in read_prompts(prompts)[:limit]]
    levels = parse_temperatures(temperatures)
    *policies, anchor = load_apart([*runs, reference or reference_of(runs[0])])
    measured = read_sequences(entropy_data or held_out_data(runs[0]), anchor.tokenizer, sequences, anchor.context or 2048)
    sampling = Sampling(seed=seed, max_new_tokens=max_new_tokens, batch_size=batch_size)
    facts = {"judge": judge, "prompts": len(questions), "seed": seed}
    bench = Bench(questions, sampling, score)
    result = sweep(policies, anchor, levels, bench, measured, partial(print, flush=True), facts)
    show(result, output, partial(draw, result))


@evaluate.command("critic-correlation")
def critic_correlation(
    run: Annotated[str, typer.Argument(help="A finished run with discriminators.")],
    prompts: Annotated[Path, typer.Option(help="A JSON, JSONL or text file of prompts.")],
    judge: JudgeName,
    options: With = None,
    proxy: Annotated[str | None, typer.Option(help="A judge to compare with, such as reward_model.")] = None,
    proxy_options: Annotated[list[str] | None, typer.Option("--proxy-with", help="An option of the proxy; repeatable.")] = None,
    critic_options: Annotated[
        list[str] | None, typer.Option("--critic-with", help="latents=reference, score=C+-C- or score=relativistic.")
    ] = None,
    plugin: Plugins = None,
    temperatures: Annotated[str, typer.Option(help="Separated by commas.")] = "1.5,2.0",
    pool: Annotated[int, typer.Option(min=3, help="Responses in all, or for each prompt with --pool-mode per_prompt.")] = 1024,
    pool_mode: Annotated[str, typer.Option(help="single or per_prompt.")] = "single",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Of a response.")] = 512,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts at a time.")] = 16,
    seed: Seed = 0,
    output: Output = FOLDER,
) -> None:
    """Correlation of the discriminator's score, and of a proxy's, with an oracle's (Figure 4). The oracle is --judge."""
    from ganpo_evaluation.asking import asked
    from ganpo_evaluation.correlation import correlate, draw
    from ganpo_evaluation.language_model import load_language_model
    from ganpo_evaluation.results import show
    from ganpo_evaluation.sampling import Sampling
    from ganpo_evaluation.texts import read_prompts

    if pool_mode not in ("single", "per_prompt"):
        raise typer.BadParameter("--pool-mode: single or per_prompt")
    judges = {"discriminator": asked(choose_judge("critic", [f"run={run}", *(critic_options or ())], plugin))}
    if proxy is not None:
        judges[proxy.replace("_", " ")] = asked(choose_judge(proxy, proxy_options, plugin))
    result = correlate(
        load_language_model(run), [prompt for prompt, _ in read_prompts(prompts)], parse_temperatures(temperatures), judges,
        asked(choose_judge(judge, options, plugin)), pool, "single" if pool_mode == "single" else "per_prompt",
        Sampling(seed=seed, max_new_tokens=max_new_tokens, batch_size=batch_size),
        {"run": run, "oracle": judge, "discriminator options": critic_options, "seed": seed},
    )
    show(result, output, partial(draw, result))


@evaluate.command("length-buckets")
def length_buckets(
    annotations: Annotated[list[Path] | None, typer.Option(help="AlpacaEval's annotations of a model; repeatable.")] = None,
    outputs: Annotated[list[Path] | None, typer.Option(help="Instead: a model's outputs, to be judged; repeatable.")] = None,
    baseline: Annotated[Path | None, typer.Option(help="Of --outputs: the baseline's outputs.")] = None,
    judge: JudgeName = "alpaca_eval",
    options: With = None,
    plugin: Plugins = None,
    edges: Annotated[str, typer.Option(help="quantile:5, or characters such as 0,500,1000.")] = "quantile:5",
    output: Output = FOLDER,
) -> None:
    """Win rate by the length of one's own response (Figure 5), with counts, intervals and the slope."""
    from ganpo_evaluation.alpaca import read_annotations
    from ganpo_evaluation.alpaca_results import judged
    from ganpo_evaluation.buckets import by_length, draw
    from ganpo_evaluation.results import show
    from ganpo_evaluation.texts import names_apart, short_paths

    if (annotations is None) == (outputs is None):
        raise typer.BadParameter("give either --annotations or --outputs")
    if annotations:
        found = [read_annotations(path) for path in annotations]
    else:
        if baseline is None:
            raise typer.BadParameter("--outputs: needs --baseline, the outputs to win over")
        chosen = choose_judge(judge, options, plugin, {"baseline": str(baseline)})
        found = judged(outputs or [], baseline, chosen, judge)
    files = list(annotations or outputs or [])
    names = names_apart([each.model for each in found], short_paths(files))
    found = [replace(each, model=name) for each, name in zip(found, names, strict=True)]
    result = by_length(found, edges, {"files": list(map(str, files))})
    show(result, output, partial(draw, result))


@evaluate.command()
def pairs(
    data: Annotated[Path, typer.Option(help="Labelled pairs, in any format that training reads, such as LLMBar's.")],
    judge: JudgeName,
    options: With = None,
    plugin: Plugins = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many.")] = None,
    output: Output = FOLDER,
) -> None:
    """How often a judge, or a run's own implicit reward, prefers the chosen response of labelled pairs."""
    from ganpo_evaluation.pairs import accuracy, draw
    from ganpo_evaluation.results import show

    result = accuracy(choose_judge(judge, options, plugin), judge, data, limit)
    show(result, output, partial(draw, result))


@evaluate.command()
def downstream(
    runs: Annotated[list[str], typer.Argument(help="Runs or models.")],
    tasks: Annotated[str, typer.Option(help="lm-eval's names, separated by commas.")] = (
        "gsm8k,arc_challenge,hellaswag,winogrande,mmlu,truthfulqa_mc2"
    ),
    include: Annotated[Path | None, typer.Option(help="A folder with task files of your own.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many examples of each task.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples at a time.")] = 8,
    chat_template: Annotated[bool, typer.Option("--chat-template", help="Ask through the model's chat template.")] = False,
    seed: Seed = 0,
    output: Output = FOLDER,
) -> None:
    """Accuracies on lm-eval's tasks (Table 2); tasks are fetched from the hub unless they are your own."""
    from ganpo_evaluation.downstream import draw, run_tasks
    from ganpo_evaluation.results import show

    names = [name.strip() for name in tasks.split(",") if name.strip()]
    result = run_tasks(runs, names, include, limit, batch_size, chat_template, seed)
    show(result, output, partial(draw, result))
