"""transformers' own Trainer, watched: python examples/trainer.py MODEL"""

import argparse

import mlflow
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
)

import topoflow
from topoflow.samples import load_samples

parser = argparse.ArgumentParser()
parser.add_argument("model", help="a folder or a name on the Hugging Face Hub")
parser.add_argument("--max-steps", type=int, default=32)
options = parser.parse_args()

model = AutoModelForCausalLM.from_pretrained(options.model)
tokenizer = AutoTokenizer.from_pretrained(options.model)
rows = [tokenizer(f"{row['prompt']}\n{row['completion']}") for row in load_samples("helpful")]
callback = topoflow.TopologyCallback(
    prompts=[row["prompt"] for row in load_samples("prompts")[:200]],
    layers=2,
    topology=True,
)
trainer = Trainer(
    model,
    TrainingArguments(
        "out", max_steps=options.max_steps, logging_steps=1, save_strategy="no", report_to="mlflow"
    ),
    train_dataset=rows,
    data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    processing_class=tokenizer,
)
trainer.add_callback(callback)
with mlflow.start_run():  # else Hugging Face's own callback ends the run when training ends
    trainer.train()
print(callback.metrics[callback.steps[-1]])
