"""How alarming a name is: for colours only.

Nothing is refused or accepted because of these tables: `safe_load` refuses whatever
is not on its allowlist, and a name that is missing here is refused all the same.
"""

from __future__ import annotations

from safemodel.reports import Severity

_LONGEST = 256
_MODULES = frozenset(
    """
    os posix nt subprocess _posixsubprocess sys shutil pty socket _socket ctypes
    _ctypes importlib _frozen_importlib pkgutil runpy pickle _pickle cPickle marshal
    dill cloudpickle joblib webbrowser code codeop pdb bdb cProfile profile trace
    timeit doctest pydoc multiprocessing threading signal asyncio http urllib requests
    ftplib smtplib imaplib poplib telnetlib ssl pip ensurepip venv zipimport linecache
    tempfile glob fileinput commands popen2 platform distutils idlelib lib2to3 sqlite3
    logging inspect gc test _osx_support _aix_support _pyrepl numpy.f2py
    numpy.testing torch.hub torch.package torch.jit torch.utils.cpp_extension
    torch.utils.bottleneck torch.utils.collect_env torch._inductor torch._dynamo
    torch.fx torch.serialization torch.multiprocessing torch.distributed
    """.split()
)
_NAMES = frozenset(
    """
    builtins.eval builtins.exec builtins.compile builtins.open builtins.__import__
    builtins.getattr builtins.setattr builtins.delattr builtins.globals
    builtins.breakpoint builtins.input builtins.help builtins.vars builtins.map
    builtins.filter builtins.apply builtins.execfile builtins.file
    __builtin__.eval __builtin__.exec __builtin__.compile __builtin__.open
    __builtin__.__import__ __builtin__.getattr __builtin__.setattr
    __builtin__.apply __builtin__.execfile __builtin__.file __builtin__.map
    io.open io.FileIO io.open_code _io.open _io.FileIO codecs.open pathlib.Path
    pathlib.PosixPath types.CodeType types.FunctionType types.LambdaType
    builtins.CodeType functools.partial functools.reduce operator.attrgetter
    operator.methodcaller operator.itemgetter _operator.attrgetter
    _operator.methodcaller numpy.load numpy.fromfile numpy.memmap torch.load
    pandas.read_pickle uuid._get_command_stdout
    """.split()
)
# Projects whose classes real checkpoints hold: refused as any other name, but seeing
# one is no reason to fear the file.
_FAMILIAR = frozenset(
    """
    transformers accelerate ultralytics models fairseq flair pytorch_lightning
    lightning lightning_fabric torchmetrics omegaconf pyannote mmengine mmcv mmdet
    torch_geometric deepspeed peft trl timm torchvision stable_baselines3 gym
    gymnasium TTS sklearn typing zoneinfo nemo espnet speechbrain spacy tokenizers
    diffusers sentence_transformers torch.nn torch.optim torch.torch_version __torch__
    """.split()
)


def severity_of(module: str, name: str) -> Severity:
    """Return the colour of a global outside the allowlist."""
    # No name that is known is longer; one that is keeps its packages.
    dotted = f"{module[:_LONGEST]}.{name[:_LONGEST]}"
    packages = _prefixes(dotted)
    if dotted in _NAMES or not _MODULES.isdisjoint(packages):
        return Severity.DANGER
    # A class, by how it is spelled; functions of the same projects may do anything.
    last = name.rpartition(".")[2].lstrip("_")
    if last[:1].isupper() and not _FAMILIAR.isdisjoint(packages):
        return Severity.INFO
    return Severity.WARNING


def lowered(severity: Severity) -> Severity:
    """Return the colour of what `safe_load` never reads: one step down."""
    return Severity.WARNING if severity is Severity.DANGER else Severity.INFO


def _prefixes(dotted: str) -> list[str]:
    """Return the packages a dotted name is in, at most eight deep."""
    parts = dotted.split(".", 8)[:8]
    return [".".join(parts[: end + 1]) for end in range(len(parts))]
