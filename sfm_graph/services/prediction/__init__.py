"""What a predictor is used for: extraction, summaries, predictions and their outcomes, reflection."""
