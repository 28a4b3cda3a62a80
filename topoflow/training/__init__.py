"""From names in params.yaml to a fine-tuned model: models, objectives, supervised fine-tuning."""
