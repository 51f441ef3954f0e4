"""`patch`, `unpatch`, `patched`: what is replaced, by what, and how it ends."""

from __future__ import annotations

import argparse
import contextvars
import functools
import gzip
import io
import json
import os
import pickle
import signal
import sys
import threading
import types
import warnings

import numpy as np
import pytest
import torch
import torch.package

import safemodel
from safemodel import monkeypatch
from safemodel._patch import journal, switch
from safemodel.testing import CANARY, assert_refuses, hostile_files, trip

NAMES = [
    (torch, "load"),
    (torch.serialization, "load"),
    (torch.serialization, "_load"),
    (torch.serialization, "_legacy_load"),
    (torch.jit, "load"),
    (torch.jit._serialization, "load"),
    (torch._C, "import_ir_module"),
    (torch._C, "import_ir_module_from_buffer"),
    (torch.package.PackageImporter, "__init__"),
    (np, "load"),
]


class Tripping:
    """Trips the canary when it is unpickled."""

    def __reduce__(self):
        return trip, ("unpickled",)


@pytest.fixture(autouse=True)
def quiet():
    """Leave nothing patched, and let no warning of an early reference end a test."""
    CANARY.reset()
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "loaders were taken", category=safemodel.SafeModelWarning
        )
        yield
    assert not monkeypatch.is_patched()
    assert CANARY.trips == []


@pytest.fixture
def early():
    """Return a module that took `torch.load` before any patch, as imports do.

    Not this one: it would be found by whatever else is patched in this run.
    """
    module = types.ModuleType("somebody_early")
    module.load = torch.load
    sys.modules["somebody_early"] = module
    yield module
    del sys.modules["somebody_early"]


@pytest.fixture
def checkpoint(tmp_path):
    """Return a file with a tensor and a namespace."""
    path = tmp_path / "checkpoint.pt"
    torch.save({"w": torch.arange(3.0), "args": argparse.Namespace(lr=0.1)}, path)
    return path


@pytest.fixture
def hostile(tmp_path):
    """Return a checkpoint that trips the canary in `torch.load`."""
    path = tmp_path / "hostile.pt"
    torch.save({"w": torch.arange(3.0), "x": Tripping()}, path)
    return path


def looked_up():
    """Return what the names stand for now."""
    return [vars(owner)[name] for owner, name in NAMES]


def same(left, right):
    """Return whether both lists hold the same objects."""
    return all(a is b for a, b in zip(left, right, strict=True))


def test_every_name_is_replaced_and_put_back():
    """Each by its own, and the very objects that were there come back."""
    before = looked_up()

    with safemodel.patched():
        inside = looked_up()
        assert all(a is not b for a, b in zip(before, inside, strict=True))
        assert torch.load is torch.serialization.load

    assert same(looked_up(), before)


def test_what_is_loaded_is_what_torch_loads(checkpoint):
    """The same tensors and the same plain data."""
    expected = torch.load(checkpoint, weights_only=False)

    with safemodel.patched():
        found = torch.load(checkpoint, map_location="cpu")

    assert torch.equal(found["w"], expected["w"])
    assert found["args"] == expected["args"]


@pytest.mark.parametrize("hostile", hostile_files(), ids=lambda file: file.name)
def test_torch_load_refuses_hostile_files(hostile, tmp_path):
    """As `safe_load` does, with the same error."""
    path = tmp_path / hostile.file_name
    path.write_bytes(hostile.content())

    with safemodel.patched():
        assert_refuses(torch.load, path)
        with pytest.raises(hostile.error):
            torch.load(path)


def test_without_a_patch_the_hostile_file_is_hostile(hostile):
    """The control: what the tests above refuse runs in torch."""
    torch.load(hostile, weights_only=False)

    assert CANARY.trips == [("unpickled",)]
    CANARY.reset()


def test_weights_only_false_gives_opaque_values_and_one_warning(hostile):
    """One for each line of code, however often it runs."""
    with safemodel.patched(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            found = torch.load(hostile, weights_only=False)
        torch.load(hostile, weights_only=False)

    ours = [one for one in caught if "weights_only=False" in str(one.message)]
    assert isinstance(found["x"], safemodel.Opaque)
    assert [one.category for one in ours] == [safemodel.SafeModelWarning] * 2
    assert {one.filename for one in ours} == {__file__}
    assert len({one.lineno for one in ours}) == 2


def test_a_pickle_module_is_never_used(checkpoint):
    """It is code of the caller's choice, and the file would choose what it runs."""

    class Loud(types.ModuleType):
        def __getattr__(self, name):
            raise AssertionError(name)

    with safemodel.patched(), pytest.warns(safemodel.SafeModelWarning, match="pickle"):
        assert torch.load(checkpoint, pickle_module=Loud("loud"))["args"].lr == 0.1


def test_the_environment_switches_nothing_off(hostile, monkeypatch):
    """Torch's own variable for that has no effect."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")

    with safemodel.patched(), pytest.raises(safemodel.ForbiddenGlobalError):
        torch.load(hostile)


def test_an_early_reference_of_torch_fails_closed(early, checkpoint, hostile):
    """`from torch import load` before the patch."""
    with safemodel.patched():
        assert monkeypatch.early_references() == ["somebody_early.load"]
        for path in (checkpoint, hostile):
            for weights_only in (True, False):
                with pytest.raises(safemodel.UnpatchedCallError):
                    early.load(path, weights_only=weights_only)

    assert early.load(checkpoint, weights_only=False)["args"].lr == 0.1
    assert monkeypatch.early_references() == []


def test_an_early_reference_to_the_old_format_fails_closed(early, tmp_path):
    """The other of torch's two readers."""
    path = tmp_path / "legacy.pt"
    torch.save({"x": Tripping()}, path, _use_new_zipfile_serialization=False)

    with safemodel.patched(), pytest.raises(safemodel.UnpatchedCallError):
        early.load(path, weights_only=False)


def test_the_list_of_early_references_is_a_warning():
    """Whoever patches is told what cannot be reached."""
    holder = types.ModuleType("holder_of_load")
    holder.grab = torch.load
    sys.modules["holder_of_load"] = holder
    try:
        with (
            pytest.warns(safemodel.SafeModelWarning, match=r"holder_of_load\.grab"),
            safemodel.patched(),
        ):
            pass
    finally:
        del sys.modules["holder_of_load"]


def test_patches_are_counted(checkpoint, hostile):
    """Everything is put back by the last of as many `unpatch` as there were `patch`."""
    before = looked_up()
    safemodel.patch()
    safemodel.patch(on_refuse="opaque")
    try:
        assert isinstance(torch.load(hostile)["x"], safemodel.Opaque)
        safemodel.unpatch()
        with pytest.raises(safemodel.ForbiddenGlobalError):
            torch.load(hostile)
    finally:
        safemodel.unpatch()

    assert same(looked_up(), before)
    with pytest.raises(RuntimeError, match="not patched"):
        safemodel.unpatch()


def test_the_settings_of_a_block_are_those_of_its_thread(hostile):
    """A laxer block in one thread opens nothing to another."""
    entered, done = threading.Event(), threading.Event()
    found = []

    def lax():
        with safemodel.patched(on_refuse="opaque"):
            entered.set()
            done.wait(30)
            found.append(type(torch.load(hostile)["x"]))

    thread = threading.Thread(target=lax)
    with safemodel.patched():
        thread.start()
        assert entered.wait(30)
        with pytest.raises(safemodel.ForbiddenGlobalError):
            torch.load(hostile)
        done.set()
        thread.join()
    assert found == [safemodel.Opaque]


def test_blocks_that_end_in_another_order_than_they_began(hostile):
    """Each takes its own settings away, whoever came later."""
    first, second = safemodel.patched(), safemodel.patched(on_refuse="opaque")
    before = looked_up()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert isinstance(torch.load(hostile)["x"], safemodel.Opaque)
    second.__exit__(None, None, None)
    assert same(looked_up(), before)


def test_a_block_that_ends_in_another_context_is_undone():
    """As those of generators do, whoever runs them on."""
    block, before = safemodel.patched(), looked_up()
    contextvars.copy_context().run(block.__enter__)
    block.__exit__(None, None, None)

    assert same(looked_up(), before)


def test_unpatch_takes_nothing_from_a_block(hostile):
    """Whichever came last: a block of another thread may be open."""
    safemodel.patch(on_refuse="opaque")
    with safemodel.patched():
        safemodel.unpatch()
        with pytest.raises(RuntimeError, match="not patched"):
            safemodel.unpatch()
        with pytest.raises(safemodel.ForbiddenGlobalError):
            torch.load(hostile)


def test_a_block_that_could_not_end_is_ended_by_unpatch():
    """When whoever put something on top has taken it away."""
    block = safemodel.patched()
    block.__enter__()
    ours, torch.load = torch.load, None
    with pytest.raises(RuntimeError, match=r"torch\.load"):
        block.__exit__(None, None, None)
    torch.load = ours
    safemodel.unpatch()


def test_a_workaround_from_before_is_covered_and_comes_back(hostile, monkeypatch):
    """`torch.load` made lax by somebody: ours while patched, theirs afterwards."""
    lax = functools.partial(torch.load, weights_only=False)
    monkeypatch.setattr(torch, "load", lax)

    with safemodel.patched():
        with pytest.raises(safemodel.ForbiddenGlobalError):
            torch.load(hostile)
        with pytest.raises(safemodel.UnpatchedCallError):
            lax(hostile)
    assert torch.load is lax


def test_a_process_forks_while_a_thread_patches(hostile):
    """The child has no such thread, and does not wait for it."""
    holds, done = threading.Event(), threading.Event()

    def hold():
        with switch._LOCK:
            holds.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert holds.wait(30)
    threading.Timer(0.1, done.set).start()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        signal.alarm(60)
        with safemodel.patched():
            try:
                torch.load(hostile)
            except safemodel.ForbiddenGlobalError:
                os._exit(7)
        os._exit(1)
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_patch_on_top_of_ours_is_told_and_nothing_is_put_back(hostile):
    """Half a patch would look safe."""
    safemodel.patch()
    ours = torch.load

    def theirs(*arguments, **named):
        return ours(*arguments, **named)

    torch.load = theirs
    try:
        with pytest.raises(RuntimeError, match=r"torch\.load"):
            safemodel.unpatch()
        assert torch.load is theirs
        with pytest.raises(safemodel.ForbiddenGlobalError):
            torch.serialization.load(hostile)
    finally:
        torch.load = ours
        safemodel.unpatch()


def test_many_threads_patch_and_load_at_once(checkpoint, hostile):
    """None sees a loader that is not ours while its own block runs."""
    before = looked_up()
    failures = []

    def work():
        for _ in range(10):
            with safemodel.patched():
                try:
                    torch.load(hostile)
                    failures.append("loaded")
                except safemodel.ForbiddenGlobalError:
                    pass
                if torch.load(checkpoint)["args"].lr != 0.1:
                    failures.append("differs")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert same(looked_up(), before)


def test_torchscript_is_refused_or_gives_its_tensors(tmp_path):
    """It is a program, and never run."""
    path = tmp_path / "script.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 1)), path)
    early = torch.jit._serialization.load

    with safemodel.patched():
        with pytest.raises(safemodel.UnsupportedFormatError, match="torchscript="):
            torch.jit.load(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            with pytest.raises(safemodel.UnpatchedCallError):
                early(str(path))
    with safemodel.patched(torchscript="tensors"):
        found = torch.jit.load(path)
    names = safemodel.state_dict(found["data"])
    assert sorted(names) == ["bias", "weight"]


def test_a_package_is_refused(tmp_path):
    """It is Python code; a subclass, or an early reference, is no way round."""
    path = tmp_path / "package.pt"
    with torch.package.PackageExporter(path) as exporter:
        exporter.save_source_string("inside", "raise SystemExit")
    importer = torch.package.PackageImporter

    with (
        safemodel.patched(),
        pytest.raises(safemodel.UnsupportedFormatError, match="Python code"),
    ):
        importer(path)
    assert importer(path).file_structure() is not None


def test_weights_of_the_hub_come_through_the_patch(tmp_path):
    """`load_state_dict_from_url` and a repository's own code call `torch.load`."""
    weights = tmp_path / "weights"
    weights.mkdir()
    torch.save({"x": Tripping()}, weights / "model.pth")
    url = "https://example.invalid/model.pth"
    repository = tmp_path / "repository"
    repository.mkdir()
    (repository / "hubconf.py").write_text(
        "import torch\n"
        "def model(path):\n"
        "    return torch.hub.load_state_dict_from_url(\n"
        f"        {url!r}, model_dir=path, weights_only=True)\n"
    )

    with safemodel.patched():
        found = torch.hub.load_state_dict_from_url(url, model_dir=str(weights))
        assert isinstance(found["x"], safemodel.Opaque)
        with pytest.raises(safemodel.ForbiddenGlobalError):
            torch.hub.load(str(repository), "model", source="local", path=str(weights))


def test_pickled_tensors_of_programs_go_on_to_work():
    """A storage within a pickle is opened by `torch.load`: no warning, no error."""
    tensor = torch.arange(4, dtype=torch.bfloat16)
    data = pickle.dumps(tensor)

    with safemodel.patched(), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(pickle.loads(data), tensor)


class TestNumpy:
    def test_object_arrays_are_read_as_data(self, tmp_path):
        objects = np.array([1, None, "text"], dtype=object)
        np.save(tmp_path / "a.npy", objects, allow_pickle=True)
        np.savez(tmp_path / "a.npz", objects=objects, plain=np.arange(3))

        with safemodel.patched():
            alone = np.load(tmp_path / "a.npy", allow_pickle=True)
            with np.load(tmp_path / "a.npz", allow_pickle=True) as archive:
                found = archive["objects"], archive["plain"]

        assert alone.tolist() == found[0].tolist() == objects.tolist()
        assert found[1].tolist() == [0, 1, 2]

    @pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.pkl"])
    def test_hostile_files_are_refused(self, tmp_path, name):
        objects = np.array([Tripping()], dtype=object)
        path = tmp_path / name
        if name == "a.npz":
            np.savez(path, x=objects)
        elif name == "a.npy":
            np.save(path, objects, allow_pickle=True)
        else:
            path.write_bytes(pickle.dumps(Tripping()))
        early = np.lib._npyio_impl.load

        def everything(loader):
            found = loader(path, allow_pickle=True)
            return found["x"] if name == "a.npz" else found

        with safemodel.patched():
            with pytest.raises(safemodel.ForbiddenGlobalError):
                everything(np.load)
            with pytest.raises(safemodel.SafeModelError):
                everything(early)

    @pytest.mark.parametrize("early", [False, True])
    def test_an_archive_read_after_the_patch_is_read_as_data(self, tmp_path, early):
        np.savez(tmp_path / "a.npz", bad=np.array([Tripping()], dtype=object), good=[1])
        taken = np.lib._npyio_impl.load
        with safemodel.patched(on_refuse="opaque"):
            lax = np.load(tmp_path / "a.npz", allow_pickle=True)
        with safemodel.patched():
            load = taken if early else np.load
            archive = load(tmp_path / "a.npz", allow_pickle=True)

        assert isinstance(archive, np.lib.npyio.NpzFile)
        with lax, archive:
            assert archive["good"].tolist() == [1]
            assert isinstance(lax["bad"][0], safemodel.Opaque)
            with pytest.raises(safemodel.ForbiddenGlobalError):
                dict(archive)
        assert not monkeypatch.is_patched()

    def test_what_needs_no_pickle_is_numpy_s_own(self, tmp_path):
        np.save(tmp_path / "a.npy", np.arange(5.0))

        with safemodel.patched():
            mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
            assert isinstance(mapped, np.memmap)
            with pytest.raises(ValueError, match="pickled"):
                np.load(io.BytesIO(pickle.dumps(1)))


class TestNamedModules:
    @pytest.fixture
    def module(self):
        module = types.ModuleType("somebodys_io")
        exec("import pickle\nfrom pickle import load, loads, Unpickler", vars(module))  # noqa: S102 - a module for the test
        sys.modules["somebodys_io"] = module
        yield module
        del sys.modules["somebodys_io"]

    def test_pickle_is_replaced_in_them_and_nowhere_else(self, module):
        hostile, plain = pickle.dumps(Tripping()), pickle.dumps({"a": [1, 2.5]})
        before = dict(vars(module))

        with safemodel.patched(pickle_in=["somebodys_io"]):
            ways = [
                module.pickle.loads,
                module.loads,
                lambda data: module.pickle.load(io.BytesIO(data)),
                lambda data: module.load(io.BytesIO(data)),
                lambda data: module.Unpickler(io.BytesIO(data)).load(),
                lambda data: module.pickle.Unpickler(io.BytesIO(data)).load(),
            ]
            for way in ways:
                assert way(plain) == {"a": [1, 2.5]}
                with pytest.raises(safemodel.ForbiddenGlobalError):
                    way(hostile)
            assert module.pickle.dumps([1]) == pickle.dumps([1])
            assert pickle.loads is before["loads"]

        assert dict(vars(module)) == before

    def test_other_names_for_pickle_count(self, module):
        exec(  # noqa: S102 - a module for the test
            "import pickle as pkl, _pickle as c\n"
            "from pickle import loads as read, _loads as slow\n"
            "from pickle import Unpickler as Reader\n",
            vars(module),
        )
        hostile = pickle.dumps(Tripping())
        before = dict(vars(module))

        with safemodel.patched(pickle_in=["somebodys_io"]):
            for way in (
                module.pkl.loads,
                module.c.loads,
                module.read,
                module.slow,
                lambda data: module.Reader(io.BytesIO(data)).load(),
            ):
                with pytest.raises(safemodel.ForbiddenGlobalError):
                    way(hostile)

        assert dict(vars(module)) == before

    def test_an_unpickler_of_its_own_is_never_asked(self, module):
        exec(  # noqa: S102 - a module for the test
            "class Own(Unpickler):\n"
            "    def __init__(self, place, file):\n"
            "        super().__init__(file)\n"
            "    def find_class(self, module, name):\n"
            "        raise AssertionError(name)\n",
            vars(module),
        )

        with safemodel.patched(pickle_in=["somebodys_io"]):
            plain = module.Own("cpu", file=io.BytesIO(pickle.dumps([1, 2])))
            assert isinstance(plain, pickle.Unpickler)
            assert plain.load() == [1, 2]
            with pytest.raises(safemodel.ForbiddenGlobalError):
                module.Own("cpu", io.BytesIO(pickle.dumps(Tripping()))).load()
            with pytest.raises(safemodel.UnpatchedCallError):
                module.Own("cpu", "no file")

    def test_what_cannot_be_reached_is_told(self, module):
        exec("def inside(data):\n    import pickle\n", vars(module))  # noqa: S102 - a module for the test
        empty = types.ModuleType("somebodys_empty")
        sys.modules["somebodys_empty"] = empty
        try:
            for name, message in (
                ("somebodys_io", r"for themselves.*somebodys_io\.inside"),
                ("somebodys_empty", "no pickle in somebodys_empty"),
            ):
                with (
                    pytest.warns(safemodel.SafeModelWarning, match=message),
                    safemodel.patched(pickle_in=[name]),
                ):
                    pass
        finally:
            del sys.modules["somebodys_empty"]

    def test_what_else_reads_in_a_package_like_pickle_is_not_there(self, module):
        dill = types.ModuleType("dill")
        dill._dill = types.ModuleType("dill._dill")
        dill.load_session = dill._dill.loads = pickle.loads
        dill.dumps = pickle.dumps
        module.dill = dill
        with safemodel.patched(pickle_in=["somebodys_io"]):
            assert not hasattr(module.dill, "load_session")
            with pytest.raises(safemodel.ForbiddenGlobalError):
                module.dill._dill.loads(module.dill.dumps(Tripping()))

    def test_the_pure_python_unpickler_is_no_way_round(self, module):
        with safemodel.patched(pickle_in=["somebodys_io"]):
            for name in ("_loads", "_load"):
                assert not hasattr(module.pickle, name)
            assert module.pickle._Unpickler is module.pickle.Unpickler


class TestAudit:
    def test_every_file_is_written_down(
        self, checkpoint, hostile, tmp_path, monkeypatch
    ):
        log = tmp_path / "log"
        monkeypatch.setenv("SAFEMODEL_LOG", str(log))
        seen = []

        with safemodel.patched(audit=seen.append):
            torch.load(checkpoint)
            torch.load(io.BytesIO(checkpoint.read_bytes()))
            with pytest.raises(safemodel.ForbiddenGlobalError):
                torch.load(hostile)
            with pytest.raises(FileNotFoundError):
                torch.load(tmp_path / "absent")

        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert lines == [one.to_dict() for one in seen]
        assert [one.outcome for one in seen] == ["loaded", "loaded", "refused", "error"]
        assert seen[0].sha256 == seen[1].sha256 != seen[2].sha256
        assert seen[0].path == str(checkpoint)
        assert seen[0].size == checkpoint.stat().st_size
        assert "ForbiddenGlobalError" in seen[2].error
        assert {one.file for one in seen} == {__file__}

    def test_an_inert_value_is_named_the_worst_first(self, tmp_path):
        path = tmp_path / "several.pkl"
        names = b"".join(b"cpkg\nThing%d\n0" % number for number in range(30))
        path.write_bytes(b"\x80\x02" + names + b"cposix\nsystem\n.")
        seen = []

        with safemodel.patched(audit=seen.append, on_refuse="opaque"):
            torch.load(path)
            torch.load(io.BytesIO(pickle.dumps(1)))

        assert [one.outcome for one in seen] == ["loaded", "loaded"]
        assert seen[0].opaque[:2] == ("posix.system", "pkg.Thing0")
        assert [len(one.opaque) for one in seen] == [20, 0]

    def test_what_is_no_regular_file_is_not_read_for_its_hash(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        seen = []

        with safemodel.patched(audit=seen.append):
            with pytest.raises(OSError, match="not a regular file"):
                torch.load(tmp_path / "pipe")
            with pytest.raises(TypeError):
                torch.load(io.StringIO("text"))

        assert [(one.size, one.sha256) for one in seen] == [(-1, ""), (-1, "")]

    def test_a_bomb_is_not_read_to_its_end_for_its_hash(self, monkeypatch):
        packed = io.BytesIO(gzip.compress(bytes(3 << 20)))
        limits = safemodel.Limits(max_pickle_bytes=1 << 20)
        monkeypatch.setattr(journal, "DEFAULT_LIMITS", limits)

        for stream in (gzip.open(packed), io.BufferedReader(gzip.open(packed))):
            assert journal.digest_of(stream) == journal.Digest(-1, "")
            assert stream.tell() == 0
            packed.seek(0)
        assert journal.digest_of(packed).size == len(packed.getvalue())

    def test_what_ends_the_program_is_written_down(self, hostile):
        def leave(args, state):
            raise SystemExit(3)

        seen = []
        policy = safemodel.STRICT.with_extra({"safemodel.testing.trip": leave})
        with (
            safemodel.patched(audit=seen.append, policy=policy),
            pytest.raises(SystemExit),
        ):
            torch.load(hostile)
        assert [one.outcome for one in seen] == ["error"]

    def test_an_error_of_the_audit_reaches_the_code(self, checkpoint, hostile):
        def audit(opened):
            raise ConnectionError(opened.outcome)

        with safemodel.patched(audit=audit):
            with pytest.raises(ConnectionError, match="loaded"):
                torch.load(checkpoint)
            with pytest.raises(ConnectionError, match="refused") as caught:
                torch.load(hostile)
        assert isinstance(caught.value.__context__, safemodel.ForbiddenGlobalError)

    def test_what_cannot_be_written_down_is_not_loaded(self, checkpoint, monkeypatch):
        monkeypatch.setenv("SAFEMODEL_LOG", "/proc/nothing/of/this/name")

        with safemodel.patched(), pytest.raises(OSError, match="nothing"):
            torch.load(checkpoint)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"on_refuse": "ignore"}, ValueError),
        ({"torchscript": "run"}, ValueError),
        ({"policy": "strict"}, TypeError),
        ({"pickle_in": "module"}, TypeError),
    ],
)
def test_wrong_arguments_patch_nothing(arguments, error):
    """What cannot be understood is an error before anything is replaced."""
    with pytest.raises(error):
        safemodel.patch(**arguments)

    assert not monkeypatch.is_patched()
