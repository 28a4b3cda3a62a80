"""From results to MLflow: metrics, artifacts, tags, pictures."""
