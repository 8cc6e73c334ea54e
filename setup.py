"""`pip install .` into an environment with ROS 2 wheels: runs the CMake build that colcon runs, packs its result."""

import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from xml.etree import ElementTree

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
PACKAGE = "qwen3vl_ros"


class CMakeBuild(build_py):
    """Builds and installs with CMake into a staging directory, then hands the files to setuptools."""

    def run(self) -> None:
        """Split the staged tree: the Python package into the wheel, everything else below the environment's prefix."""
        prefix = sys.prefix
        build = HERE / "build" / f"{sys.implementation.cache_tag}-{zlib.crc32(prefix.encode()):08x}"
        stage = build / "stage"
        python_directory = stage / "site-packages"
        # The build sees the environment that it is for and nothing else, even where pip isolates this process from it.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment["AMENT_PREFIX_PATH"] = environment["CMAKE_PREFIX_PATH"] = prefix
        environment["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        configure = [
            "cmake", "-G", "Ninja", "-S", str(HERE), "-B", str(build),
            "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_TESTING=OFF", "-DPIP_INSTALLS_THE_COMMAND=ON",
            f"-DCMAKE_INSTALL_PREFIX={stage}", "-DPYTHON_INSTALL_DIR=site-packages",
            f"-DPython3_EXECUTABLE={sys.executable}", "-DPython3_FIND_VIRTUALENV=ONLY",
        ]  # fmt: skip
        configured = build / "build.ninja"
        if not configured.exists() or configured.stat().st_mtime < Path(__file__).stat().st_mtime:
            subprocess.run(configure, env=environment, check=True)
        subprocess.run(["cmake", "--build", str(build)], env=environment, check=True)
        shutil.rmtree(stage, ignore_errors=True)
        subprocess.run(["cmake", "--install", str(build)], env=environment, check=True, stdout=subprocess.DEVNULL)

        package = Path(self.build_lib) / PACKAGE
        shutil.rmtree(package, ignore_errors=True)
        shutil.copytree(python_directory / PACKAGE, package)
        shutil.rmtree(python_directory)
        self.distribution.data_files = [
            (str(directory.relative_to(stage)), [str(file) for file in directory.iterdir() if file.is_file()])
            for directory in stage.rglob("*")
            if directory.is_dir()
        ]


class BinaryDistribution(Distribution):
    """The wheel holds compiled interfaces: it belongs to one Python and one machine type."""

    def has_ext_modules(self) -> bool:
        """Make the wheel's name say so."""
        return True


def requirements(name: str) -> list[str]:
    """Read a file of requirements/."""
    lines = (HERE / "requirements" / f"{name}.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


description = ElementTree.parse(HERE / "package.xml")
setup(
    name=PACKAGE,
    version=description.findtext("version"),
    description=description.findtext("description"),
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[PACKAGE],
    zip_safe=False,
    install_requires=requirements("runtime"),
    extras_require={
        extra: requirements(extra)
        for extra in ("bags", "behaviours", "llama", "mcp", "modelscope", "openvino", "pdf", "sim")
    },
    cmdclass={"build_py": CMakeBuild},
    distclass=BinaryDistribution,
)
