"""`make publish-contract`: publishes the descriptions that the service makes now."""

import asyncio
import sys

from tests.contract.documents import PUBLISHED, breaks, made_now, published


def main() -> int:
    """Write the files, unless they break callers or subscribers without a new version."""
    now = asyncio.run(made_now())
    if found := breaks(published(), now):
        print("this breaks what is published; keep it, or raise the version:", *found, sep="\n  ")
        return 1
    PUBLISHED.mkdir(exist_ok=True)
    for name, content in now.items():
        (PUBLISHED / name).write_bytes(content)
    print(f"{len(now)} files are published in {PUBLISHED}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
