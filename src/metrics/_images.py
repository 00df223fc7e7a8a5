"""Embeddings of one side of a test set together with what protocols ask about the images."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Images:
    """N images.

    Attributes:
        features: Embeddings (N, D).
        ids: Identities, integers or text (N,).
        cameras: Camera numbers (N,).
        modalities: `visible` or `thermal` (N,).
        names: File names without folder and suffix, text (N,).
        places: Numbers of the cameras where cameras of one room have one number (N,).
    """

    features: np.ndarray
    ids: np.ndarray
    cameras: np.ndarray
    modalities: np.ndarray
    names: np.ndarray
    places: np.ndarray

    def __getitem__(self, chosen: np.ndarray) -> "Images":
        """Return some of the images."""
        return Images(
            self.features[chosen],
            self.ids[chosen],
            self.cameras[chosen],
            self.modalities[chosen],
            self.names[chosen],
            self.places[chosen],
        )

    def __add__(self, other: "Images") -> "Images":
        """Return these images and then the others."""
        return Images(
            np.concatenate([self.features, other.features]),
            np.concatenate([self.ids, other.ids]),
            np.concatenate([self.cameras, other.cameras]),
            np.concatenate([self.modalities, other.modalities]),
            np.concatenate([self.names, other.names]),
            np.concatenate([self.places, other.places]),
        )
