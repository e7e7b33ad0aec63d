"""How a client is generated and compiled in each language.

The compilers are strict, so far as the generators' own code allows. Each function writes into a folder of its
own and returns the command that runs the program there.
"""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.contract.clients import tools
from tests.contract.clients.tools import HERE, run
from tests.support.golang import go

Command = list[str | Path]
JAVA_OPTIONS: Final = (
    "invokerPackage=links,apiPackage=links.api,modelPackage=links.model,"
    "useSingleRequestParameter=true"
)
NO_TESTS: Final = "apiTests=false,modelTests=false,apiDocs=false,modelDocs=false"

TSCONFIG: Final = """\
{"compilerOptions": {"strict": true, "noUnusedLocals": true, "noImplicitReturns": true, "skipLibCheck": true,
 "target": "es2022", "module": "nodenext", "types": ["node"], "outDir": "made", "rootDir": "."},
 "files": ["main.ts"]}
"""

MYPY: Final = """\
[mypy]
strict = true
# The generator's own text, the same for every description, is not strict:
[mypy-links.client]
ignore_errors = true
"""


def openapi_python_client(folder: Path, document: Path) -> Command:
    """Generate the package `links`; check it and the program with mypy."""
    programs = tools.python()
    generator = programs / "openapi-python-client"
    said = run(
        generator, "generate", "--path", document, "--output-path", "links", "--meta", "none",
        "--fail-on-warning", cwd=folder, PATH=tools.path(),  # it formats with ruff
    )  # fmt: skip
    assert "warning" not in said.lower(), said
    shutil.copy(HERE / "python" / "main.py", folder)
    (folder / "mypy.ini").write_text(MYPY)
    mypy = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini"]
    run(*mypy, "--python-executable", programs / "python", "main.py", "links", cwd=folder)
    return [programs / "python", "main.py"]


def openapi_generator(folder: Path, document: Path) -> Command:
    """Generate Java; compile the program with all warnings, the generator's own code without."""
    libraries = tools.java()
    (jar,) = libraries.glob("openapi-generator-cli-*.jar")
    run(
        "java", "-jar", jar, "generate", "-g", "java", "--library", "native", "-i", document,
        "-o", "client", f"--additional-properties={JAVA_OPTIONS}", f"--global-property={NO_TESTS}",
        cwd=folder,
    )  # fmt: skip
    needed = ":".join(str(each) for each in libraries.glob("*.jar") if each != jar)
    sources = sorted((folder / "client/src/main/java").rglob("*.java"))
    run("javac", "-Werror", "-nowarn", "-d", "made", "-cp", needed, *sources, cwd=folder)
    path = f"made:{needed}"
    program = HERE / "java" / "Main.java"
    run(
        "javac",
        "-Xlint:all,-classfile,-processing",
        "-Werror",
        "-d",
        "made",
        "-cp",
        path,
        program,
        cwd=folder,
    )
    return ["java", "-cp", path, "Main"]


def oapi_codegen(folder: Path, document: Path) -> Command:
    """Generate the Go package `links`; check it and the program with go vet."""
    for file in (HERE / "go").iterdir():
        shutil.copy(file, folder)
    (folder / "links").mkdir()
    options = ("-config", "oapi-codegen.yaml", "-o", "links/links.go")
    run(go(), "tool", "oapi-codegen", *options, document, cwd=folder)
    run(go(), "vet", "./...", cwd=folder)
    run(go(), "build", "-o", "main", ".", cwd=folder)
    return [folder / "main"]


def openapi_typescript(folder: Path, document: Path) -> Command:
    """Generate the types for openapi-fetch; compile the program with tsc."""
    tools.npm("openapi-typescript", document, "-o", "links.ts", cwd=folder)
    return typescript(folder, "openapi-fetch.ts")


def hey_api(folder: Path, document: Path) -> Command:
    """Generate the package `links`; compile it and the program with tsc."""
    output = '{path: "links", module: {extension: ".js"}}'
    config = f'export default {{input: "{document}", output: {output}}};'
    (folder / "openapi-ts.config.mjs").write_text(config)
    tools.npm("openapi-ts", cwd=folder)
    return typescript(folder, "hey-api.ts")


def typescript(folder: Path, program: str) -> Command:
    """Compile a program, as main.ts, and what has been generated beside it with tsc."""
    shutil.copy(HERE / "typescript" / program, folder / "main.ts")
    (folder / "node_modules").symlink_to(tools.MODULES)
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "tsconfig.json").write_text(TSCONFIG)
    tools.npm("tsc", cwd=folder)
    return [tools.python() / "node", "made/main.js"]


GENERATORS: Final[tuple[Callable[[Path, Path], Command], ...]] = (
    openapi_python_client,
    openapi_generator,
    oapi_codegen,
    openapi_typescript,
    hey_api,
)
