"""What families share: decoders and towers of configs, tensor names, settings of image processors."""
