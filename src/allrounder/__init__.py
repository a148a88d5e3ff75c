"""allrounder: vision-language models, pruned for real.

This package is the contract between the stages: versions, manifest, tensor names, the gather op's
declaration, fingerprints and errors. It knows no framework. The stages themselves are subpackages
(``vlm``, ``router``, ``export``, ``engines``, ``calib``, ``runtime``) and import only what
``tests/test_layering.py`` allows.
"""

__version__ = "0.1.0"
