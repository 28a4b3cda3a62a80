"""Every Trainer that topoflow is tested with, on one small model: what differs between them is what each trains on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from support import llama

from topoflow.embedded.recipe import byte_tokenizer

TRAINERS = ("Trainer", "SFT", "DPO", "GRPO", "Reward")
PROMPTS = [f"Prompt {i} {'x' * (7 * i % 11)}" for i in range(9)]  # no multiple of 2 ranks, nor of batches
ROWS = [
    {"prompt": f"Question {i}?", "chosen": f" Answer {i * i}.", "rejected": f" {'No. ' * (1 + i % 3)}"}
    for i in range(16)
]

TOKENS = [{"input_ids": [5, 6, 7 + i, 8], "labels": [5, 6, 7 + i, 8]} for i in range(16)]


def trainer(model: Any, folder: Path, *callbacks: Any, given: Any = None, **changes: Any) -> Any:
    """Transformers' Trainer on CPU, which saves nothing and tells nobody; `changes` are those of its arguments."""
    from transformers import Trainer, TrainingArguments

    options = {
        "max_steps": 4, "per_device_train_batch_size": 2, "learning_rate": 1e-2, "save_strategy": "no",
        "report_to": "none", "use_cpu": True, "disable_tqdm": True,
    }  # fmt: skip
    return Trainer(
        model, TrainingArguments(str(folder), **{**options, **changes}), callbacks=list(callbacks),
        **{"train_dataset": TOKENS, "processing_class": byte_tokenizer(), **(given or {})},
    )  # fmt: skip


def network(kind: str, **sizes: int) -> Any:
    """The model that a Trainer of this kind trains: a reward model has one number for its head."""
    causal = llama(len(byte_tokenizer()), attention_dropout=0.1, **sizes)
    if kind != "Reward":
        return causal
    from transformers import LlamaForSequenceClassification

    causal.config.num_labels = 1
    torch.manual_seed(0)
    return LlamaForSequenceClassification(causal.config).eval()


def in_four_bits(kind: str, folder: Path) -> Any:
    """The same, quantized as it is opened: 64 weights at a time, and on a CPU no row may be shorter."""
    from transformers import BitsAndBytesConfig

    whole = network(kind, hidden_size=64, intermediate_size=128)
    whole.save_pretrained(folder / "base")
    quantized = BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=["lm_head", "score"])
    return type(whole).from_pretrained(folder / "base", quantization_config=quantized, device_map="cpu")


def rows_of(kind: str) -> Any:
    from datasets import Dataset

    if kind == "Trainer":
        return TOKENS
    if kind == "SFT":
        return Dataset.from_list([{"prompt": row["prompt"], "completion": row["chosen"]} for row in ROWS])
    left_out = {"DPO": (), "GRPO": ("chosen", "rejected"), "Reward": ("prompt",)}[kind]
    return Dataset.from_list([{k: text for k, text in row.items() if k not in left_out} for row in ROWS])


def is_varied(completions: list[str], **_: Any) -> list[float]:
    """A reward for GRPO: the more different characters the better."""
    return [float(len(set(completion))) for completion in completions]


def build(
    kind: str, folder: Path, callback: Any = None, lora: bool = False, four_bits: bool = False, **changes: Any
) -> Any:
    """A Trainer of two steps on CPU; `changes` are those of its arguments."""
    import trl
    from peft import LoraConfig, get_peft_model
    from transformers import Trainer, TrainingArguments

    options: dict[str, Any] = {
        "max_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 1e-2, "save_strategy": "no",
        "logging_strategy": "no", "report_to": "none", "use_cpu": True, "disable_tqdm": True,
        "dataloader_pin_memory": False, "bf16": False, "activation_checkpointing": False,
    }  # fmt: skip
    model, given = in_four_bits(kind, folder) if four_bits else network(kind), {}
    adapter = LoraConfig(
        r=2, target_modules="all-linear", lora_dropout=0.1,
        task_type="SEQ_CLS" if kind == "Reward" else "CAUSAL_LM",
    )  # fmt: skip
    if kind == "Trainer":
        torch.manual_seed(1)
        model = get_peft_model(model, adapter) if lora else model
        make, arguments = Trainer, TrainingArguments
    else:
        given["peft_config"] = adapter if lora else None
        make, arguments = getattr(trl, f"{kind}Trainer"), getattr(trl, f"{kind}Config")
    if kind == "DPO" and not lora:
        given["ref_model"] = network(kind)  # TRL would load it by the name of the model, which has none
    if kind == "GRPO":
        options.update(num_generations=2, max_completion_length=8)
        given["reward_funcs"] = is_varied
    trainer = make(
        model, args=arguments(str(folder), **{**options, **changes}), train_dataset=rows_of(kind),
        processing_class=byte_tokenizer(), **given,
    )  # fmt: skip
    if callback is not None:
        trainer.add_callback(callback)
    return trainer
