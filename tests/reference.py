"""Reference model that is built and trained with Keras only; catsdogs must match it."""

import keras

from catsdogs.config.schema import SearchConfig
from catsdogs.network.backbones import build_backbone
from catsdogs.network.classifier import add_l2, compile_model, full_model, unfreeze
from catsdogs.network.schedules import learning_rates


def build_model(config: SearchConfig, total_steps: int, first_step: int = 0, outputs: int = 1) -> keras.Model:
    """Build and compile the full model, from pixels to probabilities.

    Preprocessing - backbone - GlobalAveragePooling2D - [BatchNormalization] - [Dense(relu)] - Dropout - Dense.
    """
    backbone = build_backbone(config.backbone)
    unfreeze(backbone, config.model.unfreeze_depth, config.backbone.train_batch_norm)
    if config.model.l2_scope == "head_and_backbone":
        add_l2(backbone, keras.regularizers.L2(config.model.l2))
    model = full_model(config, backbone, outputs)
    rates = learning_rates(config.schedule, total_steps, first_step)
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(list(range(total_steps)), rates.tolist())
    optimizer = keras.optimizers.Adam(schedule)
    optimizer.learning_rate_table = rates  # for the history only
    compile_model(model, optimizer, config.label_smoothing.epsilon)
    return model
