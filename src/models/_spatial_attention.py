import keras
from keras import layers


def spatial_attention(x: keras.KerasTensor, heads: int, name: str) -> keras.KerasTensor:
    """Add to every position what it draws from all positions by multi-head attention (Vaswani et al., 2017, section 3).

    A position is a token; all heads together have half of the channels. A new block is the identity, so it disturbs no
    weights: the batch norm at its end starts at 0, learns with the first step, and lets the others learn from the
    second on.

    Args:
        x: (N, H, W, C), with H and W known.
        heads: Number of heads.
        name: Prefix of the layers' names.

    Raises:
        ValueError: the heads cannot share the channels.
    """
    _, height, width, channels = x.shape
    if heads < 1 or (channels // 2) % heads:
        raise ValueError(
            f"attention_heads: expected a divisor of {channels // 2}, half of the channels, received {heads}"
        )
    tokens = layers.Reshape((height * width, channels), name=f"{name}_tokens")(x)
    # Softmax removes the bias of keys, and the batch norm that of the output.
    drawn = layers.MultiHeadAttention(heads, channels // 2 // heads, use_bias=False, name=name)(
        tokens, tokens
    )
    drawn = layers.Reshape((height, width, channels), name=f"{name}_map")(drawn)
    drawn = layers.BatchNormalization(
        momentum=0.9, epsilon=1e-5, gamma_initializer="zeros", name=f"{name}_bn"
    )(drawn)
    return layers.Add(name=f"{name}_add")([x, drawn])
