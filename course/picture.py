"""Draw the README's picture: `python -m course.picture` writes course/overview.png."""

from pathlib import Path

from course.figures import flash_decoding_overview

PICTURE = Path(__file__).with_name("overview.png")


def main() -> None:
    """Write the picture and say where."""
    PICTURE.write_bytes(flash_decoding_overview()._repr_png_())
    print(f"written: {PICTURE.name}")


if __name__ == "__main__":
    main()
