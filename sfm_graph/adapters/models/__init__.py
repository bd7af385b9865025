"""Running and reaching models: what embedders and rerankers share."""
