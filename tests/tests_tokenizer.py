"""The embedded tokenizer, loaded once for all tests that only need token ids."""

from transformers import AutoTokenizer

from scrpo_cli.assets import embedded_model_dir

TOKENIZER = AutoTokenizer.from_pretrained(embedded_model_dir())
