"""What a caller hands over stays the caller's: requests take it at once, and no request disturbs another by it."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from doors import IMAGE, QUESTION
from PIL import Image

from allrounder import build_engine
from allrounder.runtime import Runtime
from allrounder.vlm.random.model import write_random_checkpoint

OPTIONS = {"max_new_tokens": 12, "temperature": 6.0, "seed": 1}  # other pixels draw other tokens
FRAMES = [np.random.default_rng(frame).integers(0, 256, (48, 64, 3), np.uint8) for frame in range(2)]


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    folder = tmp_path_factory.mktemp("callers")
    model, bundle = write_random_checkpoint(folder / "model", "llama-mha"), folder / "bundle"
    assert build_engine.main(["--model", str(model), "--version", "full", "--out", str(bundle)]) == 0
    with Runtime.load(bundle, threads=1) as runtime:
        yield runtime


def answer(runtime, image, **options):
    return runtime.generate(image, QUESTION, **OPTIONS | options).token_ids


def finished(stream):
    for _ in stream:
        pass
    return stream.answer.token_ids


def encoded(kind, **options):
    """A large image of coarse noise, and its pixels."""
    coarse = np.random.default_rng(3).integers(0, 256, (60, 80, 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(np.kron(coarse, np.ones((12, 12, 1), np.uint8))).save(data, kind, **options)
    return data.getvalue()


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def animation():
    data = io.BytesIO()
    first, second = map(Image.fromarray, FRAMES)
    first.save(data, "TIFF", save_all=True, append_images=[second])
    return Image.open(data)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("GIF", {}),
        ("WEBP", {"lossless": True, "exif": turned()}),
        ("TIFF", {}),
        ("JPEG", {"exif": turned()}),
    ],
)
def test_one_image_object_serves_several_requests_at_once(runtime, kind, options):
    data = encoded(kind, **options)
    wanted = answer(runtime, Image.open(io.BytesIO(data)))
    with ThreadPoolExecutor(4) as pool:
        for _ in range(12):
            image = Image.open(io.BytesIO(data))
            assert set(pool.map(lambda _, image=image: answer(runtime, image), range(4))) == {wanted}


def test_two_objects_of_one_file_serve_requests_at_once(runtime):
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(4).integers(0, 256, (400, 500, 3), np.uint8)).save(data, "PNG")
    wanted = answer(runtime, Image.open(data))
    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            images = [Image.open(data) for _ in range(4)]
            assert set(pool.map(lambda image: answer(runtime, image), images)) == {wanted}


def test_an_array_may_be_filled_anew_while_its_stream_is_pulled(runtime):
    array = FRAMES[0].copy()
    wanted, other = answer(runtime, array), answer(runtime, np.zeros_like(array))
    assert wanted != other
    stream = runtime.stream(array, QUESTION, **OPTIONS)
    array[:] = 0
    assert finished(stream) == wanted
    assert answer(runtime, array) == other


@pytest.mark.parametrize("change", ["close", "seek", "paint", "resize"])
def test_a_image_object_may_change_while_its_stream_is_pulled(runtime, change):
    image, wanted = animation(), answer(runtime, FRAMES[0])
    stream = runtime.stream(image, QUESTION, **OPTIONS)
    {
        "close": image.close,
        "seek": lambda: image.seek(1),
        "paint": lambda: image.paste("red", (0, 0, *image.size)),
        "resize": lambda: image.thumbnail((5, 5)),
    }[change]()
    assert finished(stream) == wanted


def test_a_image_object_is_left_at_its_frame(runtime):
    image = animation()
    image.seek(1)
    assert answer(runtime, image) == answer(runtime, FRAMES[1]) != answer(runtime, FRAMES[0])
    assert (image.tell(), image.mode, image.size) == (1, "RGB", (64, 48))
    np.testing.assert_array_equal(np.asarray(image), FRAMES[1])
    image.seek(0)
    assert answer(runtime, image) == answer(runtime, FRAMES[0])


def test_a_image_file_may_go_while_its_stream_is_pulled(runtime, tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(IMAGE.read_bytes())
    stream = runtime.stream(path, QUESTION, **OPTIONS)
    path.unlink()
    assert finished(stream) == answer(runtime, IMAGE)


def test_stop_texts_are_read_once_and_at_once(runtime):
    whole = runtime.generate(IMAGE, QUESTION, **OPTIONS).text
    stop = whole[len(whole) // 2 :][:2]
    wanted = whole[: whole.index(stop)]
    listed = [stop]
    stream = runtime.stream(IMAGE, QUESTION, stop=listed, **OPTIONS)
    listed.clear()
    assert "".join(stream) == wanted
    assert runtime.generate(IMAGE, QUESTION, stop=iter([stop]), **OPTIONS).text == wanted


def test_eight_threads_answer_as_one_after_the_other(runtime):
    question = ["what is it?", "who is there?", "why?", "日本 is where?"]
    shared = {"image": Image.open(IMAGE)}

    def ask(number):
        image = [shared["image"], IMAGE, FRAMES[0], np.roll(FRAMES[1], number, axis=0)][number % 4]
        options = OPTIONS | {"seed": number, "temperature": float(number % 3)}
        if number % 2:
            return "".join(runtime.stream(image, question[number // 4 % 4], **options))
        return runtime.generate(image, question[number // 4 % 4], **options).text

    alone = [ask(number) for number in range(48)]
    shared["image"] = Image.open(IMAGE)  # not decoded yet
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(48))) == alone
    assert len(set(alone)) > 20
