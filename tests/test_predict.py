"""The images that predict finds in its arguments."""

import keras
import pytest
from keras.initializers import Constant
from PIL import Image
from synthetic_images import HEIC, encoded, folder_of, jpeg, zip_of

from catsdogs import predict
from catsdogs.base.errors import UserError
from catsdogs.config.schema import AugmentationConfig, TtaConfig
from catsdogs.final.pipeline import Pipeline, write_pipeline
from catsdogs.predict import _images


def test_content_decides_and_skipped_files_and_long_ids_are_named(tmp_path, capsys):
    root = folder_of(
        tmp_path, {"a/x": jpeg(1), "a/2.heic": HEIC, "a/notes.txt": b"", "b/x.dat": jpeg(2), "c/test/1": jpeg(3)}
    )
    zip_of(root / "c/stray", {"stray.jpg": jpeg(1), "test/1": jpeg(2), "test/2": jpeg(3)})
    ids, files = _images([root / "a", root / "b/x.dat"], tmp_path / "cache")
    assert files == [root / "a/2.heic", root / "a/x", root / "b/x.dat"]
    assert ids == ["2", "a/x", "b/x"]  # as in predictions.csv
    skipped, shared = capsys.readouterr().err.splitlines()
    assert skipped == f"warning: {root / 'a'}: skipping 1 file that is hidden or no image: notes.txt"
    assert shared == "warning: several images have the id x; adding their folders"
    assert _images([root / "c/stray"], tmp_path / "cache")[0] == ["stray", "test/1", "test/2"]
    assert "2 of 3 ids carry the folder test" in capsys.readouterr().err
    assert _images([root / "b/x.dat", root / "c/test/1"], tmp_path / "cache")[0] == ["b/x", "c/test/1"]
    with pytest.raises(UserError, match=r"notes\.txt: not an image"):
        _images([root / "a/notes.txt"], tmp_path / "cache")
    with pytest.raises(UserError, match="passed 2 times"):
        _images([root / "a", root / "a/x"], tmp_path / "cache")


def save_model(file):
    """Save a model that returns the mean of the pixels, from 0 to 1."""
    inputs = keras.Input((16, 16, 3))
    mean = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(inputs))
    keras.Model(inputs, keras.layers.Dense(1, "linear", kernel_initializer=Constant(1 / 3))(mean)).save(file)


@pytest.mark.parametrize(("limit", "counts"), [(2**27, [3]), (2 * 16 * 16 * 3, [2, 1]), (1, [1, 1, 1])])
def test_the_pixels_of_a_chunk_are_limited(tmp_path, monkeypatch, limit, counts):
    folder_of(tmp_path / "pets", {f"{number}.jpg": jpeg(number) for number in range(3)})
    save_model(tmp_path / "model.keras")
    monkeypatch.setattr(predict, "_CHUNK_BYTES", limit)
    sizes, predict_chunk = [], predict._predict_chunk

    def recorded(forward, size, paths, *others):
        sizes.append(len(paths))
        return predict_chunk(forward, size, paths, *others)

    monkeypatch.setattr(predict, "_predict_chunk", recorded)
    assert predict._predict([str(tmp_path / "model.keras"), str(tmp_path / "pets")]) == 0
    assert sizes == counts


@pytest.mark.parametrize(
    ("model", "options"), [("", []), ("best", []), ("best", ["--plain"]), ("best/model.keras", [])]
)
def test_images_are_resized_as_in_training(tmp_path, capsys, model, options):
    (tmp_path / "wide.png").write_bytes(encoded(Image.new("RGB", (32, 8), "white"), "PNG"))
    save_model(folder_of(tmp_path / "best", {"empty.jpg": b""}) / "model.keras")
    tta, augmentation = TtaConfig("none", 1, "probability"), AugmentationConfig(0, 0, 0, 0, 0, 0, 0, 0, "reflect")
    write_pipeline(tmp_path / "best", Pipeline(tta, augmentation, 1, None, resize="pad", threshold=0.63), {})
    images = [str(tmp_path / "wide.png"), str(tmp_path / "best/empty.jpg")]
    assert predict._predict([str(tmp_path / model), *images, *options]) == 0
    header, wide, empty = capsys.readouterr().out.splitlines()
    (name, label, predicted), threshold = wide.split(","), 0.25 + 0.75 * 127 / 255
    assert (header, empty) == ("id,label,class", "best/empty,0.5,")
    assert (name, float(label), predicted) == ("wide", pytest.approx(threshold, abs=1e-4), "cat")
