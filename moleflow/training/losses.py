"""What training minimises: the negative log-likelihood of patches, its focal weighting, and the centre loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from moleflow.settings.config import LossKnobs

MAX_NLL = 20.0


def patch_nll(z: Tensor, log_det: Tensor, image_mean: bool = False) -> Tensor:
    """-log p of each patch in nats, without its constant D/2 log(2 pi): (B, H, W).

        nll = 0.5 ||z||^2 - log_det

    Args:
        z: latents (B, H, W, D).
        log_det: (B, H, W).
        image_mean: put the image's mean log-determinant on every patch, as the notes do. That loses localisation.
    """
    if image_mean:
        log_det = log_det.mean(dim=(1, 2), keepdim=True).expand_as(log_det)
    return 0.5 * z.square().sum(dim=-1) - log_det


def log_density_constant(width: int) -> float:
    """D/2 log(2 pi) in nats, which scores carry and the loss leaves out."""
    return 0.5 * width * math.log(2 * math.pi)


def focal_weight(nll: Tensor, width: int, loss: LossKnobs) -> Tensor:
    """(1-p)^gamma of each patch (B, H, W), in [0, 1] with finite gradients.

    `joint` (the notes): p = exp(-NLL), with NLL clamped to [0, 20] before the exponential; the notes leave the constant out and
    do not detach. exp(-NLL) is a density, not a probability: a patch with NLL <= 0 gets weight 0 and no gradient.
    `per_dim`: p = exp(-NLL/D), clamped alike. `relative`: p = exp(-(NLL - min)/sd) with the batch's minimum and standard deviation
    taken as constants, so that p lies in (0, 1] whatever the scale of the NLL.
    """
    if loss.focal_form == "joint":
        x = nll
    elif loss.focal_form == "per_dim":
        x = nll / width
    else:
        x = (nll - nll.detach().min()) / nll.detach().std(correction=0).clamp_min(torch.finfo(nll.dtype).tiny)
    inside = x > 0
    # A root of 0 has an infinite slope: the patches outside are replaced before the power, not after it.
    safe = torch.where(inside, x, torch.ones_like(x)).clamp(max=MAX_NLL)
    weight = torch.where(inside, (-torch.expm1(-safe)).pow(loss.focal_gamma), torch.zeros_like(x))
    return weight.detach() if loss.focal_detach else weight


def training_loss(z: Tensor, log_det: Tensor, loss: LossKnobs, features: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The scalar that is minimised, and the mean plain NLL in nats a patch beside it.

        mean((1-p)^gamma * nll) + center_weight * mean(||z||^2),     divided by D where nll_scale is per_dim

    gamma 0 and centre weight 0 take no part at all, so they equal the plain NLL to the last bit. With `center_on: features` the
    centre loss is mean(||features||^2), as in the first v5 of the notes: a constant, which changes the loss and no gradient.

    Args:
        z: latents (B, H, W, D).
        log_det: (B, H, W).
        features: what the detector was given (B, H, W, D), frozen; needed for `center_on: features` alone.
    """
    nll = patch_nll(z, log_det, loss.log_det == "image_mean")
    plain = nll.mean()
    total = plain if loss.focal_gamma == 0.0 else (focal_weight(nll, z.shape[-1], loss) * nll).mean()
    if loss.center_weight > 0.0:
        pulled = z if loss.center_on == "latent" else features
        assert pulled is not None
        total = total + loss.center_weight * pulled.square().sum(dim=-1).mean()
    return (total / z.shape[-1] if loss.nll_scale == "per_dim" else total), plain.detach()
