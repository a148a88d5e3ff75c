"""Image plans of made-up models."""

from allrounder.images.plan import Fixed, ImagePlan


def fixed_plan(tokens: int, size: int = 14) -> ImagePlan:
    """Returns the plan of a model that makes one tile of each image."""
    zero, one = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return ImagePlan(size=size, tokens=tokens, filter="bilinear", scale=1 / 255, mean=zero, std=one, layout=Fixed())
