"""`make publish-contract`: writes the descriptions that the service makes now to published/."""

import asyncio
import sys

from tests.contract.documents import PUBLISHED, breaks, made_now, released


def main() -> int:
    """Write the files, unless they break callers or subscribers of the last release without a new version."""
    now = asyncio.run(made_now())
    if found := breaks(released(), now):
        print(
            "this breaks what the last release published; keep it, or raise the major version:",
            *found,
            sep="\n  ",
        )
        return 1
    PUBLISHED.mkdir(exist_ok=True)
    for name, content in now.items():
        (PUBLISHED / name).write_bytes(content)
    print(f"{len(now)} files are published in {PUBLISHED}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
