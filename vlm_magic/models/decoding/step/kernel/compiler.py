"""Build the kernel with the machine's own compiler, once for all models, beside whatever else goes on.

The build takes a second or two of a niced process. What it made is kept in the user's cache folder by its
source, the compiler and the processor, so that the notebook's next kernel has it at once, and two that build
at the same time do no harm. A process of its own tries it first. Where there is no compiler, or it fails,
steps are computed with torch, and one remark says so. ``VLM_MAGIC_COMPILE=no`` in the environment switches
"auto" off.

Knows processes and files; no models. Neighbour: `loop` asks before an answer, never within one.
"""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from vlm_magic.models.decoding.step.kernel.native import is_right_size

__all__ = ["Compile", "KernelBuild", "kernel"]

Compile = Literal["auto", "yes", "no"]

# Read with this module: an upgrade under a running kernel must not pair a new source with old callers.
_SOURCE = Path(__file__).with_name("kernel.cpp").read_bytes()
_COMPILERS = ("g++", "clang++", "c++")
_LONGEST_S = 600.0  # of a build, niced and on a busy machine
_TRY = "import ctypes, sys; sys.exit(ctypes.CDLL(sys.argv[1]).vlm_try())"


class KernelBuild:
    """The kernel of this process: not there, being built, there, or out of the question.

    Attributes:
        remark: why there is none, in a few words; "" while there is hope.
        seconds: what the build took; 0.0 where it was there.
    """

    def __init__(self) -> None:
        self.remark = ""
        self.seconds = 0.0
        self._library: Any = None
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def library(self, mode: Compile) -> Any:
        """The kernel, loaded; None where it is not there (yet).

        Args:
            mode: "auto" has it built in the background, "yes" waits for it, "no" wants none.
        """
        if mode == "auto" and os.environ.get("VLM_MAGIC_COMPILE") == "no":
            mode = "no"
        if mode == "no" or self.remark:
            return None
        if self._library is None:
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._build, name="vlm_magic kernel", daemon=True)
                    self._thread.start()
            if mode == "yes":
                self._thread.join()
        return self._library

    def soon(self, seconds: float) -> Any:
        """The kernel, loaded, as with "auto" but waited for so long; None where it is not there then."""
        library = self.library("auto")
        if library is None and self._thread is not None:
            self._thread.join(seconds)
            library = self.library("auto")
        return library

    @property
    def is_building(self) -> bool:
        """Whether it will be there soon."""
        return self._thread is not None and self._thread.is_alive()

    def stop(self) -> None:
        """End a build that is under way; for the end of the process."""
        process = self._process
        if process is not None and process.poll() is None:
            process.kill()

    def _build(self) -> None:
        began = _now()
        try:
            compiler = _compiler()
            if compiler is None:
                self.remark = "no C++ compiler here (g++ or clang++)"
                return
            key = _key(compiler)
            folder = _own_folder()
            if folder is not None and any(map(self._load, folder.glob(f"step-{key}-*.so"))):
                return
            if folder is None or not self._make(compiler, folder, key):
                self.remark = ""
                with tempfile.TemporaryDirectory(prefix="vlm_magic-") as other:  # stays loaded when it goes
                    self._make(compiler, Path(other), key)
            self.seconds = _now() - began
        except Exception as error:  # whatever it is, answers go on without
            self.remark = f"the kernel could not be built: {type(error).__name__}"

    def _make(self, compiler: str, folder: Path, key: str) -> bool:
        """Build, try, put in place and load."""
        try:
            handle, path = tempfile.mkstemp(prefix="new-", dir=folder)
            os.close(handle)
        except OSError:
            self.remark = "its folder cannot be written"
            return False
        source = Path(f"{path}.cpp")
        try:
            source.write_bytes(_SOURCE)
            for flags in _flag_sets():
                if self._run([compiler, *flags, "-o", path, str(source)]):
                    break
            else:
                self.remark = f"{Path(compiler).name} could not build the kernel"
                return False
            if not self._run([sys.executable, "-I", "-c", _TRY, path]):
                self.remark = "the kernel does not run on this processor"
                return False
            target = folder / f"step-{key}-{os.stat(path).st_size}.so"
            os.replace(path, target)
            return self._load(target)
        except OSError as error:
            self.remark = f"the kernel could not be built: {error.strerror or type(error).__name__}"
            return False
        finally:
            for left in (path, source):
                with suppress(OSError):
                    os.unlink(left)

    def _run(self, command: list[str]) -> bool:
        self._process = process = subprocess.Popen(
            [*_niced(), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # an interrupt of the notebook is not meant for it
        )
        try:
            return process.wait(_LONGEST_S) == 0
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return False

    def _load(self, path: Path) -> bool:
        """Load a kernel that is whole: its name says its size, for loading a part would end the process."""
        try:
            if path.stat().st_size != int(path.stem.rpartition("-")[2]):
                raise OSError
            library = ctypes.CDLL(str(path))
            library.vlm_scratch.restype = ctypes.c_int64
            is_ours = is_right_size(library)
        except (OSError, ValueError, AttributeError):
            is_ours = False
        if not is_ours:  # cut short by a full disk, or by somebody
            with suppress(OSError):
                path.unlink()
            return False
        self._library = library
        self.remark = ""
        return True


_KERNEL = KernelBuild()
atexit.register(_KERNEL.stop)


def kernel() -> KernelBuild:
    """The one of this process."""
    return _KERNEL


def _now() -> float:
    import time

    return time.perf_counter()


def _niced() -> list[str]:
    """What lets answers under way go first."""
    nice = shutil.which("nice")
    return [nice, "-n", "19"] if nice else []


def _compiler() -> str | None:
    wished = os.environ.get("CXX", "")
    names = [wished, *_COMPILERS] if wished else _COMPILERS
    return next((path for name in names if (path := shutil.which(name))), None)


def _flag_sets() -> list[list[str]]:
    """With threads, and without where the compiler has none."""
    tune = "-mcpu=native" if platform.machine().lower() in ("arm64", "aarch64") else "-march=native"
    plain = ["-O3", tune, "-std=c++17", "-fPIC", "-shared", "-fno-math-errno", "-ffp-contract=fast"]
    return [[*plain, "-fopenmp"], plain]


def _key(compiler: str) -> str:
    """Another one for another source, compiler or processor."""
    real = os.stat(compiler)
    parts = [_SOURCE, os.path.realpath(compiler).encode(), str(real.st_mtime_ns).encode()]
    parts += [str(_flag_sets()).encode(), platform.machine().encode(), _processor().encode()]
    return hashlib.blake2b(b"\0".join(parts), digest_size=10).hexdigest()


def _processor() -> str:
    """What it can do, as far as the system says: a home folder may be shared by machines of many kinds."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        return platform.processor()


def _own_folder() -> Path | None:
    """A folder in the user's cache that nobody else can write, made if need be; None where there is none."""
    from platformdirs import user_cache_path

    folder = user_cache_path("vlm_magic", appauthor=False) / "kernels"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError:
        return None
    if hasattr(os, "getuid") and (found.st_uid != os.getuid() or found.st_mode & 0o022):
        return None
    return folder
