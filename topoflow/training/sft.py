"""Supervised fine-tuning of one model on one objective with TRL, recorded at checkpoints."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import ProgressCallback, TrainerCallback, TrainerState

from topoflow.config import Finetune
from topoflow.errors import InvalidArgument, UnknownKey, printable, said
from topoflow.recording.callback import TopologyCallback, plain_text
from topoflow.recording.learning_rates import rates_ahead
from topoflow.storage import write_file
from topoflow.storage.files import remove

logger = logging.getLogger(__name__)

# Where TRL's own defaults are others; `finetune.sft_config` may change them.
_DEFAULTS = {"activation_checkpointing": False, "bf16": False}
_WHOLE = "whole"  # an empty file in a checkpoint of the trainer's: it was killed neither before nor while writing it


class _FiniteLogs(TrainerCallback):
    """Keeps NaN and infinity from the trackers: a diverged loss is missing there, and stands in the trainer's log."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        for name in [
            name for name, value in logs.items() if isinstance(value, float) and not math.isfinite(value)
        ]:
            logger.warning("%s is %s at step %d", name, logs.pop(name), state.global_step)


class _Bar(ProgressCallback):
    """The trainer's progress bar, without a line a step."""

    def on_log(self, *_: Any, **__: Any) -> None:
        pass


class _KeepWhole(TrainerCallback):
    """Has the trainer keep the last recorded checkpoint whole, `save_steps` or more after the one before.

    Only recorded ones, because the next answers are compared with theirs; and never the last step, at which a
    trainer that is resumed would train on.
    """

    def __init__(self, recording: TopologyCallback | None, save_steps: int) -> None:
        self.recording = recording
        self.save_steps = save_steps
        self.saved = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.saved = state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step = state.global_step
        recorded = self.recording is None or step in self.recording.steps
        last = step >= state.max_steps or control.should_training_stop
        if self.save_steps and recorded and not last and step - self.saved >= self.save_steps:
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.saved = state.global_step
        if state.is_world_process_zero:
            here = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            write_file(here / _WHOLE, b"")
            for older in Path(args.output_dir).glob("checkpoint-*"):
                if older != here:
                    remove(older)


def last_whole_checkpoint(folder: Path) -> Path | None:
    """Where an interrupted `finetune` in this folder can go on from, if anywhere."""
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{_WHOLE}")]
    return max(whole, key=lambda path: int(path.name.partition("-")[2]), default=None)


def finetune(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Mapping[str, Any]],
    settings: Finetune,
    seed: int,
    folder: Path,
    callback: TopologyCallback | None = None,
    others: Sequence[TrainerCallback] = (),
    save_steps: int = 0,
    device: str | None = None,
) -> tuple[Any, list[dict[str, float]]]:
    """Fine-tune `model` in place; go on from the last whole checkpoint of an interrupted call, if the folder has one.

    A call that goes on ends with the bytes of one that was not interrupted.

    Parameters
    ----------
    model, tokenizer
        As `training.models.load` gives them.
    rows : sequence of `{"prompt": messages, "completion": messages}`
        The training rows, in order; only the completion is trained on. Rows longer than
        `settings.max_length` tokens are left out, since cutting them would cut the completion.
    settings : Finetune
        The section `finetune` of params.yaml.
    seed : int
        Seeds everything random in training.
    folder : Path
        The trainer's working folder.
    callback : TopologyCallback, optional
        Records hidden states.
    others : sequence of TrainerCallback
        Are told after it what the trainer does and logs.
    save_steps : int
        As in the section `compute` of params.yaml; 0 keeps no checkpoint.
    device : str, optional
        "cpu" to train there though there is an accelerator.

    Returns
    -------
    model, log
        The trained model (PEFT's wrapper under LoRA), and the trainer's log, one mapping a logged step.
    """
    from datasets import Dataset
    from datasets.utils.logging import disable_progress_bar
    from peft import prepare_model_for_kbit_training
    from transformers import PrinterCallback, set_seed
    from transformers.integrations import MLflowCallback  # type: ignore[attr-defined]
    from trl import SFTTrainer  # type: ignore[attr-defined]

    torch.set_num_threads(settings.n_threads)
    set_seed(seed)  # before the adapters draw their first weights
    quiet = not sys.stderr.isatty()
    if quiet:
        disable_progress_bar()
    fitting, _ = rows_that_fit(rows, tokenizer, settings.max_length)
    arguments = training_arguments(settings, seed, folder, device)
    check_steps(len(fitting), arguments)
    if getattr(model, "is_quantized", False):  # the norms in float32, and gradients that reach the adapters
        model = prepare_model_for_kbit_training(  # type: ignore[no-untyped-call]
            model, use_gradient_checkpointing=settings.checkpoints_activations
        )
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(fitting),
        processing_class=tokenizer,
        peft_config=lora_config(settings),
        callbacks=[*([callback] if callback else []), *others],
    )
    if getattr(model, "is_quantized", False):  # TRL has made adapters bfloat16, which loses small updates
        adapted: Any = trainer.model
        for weights in adapted.parameters():
            if weights.requires_grad:
                weights.data = weights.data.float()
    for printing in (PrinterCallback, ProgressCallback):  # every step
        trainer.remove_callback(printing)
    if not quiet:
        trainer.add_callback(_Bar())
    trainer.remove_callback(
        MLflowCallback
    )  # where `sft_config` has asked for it: it ends a training with its server
    trainer.callback_handler.callbacks.insert(0, _FiniteLogs())
    trainer.add_callback(_KeepWhole(callback, save_steps))
    if begun := last_whole_checkpoint(folder):
        logger.warning("training goes on from %s", begun.name)
        log = TrainerState.load_from_json(str(begun / "trainer_state.json")).log_history
        trainer._total_train_tokens = int(log[-1]["num_tokens"])  # TRL would count again from 0
    trainer.train(resume_from_checkpoint=str(begun) if begun else None)
    if trainer.state.global_step == 0:  # the trainer returns as if it had trained
        raise InvalidArgument("sft_config", "such that the rows make at least one step", settings.sft_config)
    return trainer.model, trainer.state.log_history


def training_arguments(settings: Finetune, seed: int, folder: Path, device: str | None = None) -> Any:
    """What TRL is told of a training, as `trl.SFTConfig`; it refuses some arguments with errors of its own."""
    from trl import SFTConfig  # type: ignore[attr-defined]

    return SFTConfig(
        output_dir=str(folder),
        max_steps=settings.max_steps,
        per_device_train_batch_size=settings.per_device_train_batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.lr_scheduler_type,
        warmup_steps=settings.warmup_steps,
        max_length=settings.max_length,
        completion_only_loss=True,
        logging_steps=1,
        logging_nan_inf_filter=False,  # would show a diverged loss as 0; see _FiniteLogs
        save_strategy="no",
        report_to="none",
        seed=seed,
        data_seed=seed,
        disable_tqdm=not sys.stderr.isatty(),
        **{
            **_DEFAULTS,
            "dataloader_pin_memory": torch.cuda.is_available(),
            "use_cpu": device == "cpu",
            **_new_names(sft_arguments(settings)),
        },
    )


def learning_rates(settings: Finetune) -> list[float]:
    """The learning rate of each optimiser step that `finetune` will take, from step 1 on; nothing is trained.

    Raises
    ------
    InvalidArgument
        When `sft_config.lr_scheduler_kwargs` are not what the scheduler takes.

    Examples
    --------
    >>> learning_rates(Finetune(max_steps=4, learning_rate=1.0, lr_scheduler_type="linear", warmup_steps=2))
    [0.0, 0.5, 1.0, 0.5]
    """
    from transformers import get_scheduler

    further = settings.arguments.get("lr_scheduler_kwargs")
    optimizer = torch.optim.SGD([torch.zeros(1)], settings.learning_rate)
    try:
        scheduler = get_scheduler(
            settings.lr_scheduler_type,
            optimizer,
            settings.warmup_steps,
            settings.max_steps,
            json.loads(further) if isinstance(further, str) else further,
        )
    except (TypeError, ValueError) as error:
        raise InvalidArgument(
            "finetune.sft_config.lr_scheduler_kwargs",
            f"what the schedule {settings.lr_scheduler_type!r} takes ({said(error)})",
            further,
        ) from None
    rates = rates_ahead(scheduler, settings.max_steps)
    assert rates is not None  # a test holds this of every schedule that `Finetune` takes
    return rates


def sft_arguments(settings: Finetune) -> dict[str, Any]:
    """The further arguments of `trl.SFTConfig`; UnknownKey that names the nearest where one is not known."""
    from dataclasses import fields

    from trl import SFTConfig  # type: ignore[attr-defined]

    given = settings.sft_config
    assert not isinstance(given, str)  # a file has been read
    known = [field.name for field in fields(SFTConfig)]
    for key in given or {}:
        if key not in known:
            raise UnknownKey("finetune.sft_config", key, known)
    return dict(given or {})


def _new_names(given: dict[str, Any]) -> dict[str, Any]:
    """Arguments without the old names of activation checkpointing, which `_DEFAULTS` would silently overrule."""
    return {
        key.replace("gradient_checkpointing", "activation_checkpointing"): value
        for key, value in given.items()
    }


def check_steps(n_rows: int, arguments: Any) -> None:
    """Refuse a training without a batch: the trainer would make no step, and say that it is done."""
    batch = arguments.per_device_train_batch_size
    if arguments.dataloader_drop_last and not arguments.packing and n_rows < batch:
        raise InvalidArgument(
            "per_device_train_batch_size",
            f"at most the rows to train on ({n_rows}) where sft_config.dataloader_drop_last is true",
            batch,
        )


def rows_that_fit(
    rows: Sequence[Mapping[str, Any]], tokenizer: Any, max_length: int, warn: bool = True
) -> tuple[list[dict[str, Any]], list[int]]:
    """Rows in the form that TRL wants for this tokenizer, and their tokens, without those that cannot be trained on.

    Those are rows that would be cut, and rows that the chat template refuses. A warning counts them, unless `warn` is
    false.

    Raises
    ------
    InvalidArgument
        When none is left, or the tokenizer has no token that ends a text.
    """
    from jinja2 import TemplateError

    if tokenizer.eos_token is None:
        raise InvalidArgument(
            "tokenizer", "one with an end-of-text token, which every answer ends in", None,
            "say eos_token in the model's tokenizer_config.json",
        )  # fmt: skip
    fitting, lengths, reasons = [], [], []
    for number, row in enumerate(rows, 1):
        try:
            length = _length(shaped := _shaped(row, tokenizer), tokenizer)
        except TemplateError as error:
            reasons.append(
                f"refused by the chat template (the first is row {number}: {printable(str(error))[:200]})"
            )
            continue
        if length <= max_length:
            fitting.append(shaped)
            lengths.append(length)
    n_long = len(rows) - len(fitting) - len(reasons)
    parts = [f"{n_long} longer than {max_length} tokens"] * bool(n_long)
    parts += [f"{len(reasons)} {reason}" for reason in reasons[:1]]
    told = ", ".join(parts)
    if not fitting:
        raise InvalidArgument(
            "max_length", "enough for at least one training row", max_length, f"left out: {told}"
        )
    if parts and warn:
        logger.warning("%d of %d training rows are left out: %s", len(rows) - len(fitting), len(rows), told)
    return fitting, lengths


def _length(shaped: Mapping[str, Any], tokenizer: Any) -> int:
    """The tokens of a training row."""
    if tokenizer.chat_template:
        text = tokenizer.apply_chat_template(shaped["prompt"] + shaped["completion"], tokenize=False)
    else:
        text = shaped["prompt"] + shaped["completion"] + tokenizer.eos_token
    return len(tokenizer(text)["input_ids"])


def _shaped(row: Mapping[str, Any], tokenizer: Any) -> dict[str, Any]:
    """A row in the form that TRL wants for this tokenizer; one that is in it already is left as it is."""
    if isinstance(row["prompt"], str):
        return dict(row)
    if tokenizer.chat_template:
        return {"prompt": list(row["prompt"]), "completion": list(row["completion"])}
    return {"prompt": plain_text(row["prompt"]), "completion": f" {row['completion'][0]['content']}"}


def lora_config(settings: Finetune) -> Any:
    """PEFT's configuration of the adapters; None where all weights are trained."""
    if settings.lora is None:
        return None
    from peft import LoraConfig

    targets = settings.lora.target_modules
    return LoraConfig(
        r=settings.lora.r,
        lora_alpha=settings.lora.alpha,
        lora_dropout=settings.lora.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM",
    )
