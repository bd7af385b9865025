"""Recall, in the order of its steps: question, legs, board, pulling, hits."""
