"""Files shipped with the package."""

from __future__ import annotations

from pathlib import Path


def embedded_model_dir() -> Path:
    """The tiny world's model, in Hugging Face format."""
    return Path(__file__).parent / "tiny-model"
