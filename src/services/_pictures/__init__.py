"""Pictures of an evaluation, each a PNG with a caption and its numbers as CSV beside it."""

from src.services._pictures.evaluation_pictures import Scored, evaluation_pictures

__all__ = ["Scored", "evaluation_pictures"]
