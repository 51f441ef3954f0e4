"""The thirty names that break real checkpoints most often, written as projects do.

Source: the survey of traced public models and issue threads the project started from.
Where the name is data it comes back as data; else as an opaque value, which holds the
name, the arguments and the state, and which the default refuses by name.
"""

from __future__ import annotations

import collections
import io
import zipfile
from argparse import Namespace

import numpy as np
import pytest
import torch

import safemodel
from safemodel import Opaque, safe_load
from tests.differential.pickles import Floats, Global, Made, assemble, instance, member
from tests.differential.same import assert_same

TRAINER = "transformers.trainer_utils"
ARGUMENTS = "transformers.training_args"


def archive(value, protocol):
    """Return a file of torch's around a pickle; its storages count from 0."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as made:
        made.writestr("archive/data.pkl", assemble(value, protocol))
        for key in _keys(value):
            content = np.arange(key.count, dtype="<f4").tobytes()
            made.writestr(f"archive/data/{key.key}", content)
        made.writestr("archive/byteorder", "little")
        made.writestr("archive/version", "3\n")
    return file.getvalue()


def _keys(value):
    """Return the tensors in a value."""
    found, waiting = [], [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Floats):
            found.append(part)
        elif isinstance(part, dict):
            waiting += part.values()
        elif isinstance(part, (list, tuple)):
            waiting += part
        elif isinstance(part, Made):
            waiting += [part.args, part.state, part.pairs, part.elements]
    return found


def module(cls, *, parameters=None, children=None, **attributes):
    """Return a pickled module, as `torch.nn.Module` pickles itself."""
    ordered = "collections.OrderedDict"
    return instance(
        cls,
        training=False,
        _parameters=Made(ordered, pairs=parameters or {}, new=False),
        _buffers=Made(ordered, new=False),
        _non_persistent_buffers_set=Made("builtins.set", ([],), new=False),
        _modules=Made(ordered, pairs=children or {}, new=False),
        **attributes,
    )


# Opaque: number in the survey and name → what a file holds.
OPAQUE = {
    "1 SchedulerType": (
        member(f"{TRAINER}.SchedulerType", "linear"),
        [f"{TRAINER}.SchedulerType"],
    ),
    "2 IntervalStrategy": (
        member(f"{TRAINER}.IntervalStrategy", "no"),
        [f"{TRAINER}.IntervalStrategy"],
    ),
    "3 TrainingArguments": (
        instance(
            f"{ARGUMENTS}.TrainingArguments",
            learning_rate=5e-5,
            lr_scheduler_type=member(f"{TRAINER}.SchedulerType", "linear"),
            optim=member(f"{ARGUMENTS}.OptimizerNames", "adamw_torch"),
            hub_strategy=member(f"{TRAINER}.HubStrategy", "every_save"),
        ),
        [
            f"{ARGUMENTS}.TrainingArguments",
            f"{TRAINER}.SchedulerType",
            f"{ARGUMENTS}.OptimizerNames",
            f"{TRAINER}.HubStrategy",
        ],
    ),
    "4 HubStrategy": (
        member(f"{TRAINER}.HubStrategy", "every_save"),
        [f"{TRAINER}.HubStrategy"],
    ),
    "5 OptimizerNames": (
        member(f"{ARGUMENTS}.OptimizerNames", "adamw_hf"),
        [f"{ARGUMENTS}.OptimizerNames"],
    ),
    "9 Seq2SeqTrainingArguments": (
        instance("transformers.training_args_seq2seq.Seq2SeqTrainingArguments", a=1),
        ["transformers.training_args_seq2seq.Seq2SeqTrainingArguments"],
    ),
    "10 PartialState": (
        instance("accelerate.state.PartialState", num_processes=1),
        ["accelerate.state.PartialState"],
    ),
    "11 DistributedType": (
        member("accelerate.utils.dataclasses.DistributedType", "NO"),
        ["accelerate.utils.dataclasses.DistributedType"],
    ),
    "12 flair Dictionary": (
        instance("flair.data.Dictionary", item2idx={"a": 0}, idx2item=["a"]),
        ["flair.data.Dictionary"],
    ),
    "13 EvaluationStrategy": (
        member(f"{TRAINER}.EvaluationStrategy", "epoch"),
        [f"{TRAINER}.EvaluationStrategy"],
    ),
    "17 pyannote": (
        {
            "specifications": instance(
                "pyannote.audio.core.task.Specifications",
                problem=member("pyannote.audio.core.task.Problem", 1),
                resolution=member("pyannote.audio.core.task.Resolution", 2),
            )
        },
        [
            "pyannote.audio.core.task.Specifications",
            "pyannote.audio.core.task.Problem",
            "pyannote.audio.core.task.Resolution",
        ],
    ),
    "21 HfTrainerDeepSpeedConfig": (
        instance("transformers.deepspeed.HfTrainerDeepSpeedConfig", config={"a": 1}),
        ["transformers.deepspeed.HfTrainerDeepSpeedConfig"],
    ),
    "22 IterableSimpleNamespace": (
        instance("ultralytics.utils.IterableSimpleNamespace", box=7.5),
        ["ultralytics.utils.IterableSimpleNamespace"],
    ),
    "24 omegaconf": (
        Made(
            "omegaconf.listconfig.ListConfig",
            state={
                "_metadata": instance(
                    "omegaconf.base.ContainerMetadata",
                    object_type=Global("builtins.list"),
                ),
                "_content": [
                    instance(
                        "omegaconf.nodes.AnyNode",
                        _val=1,
                        _metadata=instance("omegaconf.base.Metadata", key=0),
                    )
                ],
            },
        ),
        [
            "omegaconf.listconfig.ListConfig",
            "omegaconf.base.ContainerMetadata",
            "omegaconf.nodes.AnyNode",
            "omegaconf.base.Metadata",
        ],
    ),
    "25 Any": ({"ref_type": Global("typing.Any")}, ["typing.Any"]),
    "26 callbacks": (
        {
            "callbacks": {
                Global("pytorch_lightning.callbacks.early_stopping.EarlyStopping"): {
                    "patience": 3
                },
                Global(
                    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"
                ): {"best": 0.5},
            }
        },
        [
            "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
            "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
        ],
    ),
    "27 fairseq Dictionary": (
        instance("fairseq.data.dictionary.Dictionary", symbols=["<s>"], count=[1]),
        ["fairseq.data.dictionary.Dictionary"],
    ),
    "28 HistoryBuffer": (
        instance("mmengine.logging.history_buffer.HistoryBuffer", max_length=10),
        ["mmengine.logging.history_buffer.HistoryBuffer"],
    ),
    "29 torch_geometric": (
        [
            instance("torch_geometric.data.data.DataEdgeAttr", attr_name="e"),
            instance("torch_geometric.data.data.DataTensorAttr", attr_name="t"),
        ],
        [
            "torch_geometric.data.data.DataEdgeAttr",
            "torch_geometric.data.data.DataTensorAttr",
        ],
    ),
    "30 LossScaler": (
        {
            "scaler": instance("deepspeed.runtime.fp16.loss_scaler.LossScaler", a=1),
            "stage": member("deepspeed.runtime.zero.config.ZeroStageEnum", 2),
        },
        [
            "deepspeed.runtime.fp16.loss_scaler.LossScaler",
            "deepspeed.runtime.zero.config.ZeroStageEnum",
        ],
    ),
    "30 getattr": (
        Made("builtins.getattr", (Global("pkg.Kind"), "NAME"), new=False),
        ["builtins.getattr", "pkg.Kind"],
    ),
    "30 partial": (
        Made(
            "functools.partial",
            (Global("torch.nn.modules.linear.Linear"),),
            state=(Global("torch.nn.modules.linear.Linear"), (), {"bias": False}, None),
            new=False,
        ),
        ["functools.partial", "torch.nn.modules.linear.Linear"],
    ),
    "30 ZoneInfo": (
        Made("zoneinfo.ZoneInfo._unpickle", ("Europe/Paris", 1), new=False),
        ["zoneinfo.ZoneInfo._unpickle"],
    ),
    "30 XttsConfig": (
        instance("TTS.tts.configs.xtts_config.XttsConfig", model="xtts"),
        ["TTS.tts.configs.xtts_config.XttsConfig"],
    ),
}

NDARRAY = "numpy.ndarray"


def dtype(code, protocol_state=(3, "<", None, None, None, -1, -1, 0)):
    return Made(
        "numpy.dtype", (code, False, True), state=protocol_state, new=False
    )  # fmt: skip


def array(package):
    """Return an array as numpy pickles it, under its old or its new module."""
    return Made(
        f"{package}.multiarray._reconstruct",
        (Global(NDARRAY), (0,), b"b"),
        state=(1, (2,), dtype("f4"), False, np.array([1, 2], "<f4").tobytes()),
        new=False,
    )


def scalar(package):
    return Made(
        f"{package}.multiarray.scalar",
        (dtype("f8"), np.float64(1.5).tobytes()),
        new=False,
    )


TWO = np.array([1, 2], "<f4")

# Data: number in the survey and name → what a file holds, and what comes back.
DATA = {
    "6 dtype": (dtype("f4"), np.dtype("<f4")),
    "7 numpy.core _reconstruct": (array("numpy.core"), TWO),
    "7 numpy._core _reconstruct": (array("numpy._core"), TWO),
    "8 ndarray": ({"a": array("numpy.core")}, {"a": TWO}),
    "15 Namespace": (
        {"args": instance("argparse.Namespace", arch="transformer", lr=[0.1])},
        {"args": Namespace(arch="transformer", lr=[0.1])},
    ),
    "16 TorchVersion": (
        Made("torch.torch_version.TorchVersion", ("2.1.0+cu121",)),
        "2.1.0+cu121",
    ),
    "20 defaultdict": (
        Made(
            "collections.defaultdict",
            (Global("builtins.dict"),),
            pairs={0: {"step": 1}},
            new=False,
        ),
        collections.defaultdict(dict, {0: {"step": 1}}),
    ),
    "23 numpy.core scalar": (scalar("numpy.core"), np.float64(1.5)),
    "23 numpy._core scalar": (scalar("numpy._core"), np.float64(1.5)),
    "30 slice": (Made("builtins.slice", (1, None, 2), new=False), slice(1, None, 2)),
}

CONV = "torch.nn.modules.conv.Conv2d"
NORM = "torch.nn.modules.batchnorm.BatchNorm2d"
SEQUENTIAL = "torch.nn.modules.container.Sequential"

# Modules: number in the survey and name → the file, the names in it, its weights.
MODULES = {
    "14 torch.nn": (
        module(
            SEQUENTIAL,
            children={
                "0": module(CONV, parameters={"weight": Floats("0", 3)}),
                "1": module(NORM, parameters={"weight": Floats("1", 2), "bias": None}),
                "2": module("torch.nn.modules.activation.SiLU"),
                "3": module("torch.nn.modules.upsampling.Upsample"),
                "4": module("torch.nn.modules.pooling.MaxPool2d"),
                "5": module("torch.nn.modules.container.ModuleList"),
            },
        ),
        {"0.weight": 3, "1.weight": 2},
    ),
    "18 DetectionModel": (
        {
            "epoch": -1,
            "model": module(
                "ultralytics.nn.tasks.DetectionModel",
                children={
                    "model": module(
                        SEQUENTIAL,
                        children={"0": module(CONV, parameters={"w": Floats("0", 4)})},
                    )
                },
                names={0: "person"},
            ),
            "ema": None,
            "train_args": {"imgsz": 640},
        },
        {"model.0.w": 4},
    ),
    "19 ultralytics modules": (
        {
            "model": module(
                "ultralytics.nn.tasks.SegmentationModel",
                children={
                    name: module(
                        f"ultralytics.nn.modules.{name}",
                        parameters={"weight": Floats(str(index), 2)},
                    )
                    for index, name in enumerate(
                        (
                            "conv.Conv",
                            "block.C2f",
                            "block.SPPF",
                            "head.Detect",
                            "block.DFL",
                            "conv.Concat",
                            "block.Bottleneck",
                        )
                    )
                },
            )
        },
        {
            f"{name}.weight": 2
            for name in (
                "conv.Conv",
                "block.C2f",
                "block.SPPF",
                "head.Detect",
                "block.DFL",
                "conv.Concat",
                "block.Bottleneck",
            )
        },
    ),
}


def first_opaque(value):
    """Return the first opaque value, and everything else there is one of."""
    waiting, found = [value], []
    while waiting:
        part = waiting.pop(0)
        if isinstance(part, Opaque):
            found.append(part)
            waiting += [part.args, part.state, part.pairs, part.elements]
        elif isinstance(part, dict):
            waiting += [*part, *part.values()]
        elif isinstance(part, (list, tuple)):
            waiting += part
    return found


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("row", OPAQUE)
def test_a_name_that_is_code_is_refused_or_opaque(row, protocol, canary):
    """All names of the file at once in the error; a record of each otherwise."""
    value, names = OPAQUE[row]
    for data in (assemble(value, protocol), archive(value, protocol)):
        with pytest.raises(safemodel.ForbiddenGlobalError) as caught:
            safe_load(data)
        assert [f"{one}.{two}" for one, two, _, _ in caught.value.globals] == names
        assert all(name in str(caught.value) for name in names)
        got = safe_load(data, weights_only=False)
        held = {one.qualified_name for one in first_opaque(got)}
        assert set(names) <= held


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("row", DATA)
def test_a_name_that_is_data_comes_back_as_data(row, protocol):
    """By default, and the same with opaque values allowed."""
    value, expected = DATA[row]
    for data in (assemble(value, protocol), archive(value, protocol)):
        assert_same(expected, safe_load(data))
        assert_same(expected, safe_load(data, weights_only=False))


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("row", MODULES)
def test_a_module_gives_its_weights_without_its_project(row, protocol):
    """`state_dict` finds the module wherever it sits."""
    value, sizes = MODULES[row]
    data = archive(value, protocol)
    with pytest.raises(safemodel.ForbiddenGlobalError):
        safe_load(data)
    weights = safemodel.state_dict(safe_load(data, weights_only=False))
    assert {name: tensor.numel() for name, tensor in weights.items()} == sizes
    assert list(weights) == list(sizes)
    for tensor in weights.values():
        assert torch.equal(tensor, torch.arange(float(tensor.numel())))


def test_every_row_of_the_survey_has_a_test():
    """Thirty rows."""
    rows = {int(row.split()[0]) for row in (*OPAQUE, *DATA, *MODULES)}
    assert rows == set(range(1, 31))


def test_an_enum_member_keeps_its_value_and_an_object_its_attributes():
    """What one reads out of `training_args.bin`."""
    value, _ = OPAQUE["3 TrainingArguments"]
    got = safe_load(archive(value, 2), weights_only=False)
    assert got["learning_rate"] == 5e-5
    assert got["lr_scheduler_type"].args == ("linear",)
    assert got["optim"].qualified_name == f"{ARGUMENTS}.OptimizerNames"
