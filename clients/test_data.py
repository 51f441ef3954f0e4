"""joblib with scikit-learn, and pandas: what comes back is data."""

from __future__ import annotations

import bz2
import pickle
import zlib

import joblib
import numpy as np
import pandas
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from twins import poison_pickle, poisoned

import safemodel

X = np.linspace(-1, 1, 80).reshape(20, 4) ** 3
Y = (X.sum(1) > 0).astype(np.int64)
OPAQUE = {"on_refuse": "opaque"}


@pytest.mark.case("joblib", "a dictionary of arrays, `joblib.load`")
def test_arrays(case, tmp_path):
    made = {"x": X, "names": ["a", "b"], "y": Y, "big": np.arange(5000)[::2]}
    file = tmp_path / "data.joblib"
    joblib.dump(made, file)
    again = case.loads(lambda: joblib.load(file))
    assert list(made) == list(again)
    assert again["names"] == ["a", "b"]
    for key in ("x", "y", "big"):
        assert np.array_equal(made[key], again[key])
        assert made[key].dtype == again[key].dtype
    poison_pickle(file)
    case.refuses(lambda: joblib.load(file), runs=True)


@pytest.mark.case("joblib", "the same, compressed (zlib, bz2)")
def test_compressed_arrays(case, tmp_path):
    for method, pack, unpack in (
        ("zlib", zlib.compress, zlib.decompress),
        ("bz2", bz2.compress, bz2.decompress),
    ):
        file = tmp_path / f"data.{method}"
        joblib.dump({"x": X}, file, compress=(method, 3))

        def load(file=file):
            return joblib.load(file)

        assert np.array_equal(X, case.loads(load)["x"])
        file.write_bytes(pack(poisoned(unpack(file.read_bytes()))))
        case.refuses(load, runs=True)
    case.note = "a twin of each"


@pytest.mark.case(
    "scikit-learn", "`LogisticRegression`, `joblib.load`", 'on_refuse="opaque"', OPAQUE
)
def test_regression(case, tmp_path):
    made = LogisticRegression().fit(X, Y)
    file = tmp_path / "model.joblib"
    joblib.dump(made, file)
    with safemodel.patched(), pytest.raises(safemodel.ForbiddenGlobalError):
        joblib.load(file)

    def load():
        found = joblib.load(file)
        again = LogisticRegression()
        for name in ("coef_", "intercept_", "classes_"):
            setattr(again, name, found[name])
        return again

    again = case.loads(load)
    assert np.array_equal(made.predict_proba(X), again.predict_proba(X))
    poison_pickle(file)
    case.refuses(load, runs=True, inert="not run; the rest loads")
    case.note = (
        "an estimator is an `Opaque`: its arrays go into a new one; refused by default"
    )


def scaler(args: tuple[object, ...], state: object) -> StandardScaler:
    """Make a scaler of its arrays, and of nothing else in the file."""
    if args or type(state) is not dict:
        raise ValueError("not a StandardScaler")
    again = StandardScaler()
    for name in ("mean_", "var_", "scale_"):
        value = state[name]
        if (
            type(value) is not np.ndarray
            or value.dtype != np.float64
            or value.ndim != 1
        ):
            raise ValueError(f"{name} is no array of numbers")
        setattr(again, name, value)
    return again


@pytest.mark.case(
    "scikit-learn",
    "`StandardScaler`, `joblib.load`",
    "policy=STRICT.with_extra(...)",
    {
        "policy": safemodel.STRICT.with_extra(
            {"sklearn.preprocessing._data.StandardScaler": scaler}
        )
    },
)
def test_scaler(case, tmp_path):
    made = StandardScaler().fit(X)
    file = tmp_path / "scaler.joblib"
    joblib.dump(made, file)
    again = case.loads(lambda: joblib.load(file))
    assert np.array_equal(made.transform(X), again.transform(X))
    poison_pickle(file)
    case.refuses(lambda: joblib.load(file), runs=True)
    case.note = "recipe below; refused without it"


@pytest.mark.case("pandas", "`read_pickle` of a frame", 'on_refuse="opaque"', OPAQUE)
def test_frame(case, tmp_path):
    made = pandas.DataFrame({"a": [1.5, 2.5], "b": [3.5, 4.5]})
    file = tmp_path / "frame.pkl"
    made.to_pickle(file)
    with safemodel.patched(), pytest.raises(safemodel.ForbiddenGlobalError):
        pandas.read_pickle(file)
    found = case.loads(lambda: pandas.read_pickle(file))
    arrays = arrays_in(found)
    assert any(np.array_equal(made.to_numpy().T, one) for one in arrays)
    poison_pickle(file)
    case.refuses(
        lambda: pandas.read_pickle(file), runs=True, inert="not run; the rest loads"
    )
    case.note = "a frame is an `Opaque` with its blocks as arrays; refused by default"


def arrays_in(value: object) -> list[np.ndarray]:
    """Return all arrays in what a frame became."""
    found, todo = [], [value]
    while todo:
        one = todo.pop()
        if isinstance(one, np.ndarray):
            found.append(one)
        elif isinstance(one, safemodel.Opaque):
            todo += [one.args, one.state]
        elif isinstance(one, (list, tuple)):
            todo += one
        elif isinstance(one, dict):
            todo += one.values()
    return found


@pytest.mark.case("pandas", "`read_pickle` of plain data, gzip")
def test_plain_data(case, tmp_path):
    import gzip

    made = {"x": X, "names": ("a", "b")}
    file = tmp_path / "data.pkl.gz"
    pandas.to_pickle(made, file)
    again = case.loads(lambda: pandas.read_pickle(file))
    assert np.array_equal(X, again["x"])
    assert again["names"] == ("a", "b")
    file.write_bytes(gzip.compress(poisoned(pickle.dumps(made))))
    case.refuses(lambda: pandas.read_pickle(file), runs=True)


@pytest.mark.case("numpy", "object arrays, `numpy.load(allow_pickle=True)`")
def test_object_arrays(case, tmp_path):
    made = np.array([{"a": 1}, None, "text", X[0]], dtype=object)
    file = tmp_path / "objects.npy"
    np.save(file, made, allow_pickle=True)

    def load():
        return np.load(file, allow_pickle=True)

    again = case.loads(load)
    assert again.dtype == object
    assert list(again[:3]) == [{"a": 1}, None, "text"]
    assert np.array_equal(again[3], X[0])
    content = file.read_bytes()
    start = 10 + int.from_bytes(content[8:10], "little")  # after the header of .npy
    file.write_bytes(content[:start] + poisoned(content[start:]))
    case.refuses(load, runs=True)
