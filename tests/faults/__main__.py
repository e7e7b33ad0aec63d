"""`python -m tests.faults`: writes the last run's table of faults into the README."""

import msgspec

from tests.faults import table

text = table.README.read_text()
rows = msgspec.json.decode(table.FILE.read_bytes(), type=list[table.Row])
shown = "\n".join(table.markdown(rows))
table.README.write_text(table.SHOWN.sub(lambda _: shown, text))
