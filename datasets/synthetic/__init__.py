"""Procedurally rendered people for re-identification: deterministic, visible and thermal."""

from datasets.synthetic._generate import generate
from datasets.synthetic._render import render
from datasets.synthetic.presets import PRESETS, Preset

__all__ = ["PRESETS", "Preset", "generate", "render"]
