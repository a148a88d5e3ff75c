"""The thin runtime: picks an engine by latency target and answers picture questions with it.

May import: the contract, numpy, tokenizers, pillow; a backend's library inside the backend's file. Never torch.
"""
