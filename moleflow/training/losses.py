"""The training loss: patches' negative log-likelihood, its tail, focal weighting, centre loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from moleflow.settings.config import LossKnobs

MAX_NLL = 20.0


def patch_nll(z: Tensor, log_det: Tensor, image_mean: bool = False) -> Tensor:
    """Return -log p of each patch in nats, without its constant D/2 log(2 pi): (B, H, W).

        nll = 0.5 ||z||^2 - log_det

    Args:
        z: latents (B, H, W, D).
        log_det: (B, H, W).
        image_mean: put the image's mean log-determinant on every patch, as the notes do. It makes
            the loss of a patch depend on the whole image.
    """
    if image_mean:
        log_det = log_det.mean(dim=(1, 2), keepdim=True).expand_as(log_det)
    return 0.5 * z.square().sum(dim=-1) - log_det


def log_density_constant(width: int) -> float:
    """Return D/2 log(2 pi) in nats, which scores include and the loss leaves out."""
    return 0.5 * width * math.log(2 * math.pi)


def focal_weight(nll: Tensor, width: int, loss: LossKnobs) -> Tensor:
    """Return the focal weight (1 - p)^gamma of each patch (B, H, W), in [0, 1] (Lin et al. 2017).

    The form decides p, with x clamped to [0, 20] in p = exp(-x):

        joint      x = NLL, as in the notes
        per_dim    x = NLL / D
        relative   x = (NLL - min) / sd, with minimum and standard deviation of the batch

    exp(-NLL) is a density, not a probability: in `joint` and `per_dim` a patch with NLL <= 0 gets
    weight 0 and no gradient. In `relative` p lies in (0, 1] at any scale of the NLL; sd divides by
    the number of patches, and no gradient passes through min and sd.
    """
    if loss.focal_form == "joint":
        x = nll
    elif loss.focal_form == "per_dim":
        x = nll / width
    else:
        x = (nll - nll.detach().min()) / nll.detach().std(correction=0).clamp_min(torch.finfo(nll.dtype).tiny)
    inside = x > 0
    # 0^gamma has an infinite slope for gamma < 1, and 0 * inf in the backward pass is NaN.
    # So patches outside are replaced before the power, not only after it.
    safe = torch.where(inside, x, torch.ones_like(x)).clamp(max=MAX_NLL)
    # expm1 keeps 1 - exp(-x) exact for small x.
    weight = torch.where(inside, (-torch.expm1(-safe)).pow(loss.focal_gamma), torch.zeros_like(x))
    return weight.detach() if loss.focal_detach else weight


def tail_loss(nll: Tensor, share: float) -> Tensor:
    """Return the mean over images of the mean of an image's k largest patch NLLs, in nats.

    k = max(1, int(share * H * W)): 15 of 28x28 patches and 3 of 14x14 at a share of 0.02.

    Args:
        nll: (B, H, W), without focal weights.
        share: share of an image's patches, above 0 and at most 1.
    """
    patches = nll.flatten(1)
    count = max(1, int(share * patches.shape[1]))
    return patches.topk(count, dim=1).values.mean()


def training_loss(z: Tensor, log_det: Tensor, loss: LossKnobs, features: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the scalar loss, and the mean plain NLL in nats per patch.

        (1 - w) * mean((1-p)^gamma * nll) + w * tail
            + center_weight * mean(||z||^2) + log_det_weight * mean(log_det^2)

    `tail` is `tail_loss` and w `tail_weight`: DeCoFlow's tail-aware loss. The squared
    log-determinant is each patch's own, whatever `log_det` puts into the NLL. It grows with D twice
    as fast as the NLL does, so a weight acts in proportion to D.

    With `nll_scale: per_dim` the sum of all terms is divided by D. With `patch_reduction: sum` it
    is multiplied by H W: the loss is then the mean over images of the sum over their patches. The
    constant D/2 log(2 pi) is in neither; with gamma 0 it would change the loss and no gradient.
    Terms with gamma 0 or weight 0 are skipped, so the loss equals the plain NLL to the last bit.
    With `center_on: features` the centre loss is mean(||features||^2), as in the notes' first
    v5: a constant, which changes the loss and no gradient.

    Args:
        z: latents (B, H, W, D).
        log_det: (B, H, W).
        loss: the loss's knobs.
        features: the detector's input (B, H, W, D), frozen; required for `center_on: features`.
    """
    nll = patch_nll(z, log_det, loss.log_det == "image_mean")
    plain = nll.mean()
    total = plain if loss.focal_gamma == 0.0 else (focal_weight(nll, z.shape[-1], loss) * nll).mean()
    if loss.tail_weight > 0.0:
        total = (1.0 - loss.tail_weight) * total + loss.tail_weight * tail_loss(nll, loss.tail_share)
    if loss.log_det_weight > 0.0:
        total = total + loss.log_det_weight * log_det.square().mean()
    if loss.center_weight > 0.0:
        centred = z if loss.center_on == "latent" else features
        assert centred is not None
        total = total + loss.center_weight * centred.square().sum(dim=-1).mean()
    if loss.patch_reduction == "sum":
        total = total * (z.shape[1] * z.shape[2])
    return (total / z.shape[-1] if loss.nll_scale == "per_dim" else total), plain.detach()
