"""ResNet-50 V2: He et al., Identity Mappings in Deep Residual Networks, ECCV 2016."""

import keras

from src.models._applications import as_backbone
from src.models._inputs import image_input

_WEIGHTS = "resnet/resnet50v2_weights_tf_dim_ordering_tf_kernels_notop.h5"


def resnet50v2(input_shape: tuple[int, int, int] = (256, 128, 3), pretrained: bool = False) -> keras.Model:
    """ResNet-50 V2: rescaled images (N, H, W, C), in [-1, 1] where `pretrained`, to features (N, 2048)."""
    network = keras.applications.ResNet50V2(
        input_tensor=image_input(input_shape), include_top=False, weights=None
    )
    return as_backbone(network, "resnet50v2", _WEIGHTS if pretrained else None)
