import keras
from keras import ops


def contrastive(
    features: keras.KerasTensor,
    labels: keras.KerasTensor,
    centroids: keras.KerasTensor,
    clusters: keras.KerasTensor | None = None,
    temperature: float = 0.05,
) -> keras.KerasTensor:
    """Contrastive loss of images against a memory: -log softmax of the cosine to the own centroid / temperature.

    ClusterNCE of Dai et al., "Cluster Contrast for Unsupervised Person Re-Identification", ACCV 2022, equation 6. Where
    a cluster has several proxies, such as one for each camera, the mean of -log softmax over the own ones, in each of
    which the other own ones are left out (so that they do not push one another away).

    The centroids get no gradient. A batch without an image of a cluster has zero loss and zero gradient.

    Args:
        features: (N, D), any floating type; the loss is computed in float32.
        labels: Cluster of each image, integers (N,); -1, noise, is left out.
        centroids: (M, D), of length 1: `ClusterMemory.centroids`.
        clusters: Cluster of each centroid, integers (M,); 0, 1, 2, ... if not given.
        temperature: Smaller is stricter.

    Returns:
        A float32 scalar, the mean over the images of a cluster.

    Raises:
        ValueError: the temperature is not above 0.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, received {temperature}")
    features, labels = ops.cast(features, "float32"), ops.convert_to_tensor(labels)
    centroids = ops.stop_gradient(ops.cast(centroids, "float32"))
    clusters = ops.arange(ops.shape(centroids)[0]) if clusters is None else ops.convert_to_tensor(clusters)
    lengths = ops.sqrt(ops.maximum(ops.sum(ops.square(features), axis=1, keepdims=True), 1e-12))
    logits = ops.matmul(features / lengths, ops.transpose(centroids)) / temperature  # (N, M)
    own = ops.equal(labels[:, None], ops.cast(clusters, labels.dtype)[None, :])
    others = ops.logsumexp(ops.where(own, -1e9, logits), axis=1, keepdims=True)  # (N, 1)
    terms = ops.softplus(others - logits)  # -log(e^own / (e^own + sum of e^others))
    weights = ops.cast(own, "float32")
    proxies = ops.sum(weights, axis=1)
    losses = ops.sum(terms * weights, axis=1) / ops.maximum(proxies, 1.0)
    found = ops.sum(ops.cast(proxies > 0, "float32"))
    return ops.sum(losses) / ops.maximum(found, 1.0)
