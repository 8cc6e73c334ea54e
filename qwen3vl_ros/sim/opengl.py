"""Checks whether this machine can render: Drake needs OpenGL through EGL, with or without a GPU."""

from __future__ import annotations

import ctypes
import sys

# Constants of the EGL extensions EGL_EXT_device_enumeration and EGL_EXT_platform_device.
_PLATFORM_DEVICE = 0x313F
_MOST_DEVICES = 16

_PACKAGES = "apt install libegl1 libgl1-mesa-dri libglib2.0-0"


class RenderError(Exception):
    """This machine cannot render. The message says what is missing and how to get it."""


def check_renderer() -> None:
    """Raise RenderError unless Drake and an OpenGL driver are installed.

    Without a driver VTK, Drake's renderer, crashes the process with a segmentation fault, so the
    driver is opened here first, in the same way as by VTK.
    """
    try:
        import pydrake.geometry  # noqa: F401
    except ImportError as error:
        remedy = _PACKAGES if ".so" in str(error) else "pip install drake"
        raise RenderError(
            f"The built-in camera draws with Drake, which this Python cannot import ({error}): {remedy}."
        ) from error
    if sys.platform == "linux" and not _has_driver():
        raise RenderError(f"The built-in camera draws with OpenGL, and no driver for it starts here: {_PACKAGES}.")


def _has_driver() -> bool:
    """Return whether EGL starts on one of the machine's devices; Mesa counts the CPU as one."""
    try:
        egl = ctypes.CDLL("libEGL.so.1")
    except OSError:
        return False
    egl.eglGetProcAddress.restype = ctypes.c_void_p
    egl.eglInitialize.argtypes = [ctypes.c_void_p] * 3
    query_address = egl.eglGetProcAddress(b"eglQueryDevicesEXT")
    display_address = egl.eglGetProcAddress(b"eglGetPlatformDisplayEXT")
    if not query_address or not display_address:
        return False
    query_devices = ctypes.CFUNCTYPE(
        ctypes.c_uint,
        ctypes.c_int,
        ctypes.POINTER(ctypes.c_void_p),
        ctypes.POINTER(ctypes.c_int),
    )(query_address)
    get_display = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p)(display_address)
    devices = (ctypes.c_void_p * _MOST_DEVICES)()
    count = ctypes.c_int()
    if not query_devices(_MOST_DEVICES, devices, ctypes.byref(count)):
        return False
    displays = (get_display(_PLATFORM_DEVICE, device, None) for device in devices[: count.value])
    # Not terminated: VTK opens the same display next.
    return any(display and egl.eglInitialize(display, None, None) for display in displays)
