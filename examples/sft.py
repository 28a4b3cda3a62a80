"""TRL's SFT, watched, without MLflow: python examples/sft.py MODEL

Everything that was found is in the callback: `metrics` and the hidden states in `clouds`.
"""

import argparse

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

import topoflow
from topoflow.samples import load_samples

parser = argparse.ArgumentParser()
parser.add_argument("model", help="a folder or a name on the Hugging Face Hub")
parser.add_argument("--max-steps", type=int, default=32)
options = parser.parse_args()

rows = [{"prompt": row["prompt"], "completion": row["completion"]} for row in load_samples("helpful")]
callback = topoflow.TopologyCallback(
    prompts=[row["prompt"] for row in load_samples("prompts")[:200]],
    layers=2,
    schedule=topoflow.Schedule(every=4),
    topology=True,
    stop_when_stable=4,  # end early, once four checkpoints in a row moved by less than other prompts would have
)
trainer = SFTTrainer(
    AutoModelForCausalLM.from_pretrained(options.model),
    SFTConfig(
        "out",
        max_steps=options.max_steps,
        save_strategy="no",
        bf16=False,  # so that it runs on a CPU too
        report_to="none",
    ),
    train_dataset=Dataset.from_list(rows),
    processing_class=AutoTokenizer.from_pretrained(options.model),
)
trainer.add_callback(callback)
trainer.train()
layer = f"layer_{callback.layers[-1]:02d}"
print(f"{trainer.state.global_step} of {options.max_steps} steps were trained.")
print(f"step, and how far the H1 diagrams of {layer} moved since the one before (filtration distance):")
for step, found in callback.metrics.items():
    print(step, found.get(f"topology/h1_velocity/{layer}"))
