"""Writes dashboards/json."""

from pathlib import Path

from dashboards import files


def main() -> None:
    """Write each dashboard, and remove what is no longer one."""
    folder = Path(__file__).parent / "json"
    folder.mkdir(exist_ok=True)
    written = files()
    for stale in {path.name for path in folder.glob("*.json")} - written.keys():
        (folder / stale).unlink()
    for name, text in written.items():
        (folder / name).write_text(text)


if __name__ == "__main__":
    main()
