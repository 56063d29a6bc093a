"""StackGAN-v2 written plainly, the baseline of the benchmarks: every operation as in the papers.

Nearest upsampling before each convolution, the condition tiled and concatenated, sigmoid outputs and binary
cross-entropy, three passes of every discriminator, gradients of the discriminators' weights in the generator's step
too, Adam and the moving average tensor by tensor, images read one by one; float32, contiguous, uncompiled. State
dicts are those of `StackGAN_v2.model`. The published loop also runs an Inception network in every step: that is not
counted here.
"""

import copy
import random

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from common.bounding_boxes import crop_box


class PlainGLU(nn.Module):
    def forward(self, x):
        channels = x.shape[1] // 2
        return x[:, :channels] * torch.sigmoid(x[:, channels:])


def conv3x3(channels_in, channels_out):
    return nn.Conv2d(channels_in, channels_out, 3, 1, 1, bias=False)


def up_block(channels_in, channels_out):
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="nearest"),
        conv3x3(channels_in, 2 * channels_out),
        nn.BatchNorm2d(2 * channels_out),
        PlainGLU(),
    )


def tiled(c, h):
    """c `[N, E]` over the map h `[N, C, H, W]`, then h: `[N, E + C, H, W]`."""
    return torch.cat((c[:, :, None, None].repeat(1, 1, *h.shape[2:]), h), 1)


class PlainCondition(nn.Module):
    def __init__(self, text_dim, embedding_dim):
        super().__init__()
        self.embedding_dim = embedding_dim
        self.fc, self.glu = nn.Linear(text_dim, 4 * embedding_dim), PlainGLU()

    def forward(self, speech, eps):
        x = self.glu(self.fc(speech))
        mu, logvar = x[:, : self.embedding_dim], x[:, self.embedding_dim :]
        return eps * logvar.mul(0.5).exp() + mu, mu, logvar


class PlainFirstBranch(nn.Module):
    def __init__(self, condition_dim, z_dim, gf_dim, base_size):
        super().__init__()
        blocks = (base_size // 4).bit_length() - 1
        self.width = gf_dim << blocks
        self.fc = nn.Sequential(
            nn.Linear(condition_dim + z_dim, self.width * 32, bias=False), nn.BatchNorm1d(self.width * 32), PlainGLU()
        )
        self.names = [f"upsample{i + 1}" for i in range(blocks)]
        for i, name in enumerate(self.names):
            setattr(self, name, up_block(self.width >> i, self.width >> (i + 1)))

    def forward(self, c, z):
        h = self.fc(torch.cat((c, z), 1)).view(-1, self.width, 4, 4)
        for name in self.names:
            h = getattr(self, name)(h)
        return h


class PlainResidual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.block = nn.Sequential(
            conv3x3(channels, 2 * channels),
            nn.BatchNorm2d(2 * channels),
            PlainGLU(),
            conv3x3(channels, channels),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x):
        return self.block(x) + x


class PlainNextBranch(nn.Module):
    def __init__(self, condition_dim, gf_dim, r_num):
        super().__init__()
        self.jointConv = nn.Sequential(
            conv3x3(condition_dim + gf_dim, 2 * gf_dim), nn.BatchNorm2d(2 * gf_dim), PlainGLU()
        )
        self.residual = nn.Sequential(*(PlainResidual(gf_dim) for _ in range(r_num)))
        self.upsample = up_block(gf_dim, gf_dim // 2)

    def forward(self, h, c):
        return self.upsample(self.residual(self.jointConv(tiled(c, h))))


class PlainToImage(nn.Module):
    def __init__(self, gf_dim):
        super().__init__()
        self.img = nn.Sequential(conv3x3(gf_dim, 3), nn.Tanh())

    def forward(self, h):
        return self.img(h)


class PlainGenerator(nn.Module):
    """Arguments, state dict and `forward` of `StackGAN_v2.model.Generator`."""

    def __init__(self, branch_num=3, base_size=64, gf_dim=64, z_dim=100, embedding_dim=128, text_dim=1024, r_num=2):
        super().__init__()
        self.sizes = [base_size << i for i in range(branch_num)]
        self.z_dim, self.embedding_dim, self.text_dim = z_dim, embedding_dim, text_dim
        self.ca_net = PlainCondition(text_dim, embedding_dim)
        self.h_net1, self.img_net1 = PlainFirstBranch(embedding_dim, z_dim, gf_dim, base_size), PlainToImage(gf_dim)
        for branch in range(2, branch_num + 1):
            width = gf_dim >> (branch - 2)
            setattr(self, f"h_net{branch}", PlainNextBranch(embedding_dim, width, r_num))
            setattr(self, f"img_net{branch}", PlainToImage(width // 2))

    def forward(self, z, speech, eps):
        c, mu, logvar = self.ca_net(speech, eps)
        h = self.h_net1(c, z)
        images = [self.img_net1(h)]
        for branch in range(2, len(self.sizes) + 1):
            h = getattr(self, f"h_net{branch}")(h, c)
            images.append(getattr(self, f"img_net{branch}")(h))
        return images, mu, logvar


def block(channels_in, channels_out, kernel):
    stride = 2 if kernel == 4 else 1
    return [
        nn.Conv2d(channels_in, channels_out, kernel, stride, 1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.LeakyReLU(0.2, inplace=True),
    ]


class PlainDiscriminator(nn.Module):
    """Arguments and state dict of `model.Discriminator`; `forward` gives sigmoid(cond), sigmoid(uncond), code."""

    def __init__(self, image_size, df_dim=64, embedding_dim=128):
        super().__init__()
        downs = (image_size // 4).bit_length() - 1
        widths = [df_dim << i for i in range(downs)]
        layers = [nn.Conv2d(3, df_dim, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True)]
        for i in range(1, min(downs, 4)):
            layers += block(widths[i - 1], widths[i], 4)
        tails = {
            5: {"img_code_s32": (3, 4, 4), "img_code_s32_1": (4, 3, 3)},  # from width, to width, kernel
            6: {
                "img_code_s32": (3, 4, 4),
                "img_code_s64": (4, 5, 4),
                "img_code_s64_1": (5, 4, 3),
                "img_code_s64_2": (4, 3, 3),
            },
        }.get(downs, {})
        self.names = ["img_code_s16", *tails]
        self.img_code_s16 = nn.Sequential(*layers)
        for name, (start, end, kernel) in tails.items():
            setattr(self, name, nn.Sequential(*block(widths[start], widths[end], kernel)))
        code_dim = widths[min(downs, 4) - 1]
        self.jointConv = nn.Sequential(*block(embedding_dim + code_dim, code_dim, 3))
        self.logits, self.uncond_logits = (nn.Sequential(nn.Conv2d(code_dim, 1, 4, 4), nn.Sigmoid()) for _ in range(2))

    def forward(self, image, c):
        code = image
        for name in self.names:
            code = getattr(self, name)(code)
        return self.logits(self.jointConv(tiled(c, code))).view(-1), self.uncond_logits(code).view(-1), code.flatten(1)


class PlainNetworks:
    """Generator, average, discriminators and optimizers as in the trainer's `Networks`, with its weights."""

    def __init__(self, cfg, networks, device="cpu"):
        ours, gan = networks.generator, cfg.GAN
        self.generator = PlainGenerator(
            cfg.TREE.BRANCH_NUM, cfg.TREE.BASE_SIZE, gan.GF_DIM, gan.Z_DIM, gan.EMBEDDING_DIM, ours.text_dim, gan.R_NUM
        )
        self.discriminators = [PlainDiscriminator(size, gan.DF_DIM, gan.EMBEDDING_DIM) for size in ours.sizes]
        for plain, own in zip((self.generator, *self.discriminators), (ours, *networks.discriminators)):
            plain.load_state_dict({key: value.contiguous() for key, value in own.state_dict().items()})
            plain.to(device)
        self.average = [copy.deepcopy(p.data) for p in self.generator.parameters()]
        self.optimizer_g = _adam(self.generator, cfg.TRAIN.GENERATOR_LR, cfg.TRAIN.BETAS)
        self.optimizers_d = [_adam(d, cfg.TRAIN.DISCRIMINATOR_LR, cfg.TRAIN.BETAS) for d in self.discriminators]


def _adam(network, lr, betas):
    return torch.optim.Adam(network.parameters(), lr, betas=tuple(betas), foreach=False, fused=False)


def plain_step(networks: PlainNetworks, batch, cfg) -> dict[str, torch.Tensor]:
    """One iteration on a `datasets.Batch`; the terms have the names of the trainer's `Stepper`."""
    coeff, terms = cfg.TRAIN.COEFF, {}
    images, mu, logvar = networks.generator(batch.z, batch.speech, batch.eps)
    n = len(mu)
    ones, zeros = torch.ones(n, device=mu.device), torch.zeros(n, device=mu.device)
    bce = F.binary_cross_entropy
    for i, (network, optimizer) in enumerate(zip(networks.discriminators, networks.optimizers_d)):
        optimizer.zero_grad()
        c = mu.detach()
        real, wrong, fake = network(batch.real[i], c), network(batch.wrong[i], c), network(images[i].detach(), c)
        if coeff.UNCOND_LOSS > 0:
            loss = (
                bce(real[0], ones)
                + bce(wrong[0], zeros)
                + bce(fake[0], zeros)
                + coeff.UNCOND_LOSS * (bce(real[1], ones) + bce(wrong[1], ones) + bce(fake[1], zeros))
            )
        else:
            loss = bce(real[0], ones) + 0.5 * (bce(wrong[0], zeros) + bce(fake[0], zeros))
        loss.backward()
        optimizer.step()
        terms[f"D{i}"] = loss.detach()
    networks.optimizer_g.zero_grad()
    total = 0
    for i, (network, image) in enumerate(zip(networks.discriminators, images)):
        cond, uncond, code = network(image, mu)
        loss = bce(cond, ones) + (coeff.UNCOND_LOSS * bce(uncond, ones) if coeff.UNCOND_LOSS > 0 else 0)
        if coeff.CAL_LOSS > 0:
            loss = loss + _class_aware(code, batch.labels)
        if coeff.COLOR_LOSS > 0 and i:
            loss = loss + coeff.COLOR_LOSS * _color(image, images[i - 1].detach())
        total = total + loss
    terms["KL"] = coeff.KL * (-0.5) * (1 + logvar - mu.pow(2) - logvar.exp()).mean()
    total = total + terms["KL"]
    total.backward()
    networks.optimizer_g.step()
    with torch.no_grad():
        for p, average in zip(networks.generator.parameters(), networks.average):
            average.mul_(cfg.TRAIN.EMA).add_(p, alpha=1 - cfg.TRAIN.EMA)
    return {name: term.detach() for name, term in (terms | {"G": total}).items()}


def _class_aware(codes, labels):
    products = codes @ codes.t()
    same = (labels[:, None] == labels[None, :]) & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    if not same.any():
        return products.new_zeros(())
    return (products.mean() - products[same].mean()).clamp(min=0) / codes.shape[1]


def _color(fine, coarse):
    statistics = []
    for images in (fine, coarse):
        pixels = images.flatten(2)
        centred = pixels - pixels.mean(2, keepdim=True)
        statistics.append((pixels.mean(2), centred @ centred.transpose(1, 2) / pixels.shape[2]))
    (mean, covariance), (target_mean, target_covariance) = statistics
    return F.mse_loss(mean, target_mean) + 5 * F.mse_loss(covariance, target_covariance)


@torch.no_grad()
def plain_generate(generator: PlainGenerator, speech, noises):
    """As `StackGAN_v2.sampler.generate`, with the plain generator."""
    z, eps = noises.split((generator.z_dim, generator.embedding_dim), 1)
    images, _, _ = generator(z, speech, eps)
    return [
        ((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        for image in images
    ]


def plain_images(path, box, sizes) -> list[torch.Tensor]:
    """One image from its file, for each size `[3, s, s]` in [−1, 1]: box, scale, random crop, mirror, scale down."""
    from torchvision import transforms

    image = Image.open(path).convert("RGB")
    if box is not None:
        image = image.crop(crop_box(image.size, box))
    image = transforms.Resize(int(max(sizes) * 76 / 64))(image)
    image = transforms.RandomCrop(max(sizes))(image)
    if random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    to_tensor = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3)])
    return [to_tensor(image if size == max(sizes) else transforms.Resize(size)(image)) for size in sizes]
