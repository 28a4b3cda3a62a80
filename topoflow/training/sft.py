"""Supervised fine-tuning of one model on one objective with TRL, recorded at checkpoints."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from topoflow.config import Finetune
from topoflow.recording.callback import TopologyCallback, plain_text

logger = logging.getLogger(__name__)


class _FiniteLogs(TrainerCallback):
    """Keeps NaN and infinity from the trackers: a diverged loss is missing there, and stands in the trainer's log."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        for name in [
            name for name, value in logs.items() if isinstance(value, float) and not math.isfinite(value)
        ]:
            logger.warning("%s is %s at step %d", name, logs.pop(name), state.global_step)


def finetune(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Mapping[str, Any]],
    settings: Finetune,
    seed: int,
    folder: Path,
    callback: TopologyCallback | None = None,
    report_to: str = "none",
) -> tuple[Any, list[dict[str, float]]]:
    """Fine-tune `model` in place.

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
        Of everything random in training.
    folder : Path
        The trainer's working folder.
    callback : TopologyCallback, optional
        Records hidden states.
    report_to : str
        As in TrainingArguments: "mlflow" or "none".

    Returns
    -------
    model, log
        The trained model (PEFT's wrapper under LoRA), and the trainer's log, one mapping a logged step.
    """
    from datasets import Dataset
    from datasets.utils.logging import disable_progress_bar
    from transformers import PrinterCallback, set_seed
    from trl import SFTConfig, SFTTrainer  # type: ignore[attr-defined]

    torch.set_num_threads(settings.n_threads)
    set_seed(seed)  # before the adapters draw their first weights
    quiet = not sys.stderr.isatty()
    if quiet:
        disable_progress_bar()
    arguments = SFTConfig(
        output_dir=str(folder),
        max_steps=settings.max_steps,
        per_device_train_batch_size=settings.per_device_train_batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.lr_scheduler_type,
        warmup_steps=settings.warmup_steps,
        max_length=settings.max_length,
        completion_only_loss=True,
        activation_checkpointing=False,
        bf16=False,
        logging_steps=1,
        logging_nan_inf_filter=False,  # would show a diverged loss as 0; see _FiniteLogs
        save_strategy="no",
        report_to=report_to,
        seed=seed,
        data_seed=seed,
        disable_tqdm=quiet,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(_rows_that_fit(rows, tokenizer, settings.max_length)),
        processing_class=tokenizer,
        peft_config=_lora(settings),
        callbacks=[callback] if callback else None,
    )
    trainer.remove_callback(PrinterCallback)  # prints every step where there is no terminal
    trainer.callback_handler.callbacks.insert(0, _FiniteLogs())
    trainer.train()
    return trainer.model, trainer.state.log_history


def _rows_that_fit(
    rows: Sequence[Mapping[str, Any]], tokenizer: Any, max_length: int
) -> list[dict[str, Any]]:
    """Rows in the form that TRL wants for this tokenizer, without those that would be cut."""
    fitting = []
    for row in rows:
        if tokenizer.chat_template:
            shaped: dict[str, Any] = {"prompt": list(row["prompt"]), "completion": list(row["completion"])}
            text = tokenizer.apply_chat_template(shaped["prompt"] + shaped["completion"], tokenize=False)
        else:
            shaped = {
                "prompt": plain_text(row["prompt"]),
                "completion": f" {row['completion'][0]['content']}",
            }
            text = shaped["prompt"] + shaped["completion"] + tokenizer.eos_token
        if len(tokenizer(text)["input_ids"]) <= max_length:
            fitting.append(shaped)
    if left_out := len(rows) - len(fitting):
        logger.warning("%d of %d training rows are longer than %d tokens and left out", left_out, len(rows),
                       max_length)  # fmt: skip
    if not fitting:
        raise ValueError(f"max_length must leave at least one training row, got {max_length}")
    return fitting


def _lora(settings: Finetune) -> Any:
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
