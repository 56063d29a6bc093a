"""The directions along which a set's speech embeddings differ, at one scale, and a start of the generator from them."""
import torch
import torch.nn.functional as F


def principal_directions(speech: torch.Tensor, count: int, floor: float = 0.05) -> tuple[torch.Tensor, torch.Tensor]:
    """→ mean `[d]` and directions `[d, count]`: `(speech − mean) @ directions` has about unit variance in each of them.

    speech `[M, d]`. Embeddings vary along a few directions 100 times as much as along those that tell parts' colours;
    `floor`, a share of the largest standard deviation, keeps the noise in the smallest ones from growing with the rest.
    Of fewer than `count` directions, the missing ones are 0.
    """
    speech = speech.double()
    mean = speech.mean(0)
    values, vectors = torch.linalg.eigh((speech - mean).T @ (speech - mean) / len(speech))
    values, vectors = values.flip(0)[:count].clamp(min=0).sqrt(), vectors.flip(1)[:, :count]
    vectors = vectors * torch.where(vectors.sum(0) < 0, -1, 1)     # an eigenvector's sign is free: one for all machines
    directions = vectors / (values + floor * values[0]).clamp(min=1e-12)
    return mean.float(), F.pad(directions, (0, count - directions.shape[1])).float()


@torch.no_grad()
def init_condition(ca_net, speech: torch.Tensor) -> None:
    """Data-dependent start (Krähenbühl et al. 2016) of a `ConditioningAugmentation` from embeddings `[M, text_dim]`.

    The linear layer becomes a random rotation of the embeddings' principal directions, each at unit variance, so that
    what enters the gates has mean 0 and variance 1 and mu tells parts' colours from the first step, though most of the
    embeddings' variance is elsewhere. The standard deviation of the augmentation starts near 0.2 instead of 1.
    """
    fc, n = ca_net.fc, ca_net.embedding_dim
    mean, directions = principal_directions(speech, n)
    weight = fc.weight[:, :n].cpu() @ directions.T                      # the layer's own start is a random rotation
    weight /= ((speech.float() - mean) @ weight.T).std(0).clamp(min=1e-6)[:, None]
    fc.weight.copy_(weight)
    fc.bias.copy_(-(weight @ mean))
    fc.weight[n:2 * n] *= 0.1                      # log-variance: a · sigmoid(b) with a near −6, b near 0
    fc.bias[n:2 * n] = 0.1 * fc.bias[n:2 * n] - 6
