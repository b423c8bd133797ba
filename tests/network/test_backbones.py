import dataclasses
import importlib
from unittest.mock import Mock

import keras
import numpy as np
import pytest
from omegaconf import OmegaConf

from catsdogs.base.errors import UserError
from catsdogs.config.compose import to_search_config
from catsdogs.config.locations import conf_dir
from catsdogs.network.backbones import build_backbone, preprocess, pretrained_file
from catsdogs.network.classifier import PROBABILITIES, unfreeze
from catsdogs.network.merging import merge_models
from catsdogs.scoring.combination import Combination

BACKBONES = {file.stem: OmegaConf.load(file) for file in sorted((conf_dir() / "backbone").glob("*.yaml"))}
OF_KERAS = [settings for settings in BACKBONES.values() if settings.builder.startswith("keras.applications.")]


@pytest.fixture
def backbone(composed):
    def settings(name, **changed):
        words = ("data.train=x", f"backbone={name}", "backbone.weights=null", "backbone.image_size=96")
        config = to_search_config(composed(*words)).backbone
        return dataclasses.replace(config, **{"weights": None, **changed})

    return settings


@pytest.mark.parametrize(
    ("preprocessing", "builder"),
    [
        ("bgr_minus_mean", "ResNet50"),
        ("imagenet_standardized", "DenseNet121"),
        *((settings.preprocessing, settings.builder.removeprefix("keras.applications.")) for settings in OF_KERAS),
    ],
)
def test_preprocessing_equals_keras_applications_after_saving(preprocessing, builder, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3)).astype("float32")
    inputs = keras.Input((5, 7, 3))
    outputs = keras.layers.Identity()(preprocess(inputs, preprocessing))
    keras.Model(inputs, outputs).save(tmp_path / "model.keras")
    preprocessed = keras.models.load_model(tmp_path / "model.keras").predict(images, verbose=0)
    family = importlib.import_module(getattr(keras.applications, builder).__module__)
    expected = family.preprocess_input(images.copy())
    np.testing.assert_allclose(preprocessed, expected, atol=2e-4)


@pytest.mark.parametrize("name", ["small.weights.h5", "small.h5"])
def test_saved_weights_are_loaded(backbone, tmp_path, name):
    network = build_backbone(backbone("small_cnn"))
    network.save_weights(tmp_path / "small.weights.h5")
    path = (tmp_path / "small.weights.h5").rename(tmp_path / name)
    loaded = build_backbone(backbone("small_cnn", weights=str(path)))
    for a, b in zip(network.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def final_model(network, outputs=1):
    inputs = keras.Input(network.input_shape[1:])
    pooled = keras.layers.GlobalAveragePooling2D()(network(preprocess(inputs, "minus_one_to_one")))
    return keras.Model(inputs, keras.layers.Dense(outputs, activation="sigmoid", name=PROBABILITIES)(pooled))


@pytest.mark.parametrize("name", ["small_cnn", "mobilenet_v2_035"])
def test_weights_are_those_of_the_backbone_in_an_own_model(backbone, tmp_path, name):
    network = build_backbone(backbone(name))
    unfreeze(network, 5, False)
    final_model(network).save(file := str(tmp_path / "model.keras"))
    loaded = build_backbone(backbone(name, weights=file, image_size=64))
    assert (loaded.input_shape[1], loaded.trainable_variables) == (64, [])
    for a, b in zip(network.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    other = backbone("small_cnn", arguments={"filters": 8}, weights=file)
    assert error_of(other).startswith(f"backbone.weights={file}: not weights of backbone.builder=catsdogs.")


def test_an_ensemble_and_code_in_a_model_are_refused(backbone, tmp_path):
    models = [final_model(build_backbone(backbone("small_cnn"))) for _ in range(2)]
    merge_models(models, Combination("probability", (0.5, 0.5))).save(file := str(tmp_path / "model.keras"))
    assert f"backbone.weights={file}: is an ensemble" in error_of(backbone("small_cnn", weights=file))
    inputs = keras.Input((96, 96, 3))
    keras.Model(inputs, keras.layers.Lambda(lambda x: x)(inputs)).save(file)
    assert f"{file}: cannot be loaded (" in error_of(backbone("small_cnn", weights=file))


def test_architecture_of_efficientnet_lite0(backbone):
    network = build_backbone(backbone("efficientnet_lite0"))
    assert network.count_params() == 3_413_024  # of the published network without its top
    assert network.output_shape == (None, 3, 3, 1280)
    kernels = [layer.kernel_size for layer in network.layers if isinstance(layer, keras.layers.DepthwiseConv2D)]
    assert [side for side, _ in kernels] == [3, 3, 3, 5, 5, 3, 3, 3, 5, 5, 5, 5, 5, 5, 5, 3]
    pixels = np.array([0, 127, 255], "float32").reshape(1, 1, 1, 3)
    np.testing.assert_allclose(network.get_layer("rescaling")(pixels)[0, 0, 0], [-127 / 128, 0, 1], atol=1e-6)


def error_of(config):
    with pytest.raises(UserError) as caught:
        build_backbone(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_weights_of_another_model_and_corrupted_files_are_refused(backbone, tmp_path):
    path = tmp_path / "other.weights.h5"
    build_backbone(backbone("small_cnn", arguments={"filters": 8})).save_weights(path)
    assert str(path) in error_of(backbone("small_cnn", weights=str(path)))
    assert str(path) in error_of(backbone("mobilenet_v2_035", weights=str(path)))
    path.write_text("not weights")
    assert str(path) in error_of(backbone("small_cnn", weights=str(path)))


def test_failed_download_explains_offline_use(backbone, monkeypatch):
    error = Exception("URL fetch failure on https://example.invalid/w.h5: None -- Name or service not known")
    monkeypatch.setattr("keras.src.applications.mobilenet_v2.file_utils.get_file", Mock(side_effect=error))
    text = error_of(backbone("mobilenet_v2", weights="imagenet"))
    file = "copy mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_96_no_top.h5 (Keras has no digest"
    for word in (file, "URL fetch failure", "backbone.weights=PATH", "experiment=quickstart"):
        assert word in text


def test_the_pretrained_file_is_named_with_its_digest(backbone):
    expected = "xception_weights_tf_dim_ordering_tf_kernels_notop.h5 (MD5 b0042744bf5b25fce3cb969f33bebb97)"
    assert pretrained_file(backbone("xception")) == expected
    with pytest.raises(UserError, match="no pretrained weights"):
        pretrained_file(backbone("small_cnn"))


def test_space_of_small_cnn_reaches_all_layers(composed, backbone):
    values = composed("data=sample", "backbone=small_cnn", "space=small_cnn").space["unfreeze_depth"]["values"]
    assert max(values) == len(build_backbone(backbone("small_cnn")).layers)


def test_unknown_builder_and_invalid_arguments_are_refused(backbone):
    assert "small_cnn has no pretrained weights" in error_of(backbone("small_cnn", weights="imagenet"))
    assert "set backbone.weights to their file" in error_of(backbone("efficientnet_lite0", weights="imagenet"))
    assert "MobileNetV9" in error_of(backbone("small_cnn", builder="keras.applications.MobileNetV9"))
    assert "nowhere" in error_of(backbone("small_cnn", builder="nowhere.function"))
    assert "alpah" in error_of(backbone("mobilenet_v2", arguments={"alpah": 1.0}))
