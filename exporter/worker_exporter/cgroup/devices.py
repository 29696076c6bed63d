"""Block devices as io.stat numbers them, and what sysfs calls them."""

import os


class Devices:
    """Names of block devices by their numbers ("254:0"), from /sys/dev/block."""

    def __init__(self, sysfs: str) -> None:
        self._sysfs = sysfs
        self._known: dict[bytes, tuple[str, bool]] = {}

    def renamed(self) -> bool:
        """Whether a known number stands for another device by now."""
        before = self._known
        self._known = {number: self._find(number) for number in before}
        return self._known != before

    def name(self, number: bytes) -> str:
        """The device's name, such as vda; its number where sysfs does not know it."""
        return self._get(number)[0]

    def is_lowest(self, number: bytes) -> bool:
        """Whether no other device lies below: what is written to a device-mapper device counts
        there and on the disk below it.
        """
        return self._get(number)[1]

    def _get(self, number: bytes) -> tuple[str, bool]:
        if number not in self._known:
            self._known[number] = self._find(number)
        return self._known[number]

    def _find(self, number: bytes) -> tuple[str, bool]:
        link = f"{self._sysfs}/dev/block/{number.decode(errors='replace')}"
        try:
            name = os.path.basename(os.readlink(link)).replace("!", "/")
        except OSError:
            return number.decode(errors="replace"), True
        return name, not _entries(f"{link}/slaves")


def _entries(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []
