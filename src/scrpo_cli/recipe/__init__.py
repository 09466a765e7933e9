"""Recipes: pydantic models, YAML with `extends` and `--set`, errors that say where and suggest. No torch."""
