"""`make telemetry`: writes deploy/telemetry.md."""

from tests.telemetry.page import PAGE, page

if __name__ == "__main__":
    PAGE.write_text(page())
