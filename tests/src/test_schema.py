"""The schema: modes, sections, and ten broken configurations with their messages."""

import copy
import subprocess
import sys

import pytest

from common.config import ConfigError, validate
from src.schema import Config, ModelSection, services_of

BASE = {
    "operation_mode": "chain_tqeb",
    "model": {"model_name": "mobilenetv1_a025", "input_shape": "(256, 128, 3)"},
    "dataset": {
        "dataset_name": "DeepSportradar",
        "training_path": "t",
        "test_query_path": "q",
        "test_gallery_path": "g",
    },
    "training": {"batch_size": 64, "epochs": 2, "optimizer": {"Adam": {"learning_rate": 0.001}}},
    "quantization": {"quantizer": "TFlite_converter"},
}


def _broken(changes: dict) -> dict:
    raw = copy.deepcopy(BASE)
    for path, value in changes.items():
        *sections, key = path.split(".")
        section = raw
        for name in sections:
            section = section.setdefault(name, {})
        if value is ...:
            section.pop(key)
        else:
            section[key] = value
    return raw


def test_the_base_is_valid():
    config = validate(Config, BASE)
    assert config.dataset.dataset_name == "deepsportradar"
    assert config.model.input_shape == (256, 128, 3)
    assert config.preprocessing is None
    assert config.training.triplet_loss is None


@pytest.mark.parametrize(
    ("mode", "services"),
    [
        ("training", ["training"]),
        ("evaluation", ["evaluation"]),
        ("quantization", ["quantization"]),
        ("benchmarking", ["benchmarking"]),
        ("chain_tqeb", ["training", "quantization", "evaluation", "benchmarking"]),
        ("chain_tqe", ["training", "quantization", "evaluation"]),
        ("chain_eqe", ["evaluation", "quantization", "evaluation"]),
        ("chain_eqeb", ["evaluation", "quantization", "evaluation", "benchmarking"]),
        ("chain_qb", ["quantization", "benchmarking"]),
        ("chain_te", ["training", "evaluation"]),
        ("chain_tqep", ["training", "quantization", "evaluation", "prediction"]),
        ("prediction", ["prediction"]),
        ("deployment", ["deployment"]),
        ("chain_qd", ["quantization", "deployment"]),
        ("chain_ed", ["evaluation", "deployment"]),
        ("distillation", ["distillation"]),
        ("chain_ke", ["distillation", "evaluation"]),
        ("chain_tkqeb", ["training", "distillation", "quantization", "evaluation", "benchmarking"]),
        (
            "chain_tekqeb",
            ["training", "evaluation", "distillation", "quantization", "evaluation", "benchmarking"],
        ),
        ("chain_tqebd", ["training", "quantization", "evaluation", "benchmarking", "deployment"]),
    ],
)
def test_a_mode_is_a_list_of_services(mode, services):
    assert list(services_of(mode)) == services


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("chain_qt", "training starts a model, so it comes first"),
        ("chain_bq", "benchmarking measures the final model, so it comes last"),
        ("chain_ee", "evaluation twice in a row measures the same model twice"),
        ("chain_tqq", "quantization appears more than once"),
        ("chain_txe", "there is no service 'x'"),
        ("chain_t", "a single service is written operation_mode: training"),
        ("predict", "unknown operation mode 'predict'"),
        ("chain_pqp", "prediction appears more than once"),
        ("chain_tbp", "benchmarking measures the final model, so it comes last"),
        ("chain_", "unknown operation mode 'chain_'"),
        ("chain_qde", "deployment packages the final model, so it comes last"),
        ("chain_qdd", "deployment appears more than once"),
        ("chain_qbed", "benchmarking measures the final model, so it comes last, or just before deployment"),
        ("chain_qk", "distillation makes a float model, so it comes before all but training and evaluation"),
        ("chain_kk", "distillation appears more than once"),
        ("chain_kt", "training starts a model, so it comes first"),
        ("chain_ked", "deployment packages an INT8 model, so quantization comes before it"),
        ("chain_ted", "deployment packages an INT8 model, so quantization comes before it"),
    ],
)
def test_a_nonsensical_chain_is_refused_with_the_reason(mode, reason):
    with pytest.raises(ConfigError, match=f"operation_mode: .*{reason}"):
        validate(Config, _broken({"operation_mode": mode}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainig": {}}, "trainig: unknown key, did you mean 'training'?"),
        ({"training.epoch": 3}, "training.epoch: unknown key, did you mean 'epochs'?"),
        ({"general.logs_dir": "/tmp"}, "general.logs_dir: expected the name of a folder inside the run's output folder"),
        ({"general.saved_models_dir": "../x"}, "general.saved_models_dir: expected the name of a folder inside the"),
        ({"training.epochs": 0}, "training.epochs: should be greater than or equal to 1 (received 0)"),
        ({"training.batch_size": ...}, "training.batch_size: required, but missing"),
        ({"training.batch_size": 30}, "batch_size must be a multiple of images_per_identity (P x K), received 30 and 4"),
        ({"training.optimizer": "Adamm"}, "training.optimizer: unknown optimizer 'Adamm', did you mean 'Adam'?"),
        (
            {"training.optimizer": {"Adam": {"lr": 0.1}}},
            "training.optimizer: optimizer 'Adam' has no argument 'lr'",
        ),
        (
            {"model.model_name": "mobilenet_a025"},
            "model.model_name: unknown model 'mobilenet_a025', did you mean 'mobilenetv",
        ),
        ({"model": {"model_path": "x.keras", "pretrained": True}}, "model: pretrained cannot be set with model_path"),
        ({"model": {"model_path": "x.keras", "arguments": {"width": 8}}}, "model: arguments cannot be set with model_path"),
        ({"training.resume_training": True}, "training.resume_training needs model.model_path, a last_augmented_model.keras"),
        ({"model.model_path": "x.keras"}, "model: expected exactly one of model_name and model_path, received both"),
        (
            {"quantization.granularity": "per_chanel"},
            "quantization.granularity: unknown value 'per_chanel', did you mean 'per_channel'?",
        ),
        (
            {"quantization.activation_bits": 16, "quantization.quantizer": "tfmot_qat"},
            "activation_bits: 16 takes quantizer Onnx_quantizer, received tfmot_qat",
        ),
        (
            {"quantization.granularity": "per_tensor", "quantization.quantizer": "tfmot_qat"},
            "quantizer tfmot_qat quantizes weights per channel, but granularity is per_tensor",
        ),
        ({"quantization": ...}, "operation_mode 'chain_tqeb' needs the section 'quantization'"),
        ({"dataset.training_path": None}, "operation_mode 'chain_tqeb' needs dataset.training_path"),
        ({"dataset.test_query_path": None}, "test_query_path and test_gallery_path go together"),
        ({"dataset.dataset_name": "Market1502"}, "dataset.dataset_name: unknown dataset 'Market1502', did you mean 'market1501'"),
        ({"dataset.prediction_query_path": "p"}, "prediction_query_path and prediction_gallery_path go together"),
        ({"preprocessing.rescaling.scale": "1/0"}, "preprocessing.rescaling.scale: should be a valid number"),
        ({"preprocessing.rescaling.offset": [1, "x"]}, "preprocessing.rescaling.offset: should be a valid number, or a list of one for each channel (received [1, 'x'])"),
        ({"preprocessing.resizing.interpolation": "cubic"}, "preprocessing.resizing.interpolation: unknown value 'cubic', did you mean 'bicubic'?"),
        ({"training.callbacks": {"TensorBoard": {}}}, "callback 'TensorBoard' is built in and cannot be redefined"),
        ({"training.callbacks": {"LRCosineDecay": {"inital_lr": 1}}}, "has no argument 'inital_lr', did you mean 'initial_lr'?"),
        ({"data_augmentation.random_flop": {}}, "data_augmentation: unknown augmentation 'random_flop', did you mean 'random_flip'?"),
        ({"training.triplet_loss": {"mergin": 0.3}}, "training.triplet_loss.mergin: unknown key, did you mean 'margin'?"),
        ({"training.images_per_identity": 1, "training.triplet_loss": {}}, "triplet_loss needs a positive and a negative in the batch"),
        ({"quantization.quantization_type": "QAT"}, "quantizer TFlite_converter does PTQ, but quantization_type is QAT"),
        ({"model.input_shape": "(8, 8, 3)"}, "input_shape must be (height, width, channels) with at least 32 x 32 pixels"),
        ({"deployment.board": "QCS8551"}, "deployment.board: unknown value 'QCS8551', did you mean 'QCS8550'?"),
        ({"evaluation.emulated_identities": 9}, "emulated_identities is about the emulator, but target is host: set target"),
        ({"benchmarking.vtmc_mb": 4}, "benchmarking.vtmc_mb: unknown key, did you mean 'vtcm_mb'?"),
        ({"benchmarking.vtcm_mb": 17}, "benchmarking.vtcm_mb: should be less than or equal to 16 (received 17)"),
        ({"benchmarking.graph_optimization": 4}, "graph_optimization: should be less than or equal to 3 (received 4)"),
        ({"deployment.performance_mode": "brust"}, "deployment.performance_mode: unknown value 'brust', did you mean 'burst'?"),
        ({"deployment.gate.latency": 5}, "deployment.gate.latency: unknown key, did you mean 'latency_ms'?"),
        ({"deployment.gate.rank1": 68}, "deployment.gate.rank1: should be less than or equal to 1 (received 68)"),
        ({"deployment.gate.on_failure": "stop"}, "deployment.gate.on_failure: unknown value 'stop'"),
        ({"operation_mode": "evaluation"}, "operation_mode 'evaluation' needs model.model_path"),
    ],
)  # fmt: skip
def test_a_broken_configuration_is_answered_by_its_key(changes, message):
    with pytest.raises(ConfigError) as error:
        validate(Config, _broken(changes))
    assert message in str(error.value)


def test_a_network_for_two_modalities_may_start_from_a_file_and_no_other():
    start = {"model_path": "phase1.keras", "arguments": {"backbone": "plain_cnn"}}
    config = validate(Config, _broken({"model": {"model_name": "agw", **start}}))
    assert config.model.model_path is not None
    with pytest.raises(ConfigError, match="expected exactly one of model_name and model_path, received both"):
        validate(Config, _broken({"model": {"model_name": "osnet_a025", "model_path": "phase1.keras"}}))


def test_the_wrong_kind_of_model_file_is_refused():
    raw = _broken({"operation_mode": "quantization", "model": {"model_path": "m.tflite"}})
    with pytest.raises(ConfigError, match=r"takes a .keras file, model.model_path is m.tflite"):
        validate(Config, raw)


def test_an_empty_section_means_its_defaults():
    assert validate(Config, _broken({"general": None, "evaluation": None})).general.global_seed == 123


def test_the_schema_is_light():
    code = (
        "import sys, src.schema; sys.exit(any(m in sys.modules for m in ('tensorflow', 'keras', 'mlflow')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


P_BY_K = {"training.batch_size": ..., "training.p_size": 8, "training.k_size": 4}


@pytest.mark.parametrize(
    ("changes", "batch_size"),
    [
        ({"training.sampler": "identities"}, 32),
        ({"training.sampler": "cross_modal"}, 64),
        (
            {
                "training.sampler": "cross_modal",
                "data_augmentation_second_view": {"random_channel_exchange": None},
            },
            96,
        ),
    ],
)
def test_p_and_k_are_the_size_of_a_batch(changes, batch_size):
    training = validate(Config, _broken({**P_BY_K, **changes})).training
    assert (training.batch_size, training.images_per_identity) == (batch_size, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training.batch_size": 64}, "received batch_size too (~training.batch_size on the command line takes it away)"),
        ({"training.images_per_identity": 4}, "received images_per_identity too"),
        ({}, "expected p_size, k_size and sampler (identities or cross_modal) together"),
        ({"training.sampler": "cross_modal", "training.k_size": None}, "expected p_size, k_size and sampler"),
        ({"training.sampler": "cross_modal", "training.p_size": 0}, "training.p_size: should be greater than or equal to 1"),
    ],
)  # fmt: skip
def test_the_size_of_a_batch_is_stated_once_and_whole(changes, message):
    with pytest.raises(ConfigError) as error:
        validate(Config, _broken({**P_BY_K, **changes}))
    assert message in str(error.value)


def test_losses_of_the_second_branch_need_the_model_that_has_it():
    losses = {"cross_entropy": {"on": ["logits", "specific_logits"]}, "modality_confusion": {}}
    with pytest.raises(ConfigError) as error:
        validate(Config, _broken({"training.losses": losses}))
    assert "loss 'cross_entropy' sees specific_logits, which only model_name: idkl has" in str(error.value)
    assert "loss 'modality_confusion' sees confusion_logits, which only model_name: idkl has" in str(
        error.value
    )
    validate(Config, _broken({"training.losses": losses, "model.model_name": "idkl"}))
    off = {**losses, "modality_confusion": {"weight": 0}, "cross_entropy": {}}
    validate(Config, _broken({"training.losses": off}))


def test_a_model_file_has_the_shape_that_is_stated():
    section = validate(ModelSection, {"model_path": "a.keras", "input_shape": "(64, 32, 3)"})
    section.require_shape((64, 32, 3))
    validate(ModelSection, {"model_path": "a.keras"}).require_shape((64, 32, 3))
    with pytest.raises(
        ConfigError, match=r"model.input_shape is \(64, 32, 3\), but the input of a.keras is \(64, 32, 1\)"
    ):
        section.require_shape((64, 32, 1))


def test_the_schema_of_editors_takes_a_batch_in_either_way():
    training = Config.model_json_schema()["$defs"]["Training"]
    assert "batch_size" not in training["required"]
    assert {tuple(way["required"]) for way in training["anyOf"]} == {
        ("batch_size",),
        ("p_size", "k_size", "sampler"),
    }
