"""The sections of a run file. Fields are the keys; the text under each is its documentation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt

from ganpo_core.components import (
    OPTIONS,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Probability,
)
from ganpo_core.types import GeneratorForm

LearningRate = Annotated[float, Gt(0), Le(1)]
"""Of Adam, whose steps are about as long as the rate: above 1 every weight is another after one step."""
SchedulerType = Literal["cosine", "linear", "constant", "constant_with_warmup"]


@dataclass(frozen=True)
class Section:
    """What every section is: a frozen dataclass, validated as components are."""

    __pydantic_config__: ClassVar[dict[str, Any]] = OPTIONS

    elsewhere: ClassVar[Mapping[str, str]] = {}
    """Keys that users of other trainers look for here, and what to write instead."""


@dataclass(frozen=True)
class LoraConfig(Section):
    """Train low-rank adapters; the reference is then the policy with its adapters off."""

    r: PositiveInt = 16
    """Rank."""
    alpha: PositiveFloat = 32.0
    """The update is scaled by alpha / r."""
    dropout: Fraction = 0.0
    """On the adapters' input."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """Names or suffixes of the modules that get adapters."""
    vision: bool = False
    """In a model that sees, give adapters to what sees as well, not to the language model alone."""


@dataclass(frozen=True)
class ModelConfig(Section):
    """The policy and its frozen reference."""

    elsewhere: ClassVar[Mapping[str, str]] = {
        "trust_remote_code": "a run file cannot allow a model to run code of its own, since whoever wrote the file would "
        "run it on your machine; pass --trust-remote-code on the command line, if you have read that code",
        "torch_dtype": "write `dtype`",
        "attn_implementation": "write `attention`",
        "load_in_4bit": "write `quantization: 4bit`",
        "name": "write `path`",
    }

    path: str
    """A folder, or a name on the hub."""
    revision: str | None = None
    """A branch, tag or commit of the hub's repository."""
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    """Of the computation. Trained weights stay in float32 (bfloat16 cannot hold an update of 5e-7), float64 in float64."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2", "flex_attention"] = "auto"
    """Attention implementation; `auto` takes the fastest for `training.packing`. flash_attention_2 means padded rows."""
    reference: str | None = None
    """Another folder or hub name to anchor to; by default the policy as it starts."""
    lora: LoraConfig | None = None
    """Train adapters instead of all weights."""
    quantization: Literal["4bit"] | None = None
    """Load the base in 4 bits through bitsandbytes; needs `lora` and a CUDA device."""
    freeze: tuple[Literal["vision_tower", "projector", "language_model"], ...] = ()
    """Parts of a model that sees to keep at the reference's values."""
    freeze_output: bool = False
    """Keep the output matrix (and tied embeddings) at the reference's values."""
    disable_dropout: bool = True
    """Set the policy's dropout to 0, as preference trainers do: log-ratios are compared with a reference without it."""


@dataclass(frozen=True)
class DataSource(Section):
    """One of several sources that are mixed."""

    path: str
    """A file, a folder, or a name on the hub."""
    split: str | None = None
    """Default: train."""
    weight: PositiveFloat = 1.0
    """How many times its rows appear in an epoch: 2 repeats them, 0.5 takes half."""


@dataclass(frozen=True)
class DataConfig(Section):
    """Preference pairs, in any format that TRL reads."""

    path: str | None = None
    """A JSONL, JSON, parquet or CSV file, a folder, or a name on the hub."""
    split: str | None = None
    """Default: train."""
    eval_path: str | None = None
    """Held-out pairs, from another file."""
    eval_split: str | None = None
    """Held-out pairs, from another split."""
    sources: tuple[DataSource, ...] = ()
    """Several sources mixed by weight, instead of `path`."""
    max_length: Annotated[int, Gt(1)] = 2048
    """Tokens of prompt and response together."""
    on_overlong: Literal["drop", "truncate_prompt_left", "truncate_response_right", "error"] = "truncate_response_right"
    """What happens to a pair with a longer side; whatever is dropped or cut is counted and printed. A prompt that holds an
    image is never cut: its pair is dropped."""
    on_bad_image: Literal["drop", "error"] = "drop"
    """What happens to a row of which an image is missing, broken or not on this machine: counted among the flawed rows, of
    which there may be 1 %, or the end of the run."""

    def __post_init__(self) -> None:
        if (self.path is None) == (not self.sources):
            raise ValueError("give either `path` or `sources`")


@dataclass(frozen=True)
class AdversaryConfig(Section):
    """How the discriminators are trained and how the policy answers them."""

    preset: Literal["ganpo", "paper", "paper_alg1", "official"] = "ganpo"
    """A named bundle of options; a key in the file wins over it."""
    weight: NonNegativeFloat = 1.0
    """Of the penalty in `objective + weight * penalty`; 0 is plain preference optimisation, bit for bit."""
    weight_mode: Literal["fixed", "grad_ratio"] = "fixed"
    """The number given, or less of it: `grad_ratio` lowers it until the penalty's gradient at the latents is at most
    `grad_ratio` times the objective's."""
    grad_ratio: PositiveFloat = 0.02
    """Largest ratio of the two gradients under `weight_mode: grad_ratio`; above 0.1 it has done harm."""
    weight_warmup_ratio: Probability = 0.1
    """Share of the steps over which the weight grows linearly from 0."""
    form: GeneratorForm = "feature_matching"
    """How the policy answers a critic."""
    reduction: Literal["sum", "mean"] = "mean"
    """Over the two critics."""
    critic_scale: PositiveFloat = 0.25
    """Factor of the critic's loss."""
    cross_weight: NonNegativeFloat | None = None
    """Of the cross-anchor term; by default what the divergence says."""
    means: Literal["all", "anchors", "none"] = "all"
    """Groups whose baseline is a running mean; the others use the batch's."""
    means_start: Literal["zero", "first"] = "first"
    """What running means start from: 0, or the first optimizer step's means."""
    means_decay: Fraction = 0.9
    """Of the running means."""
    means_clock: Literal["step", "micro"] = "step"
    """Whether running means move once per optimizer step or once per micro-batch; only `step` makes accumulation exact."""
    means_reduce: Literal["global", "local"] = "global"
    """Whether means are over all processes or over this one."""
    means_detach: Literal["both", "policy"] = "both"
    """Whose losses treat means as constants: the critics' too, or the policy's alone."""
    means_order: Literal["use_then_update", "update_then_use"] = "use_then_update"
    """Whether a step sees the running means before or after its own scores entered them."""
    schedule: Literal["simultaneous", "alternating", "legacy"] = "simultaneous"
    """Critics and policy from the same scores; or the critics first and the policy against the updated critics, with
    another forward pass of the step where gradients accumulate; or the released script's step rule."""
    step_every: PositiveInt = 1
    """The critics step once in so many optimizer steps, on the last step's gradient."""
    masked: bool = True
    """Critics see valid positions only; false also scores padding, as the released script does."""
    spectral_norm: Literal["step", "forward"] = "step"
    """Power iterations of spectral norms: one per optimizer step from a warm start, or one per forward pass from a cold
    start."""
    dropout: Literal["both", "critic"] = "both"
    """Whether the critics' dropout is on in the policy's pass too, or in their own pass only."""
    learning_rate: LearningRate | None = None
    """The critics'."""
    learning_rate_ratio: PositiveFloat | None = None
    """The critics' learning rate as a multiple of the policy's, instead of `learning_rate`."""
    lr_scheduler_type: SchedulerType = "constant_with_warmup"
    """The critics' schedule."""
    warmup_ratio: Probability = 0.1
    """Of the critics' schedule."""
    weight_decay: Annotated[float, Ge(0), Le(10)] = 0.0
    """Of the critics' AdamW."""
    adam_beta1: Fraction = 0.9
    """Of the critics' AdamW."""
    adam_beta2: Fraction = 0.999
    """Of the critics' AdamW."""
    max_grad_norm: PositiveFloat | None = 1.0
    """Clips each critic's gradient; null does not."""

    def __post_init__(self) -> None:
        if (self.learning_rate is None) == (self.learning_rate_ratio is None):
            raise ValueError("give either `learning_rate` or `learning_rate_ratio`")


@dataclass(frozen=True)
class SyncReference(Section):
    """Let the reference follow the policy (arXiv 2404.09656)."""

    every: PositiveInt = 512
    """Optimizer steps between two moves."""
    mixup: Annotated[float, Gt(0), Le(1)] = 0.6
    """Share of the policy in the new reference; 1 replaces it."""


@dataclass(frozen=True)
class TrainingConfig(Section):
    """The loop; names as in transformers.TrainingArguments."""

    elsewhere: ClassVar[Mapping[str, str]] = {
        "deepspeed": "DeepSpeed is not used; `parallelism: fsdp2` shards policy and reference",
        "fsdp": "write `parallelism: fsdp2`",
        "fsdp_config": "write `parallelism: fsdp2`",
        "bf16": "write `dtype: bfloat16` under `model`",
        "fp16": "write `dtype: bfloat16` under `model`; float16 is not offered",
        "beta": "write it under `objective`",
        "output_dir": "write it at the top level",
        "seed": "write it at the top level",
        "max_length": "write it under `data`",
        "per_device_batch_size": "write `per_device_train_batch_size`",
        "resume_from_checkpoint": "pass --resume on the command line",
        "padding_free": "write `packing`",
    }

    learning_rate: LearningRate = 5e-7
    """Peak, of the policy."""
    num_train_epochs: Annotated[float, Gt(0), Le(100_000)] = 1.0
    """Passes over the data, unless `max_steps` is given."""
    max_steps: PositiveInt | None = None
    """Optimizer steps; the data repeat as often as it takes."""
    per_device_train_batch_size: PositiveInt = 2
    """Pairs of a micro-batch on each process."""
    gradient_accumulation_steps: PositiveInt = 1
    """Micro-batches of an optimizer step."""
    lr_scheduler_type: SchedulerType = "cosine"
    """The policy's schedule."""
    warmup_ratio: Probability = 0.1
    """Share of the steps, unless `warmup_steps` is given."""
    warmup_steps: NonNegativeInt | None = None
    """Steps of warm-up."""
    optim: Literal["adamw_torch", "adamw_torch_fused", "adamw_bnb_8bit"] = "adamw_torch_fused"
    """The policy's optimizer."""
    weight_decay: Annotated[float, Ge(0), Le(10)] = 0.0
    """Of the policy's AdamW."""
    adam_beta1: Fraction = 0.9
    """Of the policy's AdamW."""
    adam_beta2: Fraction = 0.999
    """Of the policy's AdamW."""
    adam_epsilon: Annotated[float, Gt(0), Lt(1)] = 1e-8
    """Of the policy's AdamW."""
    max_grad_norm: PositiveFloat | None = 1.0
    """Clips the policy's gradient; null does not."""
    sync_reference: SyncReference | None = None
    """Move the reference's weights towards the policy's; null keeps it frozen."""
    reference_cache: str | None = None
    """A folder in which the reference's log-probabilities are kept, by its weights and by the rows' tokens: they are
    computed before the first step, found again by later runs, and the reference's weights need not stay in memory. Where no
    adversary reads the reference."""
    router_aux_loss_coef: NonNegativeFloat | None = None
    """Weight of the loss that balances a mixture's experts; null leaves it out."""
    max_tokens_per_batch: PositiveInt | None = None
    """Divide the step's pairs of each process into micro-batches of at most so many tokens, instead of
    `gradient_accumulation_steps` of `per_device_train_batch_size` pairs; their product is still the pairs a step. A longer
    pair is a micro-batch by itself."""
    packing: Literal["auto", "shared", "packed", "padded"] = "auto"
    """How pairs are given to the model. `shared`: one row without padding, each prompt once for both responses; `packed`:
    one row, each prompt twice; `padded`: two padded rows a pair. All three compute the same. `auto` shares where the model
    can, and says why where it cannot."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: about a third more work for much less memory."""
    parallelism: Literal["ddp", "fsdp2"] = "ddp"
    """With several processes: replicate the policy, or shard policy and reference. Critics are always replicated."""
    watchdog_seconds: NonNegativeFloat | None = None
    """End a process that stays longer in one phase of a step (a pass, the backward pass, a reduction), saying which process,
    which phase and where its Python code is; a save may take six times as long. Default: 600 with several processes, no
    limit with one; 0 is no limit."""
    logging_steps: PositiveInt = 10
    """Steps between two lines of metrics.jsonl, each over all pairs since the last."""
    eval_steps: PositiveInt | None = None
    """Steps between evaluations on the held-out pairs; by default only at the end."""
    per_device_eval_batch_size: PositiveInt = 8
    """Pairs of an evaluation batch on each process."""
    save_steps: PositiveInt | None = 500
    """Steps between checkpoints; null saves only at the end."""
    save_total_limit: Annotated[int, Ge(1)] | None = 2
    """How many checkpoints are kept; null keeps all."""
    report_to: tuple[Literal["tensorboard", "wandb", "mlflow", "comet_ml", "aim", "clearml", "dvclive", "swanlab"], ...] = ()
    """Experiment trackers, through accelerate."""


