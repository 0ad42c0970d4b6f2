"""Files that zipfile reads its directory from, which it does at once, as long as that claims."""

import io
import zipfile

__all__ = ["Bounded"]


class Bounded(io.BufferedReader):
    """A file that refuses to return more at once than a directory is long.

    Args:
        file: Open for reading.
        longest: How many bytes that may be.
    """

    def __init__(self, file: io.FileIO, longest: int) -> None:
        super().__init__(file)
        self._longest = longest

    def read(self, size: int | None = -1, /) -> bytes:
        """Return that many bytes.

        Raises:
            BadZipFile: If there are more.
        """
        wanted = self._longest + 1 if size is None or size < 0 else size
        data = super().read(min(wanted, self._longest + 1))
        if len(data) > self._longest:
            raise zipfile.BadZipFile(f"its directory is longer than {self._longest} bytes")
        return data
