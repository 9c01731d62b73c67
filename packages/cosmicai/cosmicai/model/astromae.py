"""AstroMAE: redshift from a 5-band cutout and its magnitudes, as a PyTorch module.

Three branches meet in a small joint head: a vision transformer whose blocks carry a
parallel convolution module (PCM), a narrow inception network, and a multi-layer
perceptron on the magnitudes. The names in the state dict are those of the published
checkpoint, so its weights load without renaming.

This is the plain form of the model: what training uses and what the accuracy and the
speed of every engine are measured against. ``cosmicai.model.prepare`` rewrites it for
inference.
"""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

from cosmicai.facts import BANDS
from cosmicai.model.config import GRID, MAGNITUDE_LAYERS, PATCH_SIZE, TOKENS, ModelConfig


class Attention(nn.Module):
    """Multi-head self-attention whose keys have no bias."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.q_bias = nn.Parameter(torch.zeros(config.width))
        self.v_bias = nn.Parameter(torch.zeros(config.width))
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, T, width) to (B, T, width)."""
        batch, count, width = tokens.shape
        bias = torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias))
        qkv = functional.linear(tokens, self.qkv.weight, bias)
        q, k, v = qkv.view(batch, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        projected: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, count, width))
        return projected


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.mlp_width)
        self.fc2 = nn.Linear(config.mlp_width, config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, T, width) to (B, T, width)."""
        mapped: Tensor = self.fc2(functional.gelu(self.fc1(tokens)))
        return mapped


class Block(nn.Module):
    """A transformer block with a convolution over the patch map in parallel to its attention."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, hidden = config.width, config.conv_width
        self.norm1 = nn.LayerNorm(width, eps=config.norm_eps)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(width, eps=config.norm_eps)
        self.mlp = Mlp(config)
        self.PCM = nn.Sequential(
            nn.Conv2d(width, hidden, 3, padding=1),
            nn.BatchNorm2d(hidden, eps=config.batch_norm_eps),
            nn.SiLU(),
            nn.Conv2d(hidden, width, 3, padding=1),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, 17, width) to (B, 17, width); the first is the class token."""
        patch_map = tokens[:, 1:].transpose(1, 2).reshape(len(tokens), -1, GRID, GRID)
        convolved = self.PCM(patch_map).flatten(2).transpose(1, 2)
        tokens = tokens + self.attn(self.norm1(tokens))
        # The class token takes no part in the convolution.
        tokens = tokens + functional.pad(convolved, (0, 0, 1, 0))
        mapped: Tensor = tokens + self.mlp(self.norm2(tokens))
        return mapped


class PatchEmbed(nn.Module):
    """Cut the image into patches and map each to a token."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(BANDS, config.width, PATCH_SIZE, stride=PATCH_SIZE)

    def forward(self, image: Tensor) -> Tensor:
        """Map an image (B, 5, 32, 32) to tokens (B, 16, width)."""
        projected: Tensor = self.proj(image)
        return projected.flatten(2).transpose(1, 2)


class ConvBlock(nn.Module):
    """Convolution that keeps the size of the map, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, eps: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        self.bn = nn.BatchNorm2d(outputs, eps=eps)

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H, W)."""
        return functional.relu(self.bn(self.conv(maps)))


class InceptionBlock(nn.Module):
    """Convolutions with receptive fields of 1, 3 and 5 pixels and a pooled one, side by side.

    The last block of the model carries the weights of its 5×5 branch but does not use them.
    """

    def __init__(self, inputs: int, width: int, eps: float, *, use_5x5: bool = True) -> None:
        super().__init__()
        self.use_5x5 = use_5x5
        self.branch1 = ConvBlock(inputs, width, 1, eps)
        self.branch2 = nn.Sequential(
            ConvBlock(inputs, width, 1, eps), ConvBlock(width, width, 3, eps)
        )
        self.branch3 = nn.Sequential(
            ConvBlock(inputs, width, 1, eps), ConvBlock(width, width, 5, eps)
        )
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1), ConvBlock(inputs, width, 1, eps)
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, 4·width or 3·width, H, W)."""
        branches = [self.branch1, self.branch2]
        if self.use_5x5:
            branches.append(self.branch3)
        branches.append(self.branch4)
        return torch.cat([branch(maps) for branch in branches], dim=1)


class InceptionModel(nn.Module):
    """The inception network on the image and the perceptron on the magnitudes."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.conv2d_init = nn.Conv2d(BANDS, config.stem_width, 1)
        widths = (BANDS, *(config.magnitude_width,) * MAGNITUDE_LAYERS)
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        self.magnitude_block = nn.Sequential(*layers[:-1])
        blocks = [
            InceptionBlock(inputs, width, config.batch_norm_eps, use_5x5=position < 4)
            for position, (inputs, width) in enumerate(
                zip(config.inception_inputs, config.inception_widths, strict=True)
            )
        ]
        self.vis_inception = nn.Sequential(
            self.conv2d_init,
            nn.AvgPool2d(2),
            blocks[0],
            blocks[1],
            nn.AvgPool2d(2),
            blocks[2],
            blocks[3],
            nn.AvgPool2d(2),
            blocks[4],
            nn.Flatten(),
            nn.Linear(config.inception_features, config.branch_width),
            nn.ReLU(),
            nn.Linear(config.branch_width, config.branch_width),
        )

    def forward(self, image: Tensor, magnitude: Tensor) -> Tensor:
        """Return the features of image and magnitudes, (B, branch + magnitude width)."""
        return torch.cat((self.vis_inception(image), self.magnitude_block(magnitude)), dim=1)


class AstroMAE(nn.Module):
    """Redshift of galaxies from their images and magnitudes.

    Parameters
    ----------
    config
        Sizes of the architecture.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width, branch = config.width, config.branch_width
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, TOKENS, width))
        self.fc_norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.head = nn.Linear(width, width)
        self.inception_model = InceptionModel(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.patch_embed = PatchEmbed(config)
        self.vit_block = nn.Sequential(
            nn.Linear(width, branch), nn.ReLU(), nn.Linear(branch, branch)
        )
        self.concat_block = nn.Sequential(
            nn.Linear(config.concat_width, config.head_width),
            nn.ReLU(),
            nn.Linear(config.head_width, config.output.values),
        )
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.pos_embed, std=0.02)

    def forward_encoder(self, image: Tensor) -> Tensor:
        """Return the normalised mean of the encoded patches, (B, width)."""
        patches = self.patch_embed(image)
        tokens = torch.cat((self.cls_token.expand(len(image), -1, -1), patches), dim=1)
        tokens = tokens + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens)
        pooled: Tensor = self.fc_norm(tokens[:, 1:].mean(dim=1))
        return pooled

    def forward(self, image: Tensor, magnitude: Tensor) -> Tensor:
        """Predict redshifts, or the numbers that describe their distributions.

        Parameters
        ----------
        image
            float32 (B, 5, 32, 32): cutouts in u, g, r, i, z.
        magnitude
            float32 (B, 5): magnitudes in the same bands.

        Returns
        -------
        Tensor
            float32 (B, ``config.output.values``).
        """
        encoded = self.vit_block(self.head(self.forward_encoder(image)))
        mixed = self.inception_model(image, magnitude)
        outputs: Tensor = self.concat_block(torch.cat((encoded, mixed), dim=1))
        return outputs
