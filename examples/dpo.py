"""TRL's DPO, watched: python examples/dpo.py MODEL"""

import argparse

import mlflow
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

import topoflow
from topoflow.samples import load_samples

parser = argparse.ArgumentParser()
parser.add_argument("model", help="a folder or a name on the Hugging Face Hub")
parser.add_argument("--max-steps", type=int, default=32)
options = parser.parse_args()

samples = load_samples("helpful")
rows = [  # the answer to another question is the one to like less
    {"prompt": row["prompt"], "chosen": row["completion"], "rejected": other["completion"]}
    for row, other in zip(samples, [*samples[1:], samples[0]], strict=True)
]
callback = topoflow.TopologyCallback(
    prompts=[row["prompt"] for row in load_samples("prompts")[:200]],
    layers=2,
    topology=True,
)
trainer = DPOTrainer(
    AutoModelForCausalLM.from_pretrained(options.model),
    args=DPOConfig(
        "out",
        max_steps=options.max_steps,
        logging_steps=1,
        save_strategy="no",
        bf16=False,  # so that it runs on a CPU too
        report_to="mlflow",
    ),
    train_dataset=Dataset.from_list(rows),
    processing_class=AutoTokenizer.from_pretrained(options.model),
)
trainer.add_callback(callback)
with mlflow.start_run():  # else Hugging Face's own callback ends the run when training ends
    trainer.train()
print(callback.metrics[callback.steps[-1]])
