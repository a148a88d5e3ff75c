"""What a decoder is given of a pruned prompt: text embedded by the model, and kept image tokens."""

import numpy as np
import torch


def decoder_rows(read, embed, behind=()):
    """Returns rows [n, H] of a `KeptRows`, and of the tokens ``behind`` it; ``embed`` is the model's table."""
    ids = torch.tensor(read.layout.input_ids)[torch.from_numpy(read.kept)]
    images = torch.from_numpy(np.isin(read.kept, read.layout.image_index))
    rows = embed(ids.masked_fill(images, 0)).clone()
    rows[images] = torch.from_numpy(read.rows).to(rows.dtype)
    return torch.cat([rows, embed(torch.tensor(behind, dtype=torch.int64))])
