"""What stands on a backbone: the training head, and the embedding model that is deployed."""

import keras

from src.models._centers import Centers
from src.models._log_variances import LogVariances
from src.models._two_stems import bnneck as new_bnneck
from src.models._two_stems import branches_of, has_two_stems, input_in, joined


def reid_network(
    backbone: keras.Model,
    num_identities: int,
    bnneck: bool = False,
    dropout: float = 0.0,
    centers: bool = False,
    log_variances: int = 0,
    projection: int | None = None,
) -> keras.Model:
    """Put the training head on a backbone.

    The outputs are a dict: `features` (N, D) before the neck, for metric losses; `embedding` (N, D) after it,
    for retrieval, not yet L2-normalized; `logits` (N, num_identities) for cross-entropy. Without a neck
    `embedding` is `features`. The neck is batch norm whose shift is fixed at 0, followed by a classifier
    without bias (Luo et al., Bag of Tricks and a Strong Baseline for Deep Person Re-Identification, 2019).

    A backbone with a training branch (`idkl`) gives a dict: `embedding`, and further outputs, which are passed on under
    their names. Each that is called `<name>_embedding` (N, ..., D) gets a classifier, `<name>_logits`.

    Args:
        backbone: Images to features (N, D). If its last layer is called `bnneck` (a saved embedding model, AGW),
            that neck is used and no other is added, whatever `bnneck` says. With visible and thermal images, a dict of
            the two, the rows of all outputs are the visible images, then the thermal ones.
        num_identities: Number of classes of the training set.
        bnneck: Whether to add the neck.
        dropout: Rate in [0, 1) of the dropout before the classifier; the embedding is never dropped.
        centers: Whether a layer `centers` holds a center of each identity among the features, for `center_loss`.
        log_variances: Losses whose weights are learned; a layer `log_variances` then holds a number for each.
        projection: Length T of a further output `projected` (N, T), the embedding in a teacher's dimensions, for
            `feature_distillation`; 0 takes the embedding's own. It starts as the embedding itself where the lengths are
            equal, else as a rotation of it.
    """
    if has_two_stems(backbone) and isinstance(backbone.output, dict):
        backbone = joined(backbone)
    further = dict(backbone.output) if isinstance(backbone.output, dict) else {"embedding": backbone.output}
    embedding = further.pop("embedding")
    last_layer = embedding._keras_history.operation
    if last_layer.name == "bnneck":
        features, bnneck = _before_neck(backbone, last_layer), True
    else:
        features = embedding
        if bnneck:
            embedding = new_bnneck()(features)
    classified = keras.layers.Dropout(dropout, name="dropout")(embedding) if dropout else embedding
    for name in [name for name in further if name.endswith("_embedding")]:
        further_logits = name.replace("_embedding", "_logits")
        has_neck = further[name]._keras_history.operation.name.endswith("bnneck")
        further[further_logits] = _classifier(num_identities, has_neck, further_logits)(further[name])
    logits = _classifier(num_identities, bnneck, "logits")(classified)
    if centers:
        features = Centers(num_identities, name="centers")(features)
    if log_variances:
        features = LogVariances(log_variances, name="log_variances")(features)
    outputs = {"features": features, "embedding": embedding, "logits": logits, **further}
    if projection is not None:
        outputs["projected"] = _projection(embedding, projection)
    return keras.Model(backbone.input, outputs, name=backbone.name)


def _projection(embedding: keras.KerasTensor, length: int) -> keras.KerasTensor:
    initializers, own = keras.initializers, embedding.shape[-1]
    start = initializers.Identity() if length in (0, own) else initializers.Orthogonal()
    layer = keras.layers.Dense(length or own, use_bias=False, kernel_initializer=start, name="projection")
    return layer(embedding)


def _classifier(num_identities: int, has_neck: bool, name: str) -> keras.layers.Dense:
    deviation = 0.001 if has_neck else 0.01
    return keras.layers.Dense(
        num_identities,
        use_bias=not has_neck,
        kernel_initializer=keras.initializers.RandomNormal(stddev=deviation),
        name=name,
    )


def centers_of(network: keras.Model) -> Centers | None:
    """Return the layer that holds the centers of a training network, if it has one."""
    return next((layer for layer in network.layers if isinstance(layer, Centers)), None)


def log_variances_of(network: keras.Model) -> LogVariances | None:
    """Return the layer that holds the log variances of the losses of a training network, if it has one."""
    return next((layer for layer in network.layers if isinstance(layer, LogVariances)), None)


def embedding_model(network: keras.Model) -> keras.Model:
    """Return images -> embedding (N, D), without anything that only training needs; weights are shared.

    Of a network for two modalities, a dict of images by modality to a dict of embeddings.
    """
    if has_two_stems(network):
        return branches_of(network)
    return keras.Model(network.input, network.output["embedding"], name=network.name)


def _before_neck(backbone: keras.Model, neck: keras.Layer) -> keras.KerasTensor:
    """What a neck normalizes; a neck per modality divides it first."""
    is_divided = isinstance(neck, keras.layers.Concatenate)
    return input_in(backbone, backbone.get_layer("visible_features") if is_divided else neck)
