"""Open a trained model of any format as one callable: images in, embeddings out."""

from common.runtime._runtime import Runtime
from common.runtime.open_model import open_model

__all__ = ["Runtime", "open_model"]
