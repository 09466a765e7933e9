"""Files shipped with the package."""

from __future__ import annotations

from pathlib import Path


def embedded_model_dir(name: str = "tiny") -> Path:
    """The model of the tiny or of the thinking world, in Hugging Face format."""
    return Path(__file__).parent / f"{name}-model"
