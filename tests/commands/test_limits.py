"""commands/pipeline/limits.py: the shortest question counts with the marks beside its image."""

from __future__ import annotations

import msgspec
import pytest

from allrounder.commands.pipeline.limits import check_takes_questions
from allrounder.errors import InputInvalid
from allrounder.export.freezer import default_limits
from allrounder.vlm.model import load_model, load_text
from allrounder.vlm.prompt import model_layouts
from allrounder.vlm.random.model import write_random_checkpoint


@pytest.mark.parametrize("shape", ["llama-mha", "smolvlm-whole", "smolvlm-llama"])
def test_the_shortest_question_fits_as_its_layout_counts_it(tmp_path, shape):
    vlm = load_model(write_random_checkpoint(tmp_path, shape))
    text, limits = load_text(tmp_path, vlm.spec), default_limits(vlm.spec, vlm.images)
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is in the image?"}]}]
    needed = model_layouts(vlm, [messages])[0].text_tokens
    check_takes_questions(msgspec.structs.replace(limits, text_tokens=needed), text)
    with pytest.raises(InputInvalid, match="no question fits") as caught:
        check_takes_questions(msgspec.structs.replace(limits, text_tokens=needed - 1), text)
    assert str(caught.value.wanted).startswith(f"{needed} or more")
