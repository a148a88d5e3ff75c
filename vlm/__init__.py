"""Models: frozen vision-language models, as pruning sees them.

May import: the contract, torch, transformers. Never another stage.
"""
