"""The public doors, as the tests of this folder use them: a build, our answers, and stock transformers' own."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from allrounder.runtime import Runtime

IMAGE = Path(__file__).parents[2] / "examples" / "scene.png"
QUESTION = "what is the red object?"
Edit = Callable[[dict[str, Any]], object]  # changes the content of a JSON file in place


class Built(NamedTuple):
    """What a build did: exit code, both outputs, and where its bundle is or would be."""

    code: int
    stdout: str
    stderr: str
    bundle: Path

    def refused(self, *words: str) -> bool:
        """Whether it ended in one of our errors that says all ``words``, and left nothing behind."""
        clear = self.code == 2 and "Traceback" not in self.stderr and not self.bundle.exists()
        return clear and all(word in self.stderr for word in words)


def ours(bundle: Path, questions: Sequence[str] = (QUESTION,), tokens: int = 8) -> list[list[int]]:
    """The ids that our runtime answers, greedily, one list per question."""
    with Runtime.load(bundle) as runtime:
        return [list(runtime.generate(IMAGE, each, max_new_tokens=tokens).token_ids) for each in questions]


def stock(directory: Path, questions: Sequence[str] = (QUESTION,), tokens: int = 8) -> list[list[int]]:
    """The ids that stock `generate` answers on the same files, greedily unless they say otherwise."""
    import torch
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    processor = AutoProcessor.from_pretrained(str(directory), backend="pil")
    llava = LlavaForConditionalGeneration.from_pretrained(str(directory), dtype=torch.float32).eval()
    image, bos = Image.open(IMAGE).convert("RGB"), processor.tokenizer.bos_token
    answers = []
    for question in questions:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        special = not (bos and text.startswith(bos))
        inputs = processor(images=image, text=text, return_tensors="pt", add_special_tokens=special)
        with torch.no_grad():
            made = llava.generate(**inputs, max_new_tokens=tokens, do_sample=False)
        answers.append(made[0, inputs["input_ids"].shape[1] :].tolist())
    return answers


def reweigh(directory: Path, edit: Callable[[dict[str, Any]], object], file: str = "model.safetensors") -> None:
    """Changes the tensors of a weights file in place."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(directory / file)
    edit(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, directory / file, {"format": "pt"})


def like_stock(built: Built, directory: Path, tokens: int = 8) -> bool:
    """Whether a build was refused in clear words, or its bundle answers what stock transformers answers."""
    if built.code:
        return built.refused() and "VerificationFailed" not in built.stderr
    return ours(built.bundle, tokens=tokens) == stock(directory, tokens=tokens)
