"""Image plans: how an image becomes tiles of pixels, image tokens, and text around them."""
