"""`python -m tests.gpu.cuda BYTES`: hold so much of the first device's memory, by the driver alone.

It says "holds" when it does, and ends with its standard input. What the driver refuses is one line
on standard error, and exit code 1.
"""

import ctypes
import sys


class _Driver:
    """CUDA's driver API: libcuda.so.1, which comes with the driver."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")

    def call(self, function: str, *arguments: object) -> None:
        """Call a function. Exits when it fails."""
        code = getattr(self._library, function)(*arguments)
        if code:
            sys.exit(f"{function}: {self._name(code)}")

    def _name(self, code: int) -> str:
        name = ctypes.c_char_p()
        self._library.cuGetErrorName(code, ctypes.byref(name))
        return (name.value or b"error %d" % code).decode()


def main() -> None:
    """Hold memory until standard input ends."""
    size = ctypes.c_size_t(int(sys.argv[1]))
    try:
        driver = _Driver()
    except OSError as error:
        sys.exit(str(error))
    device, context, address = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
    driver.call("cuInit", 0)
    driver.call("cuDeviceGet", ctypes.byref(device), 0)
    driver.call("cuCtxCreate_v2", ctypes.byref(context), 0, device)
    driver.call("cuMemAlloc_v2", ctypes.byref(address), size)
    driver.call("cuMemsetD8_v2", address, ctypes.c_ubyte(0xA5), size)
    driver.call("cuCtxSynchronize")
    print("holds", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
