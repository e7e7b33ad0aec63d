"""`Reader.java`, compiled and run: the Java client, the CloudEvents SDK of Java and networknt's validator."""

import json
import subprocess
from pathlib import Path
from typing import Any

from deploy.local import java
from service.described.events import EVENT_TYPES, event_schema
from service.described.snapshots import MARKER_TYPES, marker_schema

HERE = Path(__file__).parent
COMPILER = "org.eclipse.jdt.internal.compiler.batch.Main"
LANGUAGE = "-17"
TIMEOUT_S = 120
JVM = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-XX:-UsePerfData", "-Xshare:auto")


class JavaReader:
    """The compiled program, with the schemas as the service publishes them.

    The runtime has no compiler, so the one of Eclipse is among the jars.
    """

    def __init__(self, folder: Path) -> None:
        self._jars = java.jars(HERE / "readers.xml")
        self._classes, self._schemas = folder / "classes", folder / "schemas"
        jars = ":".join(map(str, self._jars.glob("*.jar")))
        self._run(
            COMPILER,
            LANGUAGE,
            "-proc:none",
            "-cp",
            jars,
            "-d",
            str(self._classes),
            str(HERE / "Reader.java"),
        )
        self._schemas.mkdir()
        for schema in (*map(event_schema, EVENT_TYPES), *map(marker_schema, MARKER_TYPES)):
            (self._schemas / f"{schema['title']}.json").write_text(json.dumps(schema))

    def read(self, kafka: str, *arguments: str | int) -> list[dict[str, Any]]:
        """Return the records that the program reads; see Reader.java."""
        output = self._run("Reader", kafka, str(self._schemas), *map(str, arguments))
        return [json.loads(line) for line in output.splitlines()]

    def _run(self, *arguments: str) -> str:
        command = [java.JAVA, *JVM, "-cp", f"{self._classes}:{self._jars}/*", *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        return done.stdout
