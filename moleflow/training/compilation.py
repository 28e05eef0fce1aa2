"""The detector's forward and backward pass as compiled kernels, by `torch.compile`."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch

from moleflow.errors import InvalidInput
from moleflow.models.detector import Detector

ADVICE = "or set training.compile to false"


@contextmanager
def compiled(detector: Detector, on: bool) -> Iterator[None]:
    """Train the detector with compiled kernels if `on` is true, and run it as it is afterwards.

    On a GPU, CUDA graphs replay the kernels: a step then starts a few graphs instead of hundreds of
    kernels. On a CPU, C++ kernels replace chains of elementwise operations. The first step takes
    a minute or so. torch keeps kernels on disk, so a later training of the same shapes takes
    seconds.

    Args:
        detector: the detector that trains; all its parts have been added.
        on: false changes nothing.

    Raises:
        InvalidInput: there is no compiler here, or it fails.
    """
    if not on:
        yield
        return
    require_compiler("cuda" if detector.position.is_cuda else "cpu")
    from torch._inductor.exc import InductorError  # Takes a second to import.

    # torch keeps a few versions of a function, and runs it uncompiled beyond that number, with
    # other digits. So nothing stays of earlier tasks and trials.
    _forget()
    detector.set_compiler(_compile)
    try:
        with warnings.catch_warnings():
            # torch warns of its own tracer and modules.
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.filterwarnings("ignore", "The .grad attribute of a Tensor", UserWarning)
            yield
    except InductorError as error:
        reason = next(iter(str(error).splitlines()), "")
        raise InvalidInput(
            f"training.compile: given true, but torch.compile failed here ({reason}); mend that, {ADVICE}"
        ) from error
    finally:
        detector.set_compiler(None)
        _forget()


def _forget() -> None:
    """Drop all compiled code of this process, and the memory of its CUDA graphs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.compiler.reset()


def _compile(function: Callable[..., object]) -> Callable[..., object]:
    """Return the compiled function: mode `reduce-overhead`, without choices made by a stopwatch."""
    # dynamic=False: each batch size has kernels of its own. Kernels for any size would be made when
    # the second size comes, and an interrupted training would resume with the other kernels.
    # fullgraph=True: a part that cannot be compiled is an error, and not silently left out.
    return torch.compile(
        function, fullgraph=True, dynamic=False, options={"triton.cudagraphs": True, "deterministic": True}
    )


def require_compiler(device_kind: Literal["cpu", "cuda"]) -> None:
    """Find the programs that `torch.compile` calls.

    Raises:
        InvalidInput: one is missing here.
    """
    given = "training.compile: given true, but"
    if device_kind == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise InvalidInput(f"{given} triton is not installed; pip install triton, {ADVICE}")
        if not any(map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))):
            raise InvalidInput(f"{given} no C compiler is found; apt-get install gcc, {ADVICE}")
    else:
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except InvalidCxxCompiler:
            raise InvalidInput(f"{given} no C++ compiler is found; apt-get install g++, {ADVICE}") from None
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        raise InvalidInput(f"{given} Python's header files are missing; apt-get install python3-dev, {ADVICE}")
