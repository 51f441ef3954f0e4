"""Which judge a call of `detect` asks: `Detector`.

Importing this module imports neither numpy nor torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from safemodel._detector.judging import Judge, Judgement
    from safemodel._detector.statistics import Statistics
    from safemodel._types import FileLike, StrPath
    from safemodel.limits import Limits


class Detector:
    """Decides from the tests of a file whether it is suspicious.

    `Detector.bundled` returns the one that `detect` uses by itself.
    """

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    @classmethod
    def bundled(cls) -> Self:
        """Return the detector that comes with the package."""
        from safemodel._detector.prototype_file import bundled

        return cls(bundled())

    @classmethod
    def adapt(
        cls,
        *,
        benign: Sequence[FileLike | torch.nn.Module | Mapping[str, Any]],
        stego: Sequence[FileLike | torch.nn.Module | Mapping[str, Any]],
        limits: Limits | None = None,
    ) -> Self:
        """Return the bundled detector, adapted to files of your own.

        It finds all that the bundled one finds, and files that are more like your files
        that hold something than like your clean ones. `safemodel.evaluation.stego`
        makes the former of the latter.

        Args:
            benign: Clean files of one family: three, if possible, of different training
                runs; as `detect` takes them.
            stego: Files of the same family that hold something.
            limits: How much each file may ask for.

        Returns:
            A detector with a rate of false alarms of its own: that of the bundled one,
            and that of what it learnt.

        Raises:
            ValueError: There are no files of one sort, or no test tells them apart.
            SafeModelError: As `detect`.
            OSError: A file cannot be read.
        """
        from safemodel._detector.opening import any_opened
        from safemodel._detector.prototype_file import bundled
        from safemodel._detector.prototypes import adapted
        from safemodel._detector.statistics import examine

        def examined(f: Any) -> Statistics:
            with any_opened(f, limits) as source:
                return examine(source.weights())

        return cls(
            adapted(
                bundled(), [examined(f) for f in benign], [examined(f) for f in stego]
            )
        )

    @classmethod
    def load(cls, f: FileLike, *, limits: Limits | None = None) -> Self:
        """Return a detector from a file that `save` wrote. Nothing in it is run.

        Args:
            f: A path, bytes, or a binary file object.
            limits: How much the file may ask for.

        Raises:
            MalformedFileError: It is no `.safetensors` file, or holds no detector.
            UnsupportedFormatError: A detector of another version of safemodel.
            SafeModelError: As `safe_load`, whose checks it has to pass.
            OSError: It cannot be read.
        """
        from safemodel._detector.prototype_file import read

        return cls(read(f, limits))

    def save(self, path: StrPath) -> None:
        """Write the detector to a `.safetensors` file, whole or not at all.

        Args:
            path: Where.

        Raises:
            TypeError: A detector of another kind, which has no file.
            OSError: It cannot be written.
        """
        from safemodel._detector.prototype_file import write
        from safemodel._detector.prototypes import Prototypes

        if not isinstance(self._judge, Prototypes):
            raise TypeError(f"{self.id} cannot be saved")
        write(self._judge, path)

    @property
    def id(self) -> str:
        """What tells it from other detectors."""
        return self._judge.id

    @property
    def threshold(self) -> float:
        """Score from which on a file is suspicious."""
        return self._judge.threshold

    @property
    def false_positive_rate(self) -> float | None:
        """Chance to call a clean file suspicious that the threshold was set for."""
        return self._judge.false_positive_rate

    def judge(self, statistics: Statistics) -> Judgement:
        """Return what is to be said of a file, from the tests of it."""
        return self._judge.judge(statistics)

    def __repr__(self) -> str:
        return f"Detector(id={self.id!r})"
