"""Data-dependent initialisation of the generator's conditioning from the principal directions of speech embeddings."""

import torch

from common.matching_network import principal_directions


@torch.no_grad()
def init_condition(ca_net, speech: torch.Tensor) -> None:
    """Initialise a `ConditioningAugmentation` from embeddings `[M, text_dim]` (after Krähenbühl et al., ICLR 2016).

    The linear layer becomes a random rotation of the whitened embeddings, so that the input of the gates has mean 0 and
    variance 1, and mu separates the colours of parts from the first step on, though they carry little of the
    embeddings' variance. The standard deviation of the augmentation starts near 0.2 instead of 1.
    """
    fc, n = ca_net.fc, ca_net.embedding_dim
    mean, directions = principal_directions(speech, min(n, speech.shape[1]))
    rotation = fc.weight[:, : directions.shape[1]].cpu()  # the layer is initialised orthogonal
    weight = rotation @ directions.T
    weight /= ((speech.float() - mean) @ weight.T).std(0).clamp(min=1e-6)[:, None]
    fc.weight.copy_(weight)
    fc.bias.copy_(-(weight @ mean))
    fc.weight[n : 2 * n] *= 0.1  # log-variance: a · sigmoid(b) with a near −6, b near 0
    fc.bias[n : 2 * n] = 0.1 * fc.bias[n : 2 * n] - 6


@torch.no_grad()
def init_projection(layer: torch.nn.Linear, speech: torch.Tensor) -> None:
    """Initialise a linear layer so that its outputs have mean 0 and variance 1 on embeddings `[M, in_features]`.

    It becomes a random rotation, that of its weights before, of the whitened embeddings.
    """
    mean, directions = principal_directions(speech, min(layer.out_features, layer.in_features))
    rotation = torch.linalg.qr(layer.weight[:, : directions.shape[1]].cpu()).Q
    weight = rotation @ directions.T
    weight /= ((speech.float() - mean) @ weight.T).std(0).clamp(min=1e-6)[:, None]
    layer.weight.copy_(weight)
    layer.bias.copy_(-(weight @ mean))


@torch.no_grad()
def set_projection(layer: torch.nn.Linear, mean: torch.Tensor, directions: torch.Tensor, speech: torch.Tensor) -> None:
    """Let a linear layer give the first `directions` `[in_features, d]` of embeddings around their mean `[in_features]`.

    On embeddings `[M, in_features]` its outputs have mean variance 1 together; those beyond d are 0.
    """
    count = min(layer.out_features, directions.shape[1])
    mean, weight = mean.cpu(), directions[:, :count].T.cpu()
    variance = ((speech.float().cpu() - mean) @ weight.T).var(0, correction=0).mean()
    weight = weight / variance.sqrt().clamp(min=1e-6)
    for parameter in layer.parameters():
        parameter.zero_()
    layer.weight[:count] = weight.to(layer.weight)
    layer.bias[:count] = -(weight @ mean).to(layer.bias)
