"""TRL's GRPO, watched: python examples/grpo.py MODEL"""

import argparse

import mlflow
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

import topoflow
from topoflow.samples import load_samples

parser = argparse.ArgumentParser()
parser.add_argument("model", help="a folder or a name on the Hugging Face Hub")
parser.add_argument("--max-steps", type=int, default=32)
options = parser.parse_args()


def is_varied(completions, **kwargs):
    """Reward: the more different characters the better."""
    return [float(len(set(completion))) for completion in completions]


callback = topoflow.TopologyCallback(
    prompts=[row["prompt"] for row in load_samples("prompts")[:200]],
    layers=2,
    topology=True,
)
trainer = GRPOTrainer(
    AutoModelForCausalLM.from_pretrained(options.model),
    reward_funcs=is_varied,
    args=GRPOConfig(
        "out",
        max_steps=options.max_steps,
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=16,
        logging_steps=1,
        save_strategy="no",
        bf16=False,  # so that it runs on a CPU too
        report_to="mlflow",
    ),
    train_dataset=Dataset.from_list([{"prompt": row["prompt"]} for row in load_samples("helpful")]),
    processing_class=AutoTokenizer.from_pretrained(options.model),
)
trainer.add_callback(callback)
with mlflow.start_run():  # else Hugging Face's own callback ends the run when training ends
    trainer.train()
print(callback.metrics[callback.steps[-1]])
