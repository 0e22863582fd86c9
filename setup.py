"""Build the compiled core. What else belongs to the package stands in ``pyproject.toml``.

The core has a room for every operation, a folder in ``fastbn/kernels`` that is found by itself:
``kernels/pooling/pooling.pyx`` becomes the module ``fastbn.kernels.pooling``, which says who does
what (threads, tiles, passes) and is compiled once, for the baseline. ``kernels/pooling/simd.c``, if
there is one, says how numbers are processed; it is compiled once for every instruction-set level
and element type, and linked to the module, which chooses its table (``kernels/common/tables.h``).
"""

from __future__ import annotations

import itertools
import os
import platform
import re
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError
from setuptools.modified import newer_group

KERNELS = "fastbn/kernels"
ELEMENT_TYPES = ("f32", "f64", "bf16")
X86 = platform.machine().lower() in {"x86_64", "amd64"}


def levels(msvc: bool) -> dict[str, list[str]]:
    """Compiler flags of every instruction-set level, lowest first."""
    if not X86:
        return {"baseline": []}
    if msvc:
        return {"baseline": [], "avx2": ["/arch:AVX2"], "avx512": ["/arch:AVX512"]}
    return {
        "baseline": ["-march=x86-64-v2"],
        "avx2": ["-march=x86-64-v3"],
        "avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
    }


class BuildCore(build_ext):
    """Add OpenMP where the compiler has it, and the SIMD loops of every level to their modules."""

    def build_extensions(self) -> None:
        """Settle the flags once, then build everything."""
        msvc = self.compiler.compiler_type == "msvc"
        if self.editable_mode:  # keep what was built: only what has changed is built again
            self.build_temp, self.build_lib = "build/editable/temp", "build/editable/lib"
        # without debugging symbols: a third less time to build, a tenth of the size
        optimise = ["/O2"] if msvc else ["-O3", "-fno-math-errno", "-fno-trapping-math", "-g0"]
        self.parallel = self.parallel or os.cpu_count()
        compile_args, link_args = self.openmp_flags(msvc)
        for extension in self.extensions:
            extension.extra_compile_args += optimise + compile_args
            extension.extra_link_args += link_args
        self.compile_loops(optimise, msvc)
        super().build_extensions()

    def compile_loops(self, optimise: list[str], msvc: bool) -> None:
        """Compile every room's ``simd.c`` for all levels and element types; have them linked."""
        keep_loops = [] if msvc else ["-fno-unswitch-loops"]  # copies of them would not pay

        def compiled(variant: tuple[Extension, tuple[str, list[str]], str]) -> list[str]:
            extension, (level, flags), element = variant
            source = str(Path(extension.sources[0]).with_name("simd.c"))
            folder = str(Path(self.build_temp) / f"{level}-{element}")
            objects = self.compiler.object_filenames([source], output_dir=folder)
            if not (self.force or newer_group([*included(source), __file__], objects[0])):
                return objects
            return self.compiler.compile(
                [source],
                output_dir=folder,
                include_dirs=[KERNELS],
                macros=[
                    ("FASTBN_LEVEL", level),
                    ("FASTBN_ELEMENT", element),
                    (f"FASTBN_{element.upper()}", "1"),
                ],
                extra_postargs=optimise + keep_loops + flags,
            )

        rooms = [e for e in self.extensions if Path(e.sources[0]).with_name("simd.c").exists()]
        variants = list(itertools.product(rooms, levels(msvc).items(), ELEMENT_TYPES))
        with ThreadPoolExecutor(self.parallel) as pool:
            for (extension, *_), objects in zip(
                variants, pool.map(compiled, variants), strict=True
            ):
                extension.extra_objects += objects

    def openmp_flags(self, msvc: bool) -> tuple[list[str], list[str]]:
        """Return compile and link flags for OpenMP: the first that build a program, or none."""
        if msvc:
            candidates = [(["/openmp"], [])]
        elif sys.platform == "darwin":
            candidates = [(["-Xpreprocessor", "-fopenmp"], ["-lomp"])]
        else:
            candidates = [(["-fopenmp"], ["-fopenmp"])]
        for compile_args, link_args in candidates:
            if self.builds(
                "#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }",
                compile_args,
                link_args,
            ):
                return compile_args, link_args
        self.warn("this compiler has no OpenMP: fastbn is built to run on one thread")
        return [], []

    def builds(self, program: str, compile_args: list[str], link_args: list[str]) -> bool:
        """Tell whether a C program compiles and links with these flags."""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "probe.c"
            source.write_text(program + "\n", encoding="utf-8")
            try:
                objects = self.compiler.compile(
                    [str(source)], output_dir=folder, extra_postargs=compile_args
                )
                self.compiler.link_executable(
                    objects, str(Path(folder) / "probe"), extra_postargs=link_args
                )
            except (CompileError, LinkError):
                return False
        return True


def included(source: str | Path, seen: tuple[str, ...] = ()) -> list[str]:
    """List a C source and all headers of ours that it includes."""
    found = [str(source)]
    for name in re.findall(r'#include "([^"]+)"', Path(source).read_text(encoding="utf-8")):
        header = f"{KERNELS}/{name}"
        if header not in (*seen, *found):
            found += included(header, (*seen, *found))
    return found


def extension(path: Path) -> Extension:
    """One extension module for one ``.pyx`` file: that of a room, or one that all rooms share."""
    loops = path.with_name("simd.c")
    depends = {"setup.py", *(included(loops) if loops.exists() else [])}
    for pattern in ("common/*.h", "*/table.h"):
        depends.update(str(header) for header in Path(KERNELS).glob(pattern))
    return Extension(
        f"fastbn.kernels.{path.stem}",
        [str(path)],
        include_dirs=[np.get_include(), KERNELS],
        define_macros=[
            ("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"),
            ("NPY_TARGET_VERSION", "NPY_2_0_API_VERSION"),
        ],
        depends=sorted(depends),
    )


setup(
    include_package_data=False,
    ext_modules=cythonize(
        [extension(path) for path in sorted(Path(KERNELS).rglob("*.pyx"))],
        language_level=3,
        compiler_directives={
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": False,
            "embedsignature": False,
        },
    ),
    cmdclass={"build_ext": BuildCore},
)
