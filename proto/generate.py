"""Generate `forecaster/v1` from `proto/`, or check that the committed code is what would be generated."""

import argparse
import filecmp
import importlib.resources
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
HEADER = '"""Generated from proto/forecaster/v1 by proto/generate.py; never edit."""\n'


def generate(output: pathlib.Path) -> list[str]:
    """Write the messages, their stubs and the services below `output`; return the relative paths written."""
    sources = sorted((ROOT / "proto").rglob("*.proto"))
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}", f"-I{well_known}"]
        + [f"--{kind}_out={output}" for kind in ("python", "pyi", "grpc_python")]
        + [str(source) for source in sources],
        check=True,
    )
    package = output / "forecaster" / "v1"
    for service in package.glob("*_pb2_grpc.py"):
        source = service.with_name(service.name.replace("_pb2_grpc.py", ".proto")).name
        if "service" not in source:  # a file of messages only has an empty service module
            service.unlink()
    (package / "__init__.py").write_text(HEADER)
    return sorted(str(path.relative_to(output)) for path in package.iterdir())


def main() -> int:
    """Generate into the repository, or into a temporary folder and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 where they differ")
    if not parser.parse_args().check:
        generate(ROOT)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        names = generate(pathlib.Path(folder))
        committed = sorted(
            str(p.relative_to(ROOT)) for p in (ROOT / "forecaster" / "v1").iterdir() if p.name != "__pycache__"
        )
        _, differ, missing = filecmp.cmpfiles(folder, ROOT, names, shallow=False)
    stale = sorted({*differ, *missing, *(set(committed) ^ set(names))})
    for name in stale:
        sys.stderr.write(f"{name} is not what `make proto` generates\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
