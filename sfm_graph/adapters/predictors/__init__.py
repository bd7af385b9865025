"""Predictors: language models behind servers that speak HTTP."""
