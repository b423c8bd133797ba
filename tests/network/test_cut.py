import keras
import numpy as np
import pytest

from catsdogs.base.errors import UserError
from catsdogs.config.compose import to_search_config
from catsdogs.config.locations import conf_dir
from catsdogs.network.backbones import build_backbone, preprocess
from catsdogs.network.classifier import unfreeze
from catsdogs.network.cut import Cut, find_cut, prefix, suffix

BACKBONES = sorted(file.stem for file in (conf_dir() / "backbone").glob("*.yaml"))


@pytest.fixture
def network(composed):
    """Build a backbone for small images with random weights and batch statistics; also return its preprocessing."""

    def build(name, size=64):
        config = to_search_config(composed("data.train=x", f"backbone={name}", "backbone.weights=null")).backbone
        config.weights, config.image_size = None, 71 if name == "xception" else size
        keras.utils.set_random_seed(1)
        backbone = build_backbone(config)
        randomize(backbone)
        return backbone, config.preprocessing

    return build


def randomize(model):
    """Set random scales and matching statistics, because a new BatchNormalization is nearly the identity."""
    random = np.random.default_rng(2)
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in norms:
        layer.momentum = 0.0
        for variable in (layer.gamma, layer.beta):
            if variable is not None:
                variable.assign(variable + random.uniform(-0.5, 0.5, variable.shape))
    if norms:
        model.trainable = True
        model(pixels(model) / 127.5 - 1, training=True)
        model.trainable = False


def pixels(backbone):
    """Return two different images: coarse noise, and fine noise that gets brighter along one axis."""
    size = backbone.input_shape[1]
    random = np.random.default_rng(0)
    coarse = np.kron(random.uniform(0, 255, (size // 8 + 1, size // 8 + 1, 3)), np.ones((8, 8, 1)))[:size, :size]
    fine = random.uniform(0, 255, (size, size, 3)) * np.linspace(0, 1, size)[:, None]
    return np.stack([coarse, fine]).astype("float32")


def trunk(backbone, preprocessing, images):
    """Return the output of the uncut trunk in inference mode."""
    return np.asarray(keras.ops.mean(backbone(preprocess(images, preprocessing), training=False), axis=(1, 2)))


def assert_same(outputs, expected):
    """Assert equality to 1e-4 of the largest value: up to 270 float32 layers sum in a different order."""
    np.testing.assert_allclose(outputs, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)


def same_objects(one, other):
    return {id(variable) for variable in one} == {id(variable) for variable in other}


def residual(size=8, drop=0.0):
    """Build conv - BN - [conv - BN - Dropout + shortcut] - [bare `x + conv(x)`] - Sequential, with a shared ReLU."""
    relu = keras.layers.ReLU(name="relu")
    inputs = keras.Input((size, size, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", name="stem")(inputs)
    x = keras.layers.BatchNormalization(name="stem_bn")(x)
    shortcut = relu(x)
    x = keras.layers.Conv2D(4, 3, padding="same", name="block_conv")(shortcut)
    x = keras.layers.BatchNormalization(name="block_bn")(x)
    x = keras.layers.Dropout(drop, name="block_drop")(x)
    x = keras.layers.Add(name="block_add")([x, shortcut])
    y = relu(x)
    y = keras.layers.Conv2D(4, 1, name="bare_conv")(y)
    x = x + y
    x = keras.Sequential([keras.layers.Conv2D(8, 2, strides=2), keras.layers.ReLU()], name="down")(x)
    x = keras.layers.Conv2D(6, 1, name="last_conv")(x)
    backbone = keras.Model(inputs, x, name="residual")
    backbone.trainable = False
    randomize(backbone)
    return backbone


@pytest.mark.parametrize("name", BACKBONES)
def test_prefix_and_suffix_equal_the_trunk_of_every_backbone(network, name):
    backbone, preprocessing = network(name)
    images = pixels(backbone)
    expected = trunk(backbone, preprocessing, images)
    layers = len(backbone.layers)
    cuts = {depth: find_cut(backbone, depth) for depth in (layers, layers // 2, 12, 0)}
    inner = {depth: cut for depth, cut in cuts.items() if cut.layer != "pixels"}
    assert len({cut.position for cut in cuts.values()}) >= 3
    outputs = prefix(backbone, preprocessing, list(inner.values()))(images, training=False)
    activations = {layers: images, **dict(zip(inner, outputs, strict=True))}
    # Deepest first, because dropout below a boundary stays disabled.
    for depth, cut in cuts.items():
        unfreeze(backbone, depth, train_batch_norm=False)
        assert activations[depth].shape == (2, *cut.shape)
        above = suffix(backbone, preprocessing, cut)
        assert_same(above(activations[depth], training=False), expected)
        assert same_objects(above.trainable_variables, backbone.trainable_variables)
        if cut.layer != "pixels":
            below = prefix(backbone, preprocessing, [cut])
            assert below.trainable_variables == []
            assert not any(getattr(layer, "rate", 0) for layer in below._flatten_layers())
    assert np.abs(expected - expected[:1]).max() > 0.01 * np.abs(expected).max()


def test_cuts_of_mobilenet_v2():
    backbone = keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=(224, 224, 3))
    assert find_cut(backbone, 0) == Cut("pool", 154, (1280,))
    ten = find_cut(backbone, 10)
    assert (ten.layer, ten.shape) == ("block_15_add", (7, 7, 160))
    assert find_cut(backbone, 20).layer == "block_14_add"
    thirty = find_cut(backbone, 30)
    assert (thirty.layer[:9], thirty.shape) == ("block_13_", (7, 7, 160))
    assert find_cut(backbone, 154) == Cut("pixels", -1, (224, 224, 3))
    # The last two layers are a frozen BatchNormalization and ReLU6.
    assert find_cut(backbone, 2).layer == "pool"
    assert find_cut(backbone, 2, train_batch_norm=True).layer != "pool"


@pytest.mark.parametrize(
    ("last_trained", "drop", "train_batch_norm", "expected"),
    [
        ("last_conv", 0.0, False, "down"),
        ("down", 0.0, False, "bare"),
        ("bare_conv", 0.0, False, "block_add"),
        ("bare_conv", 0.5, False, "block_add"),
        ("block_drop", 0.0, False, "block_add"),
        ("block_drop", 0.5, False, "stem_bn"),  # frozen, but random in training
        ("block_bn", 0.0, False, "block_add"),
        ("block_bn", 0.0, True, "stem_bn"),
        ("block_conv", 0.0, False, "stem_bn"),
        ("stem", 0.0, False, "pixels"),
    ],
)
def test_cut_is_below_all_live_layers_and_not_inside_a_block(last_trained, drop, train_batch_norm, expected):
    backbone = residual(drop=drop)
    names = [layer.name for layer in backbone.layers]
    cut = find_cut(backbone, len(names) - names.index(last_trained), train_batch_norm)
    assert cut.layer == expected or (expected == "bare" and cut.layer not in names)
    images = pixels(backbone)
    uncut = trunk(backbone, "none", images)
    if expected != "pixels":
        images = prefix(backbone, "none", [cut])(images)
    assert_same(suffix(backbone, "none", cut)(images), uncut)


def test_smaller_tensor_is_cut_only_within_the_cost_tolerance():
    def wide(narrow_filters, wide_filters):
        inputs = keras.Input((4, 4, 3))
        x = keras.layers.Conv2D(narrow_filters, 3, padding="same", name="narrow")(inputs)
        x = keras.layers.Conv2D(wide_filters, 1, name="wide")(x)
        return keras.Model(inputs, keras.layers.Conv2D(64, 3, padding="same", name="trained")(x))

    # The suffix above `wide` costs 9 * wide * 64; the one above `narrow` adds narrow * wide (4 / 576 or 160 / 576).
    assert find_cut(wide(4, 200), 1).layer == "narrow"
    assert find_cut(wide(160, 200), 1).layer == "wide"
    assert find_cut(wide(8, 8), 1).layer == "wide"


def test_find_cut_neither_changes_nor_depends_on_trainable_flags():
    backbone = residual(drop=0.5)
    depths = range(len(backbone.layers) + 1)
    before = [find_cut(backbone, depth) for depth in depths]
    assert backbone.trainable_variables == []
    assert backbone.get_layer("block_drop").rate == 0.5
    for cut in before[:-1]:
        suffix(backbone, "none", cut)
    backbone.trainable = True
    assert [find_cut(backbone, depth) for depth in depths] == before
    assert all(layer.trainable for layer in backbone.layers)
    assert len(backbone.trainable_variables) > 8


def test_cuts_of_two_copies_are_equal_and_depth_is_at_most_the_number_of_layers():
    inputs = [keras.Input((4, 4, 3)) for _ in range(2)]
    copies = [keras.Model(x, keras.layers.Conv2D(2, 1)(keras.layers.Conv2D(2, 1)(x))) for x in inputs]
    first, second = (find_cut(copy, 1) for copy in copies)
    assert first.layer != second.layer
    assert first == second
    assert len({first, second}) == 1
    with pytest.raises(UserError, match="unfreeze_depth=99"):
        find_cut(residual(), 99)
