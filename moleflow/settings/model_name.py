"""The name of a timm model, as people copy it from timm, a model page or a configuration."""

from __future__ import annotations

import re

_COPIED = re.compile(r"^(?:hf[-_]hub:|(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/)?timm/([\w.-]+)/?$")


def plain_model_name(value: object) -> object:
    """Return timm's own name of a model; other values as they are.

    `timm/resnet18.a1_in1k`, `hf_hub:timm/resnet18.a1_in1k`, `hf-hub:timm/resnet18.a1_in1k` and the
    model's page on huggingface.co all mean `resnet18.a1_in1k`.
    """
    match = _COPIED.match(value.strip()) if isinstance(value, str) else None
    return match[1] if match else value
