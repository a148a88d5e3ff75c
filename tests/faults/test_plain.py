"""What every other test here stands on: an unchanged tiny model builds and answers as stock transformers does."""

from doors import ours, stock


def test_an_unchanged_model_answers_as_stock_transformers(model, build):
    directory = model()
    built = build(directory)
    assert built.code == 0, built.stderr
    assert ours(built.bundle) == stock(directory)
