# Sourced by the scripts of this folder, which go on in the repository's root: a Python path for a bare CUDA machine
# without network. torch, transformers, peft, accelerate, typer and rich must be there; what else is needed may lie in
# ./wheels (cp312 wheels, see bench/README.md) and is put into a temporary directory.
python=${PYTHON:-python3}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT

if [ -d wheels ]; then
  "$python" -m pip install --quiet --no-index --no-deps --target "$site" wheels/*.whl
fi
# The package runs from src/; its version is looked up, so it needs metadata.
version=$("$python" -c 'import tomllib; print(tomllib.load(open("pyproject.toml", "rb"))["project"]["version"])')
mkdir "$site/scrpo_cli-$version.dist-info"
printf 'Metadata-Version: 2.1\nName: scrpo-cli\nVersion: %s\n' "$version" > "$site/scrpo_cli-$version.dist-info/METADATA"
export PYTHONPATH="$PWD/src:$site${PYTHONPATH:+:$PYTHONPATH}"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

missing=$("$python" - <<'PY'
import importlib.util
needed = "torch transformers peft accelerate typer rich pydantic sqlmodel sqlalchemy yaml scipy jinja2 filelock psutil pebble"
print(*(name for name in needed.split() if importlib.util.find_spec(name) is None))
PY
)
if [ -n "$missing" ]; then
  echo "Missing modules: $missing. Put their cp312 wheels into ./wheels (bench/README.md says how)." >&2
  exit 2
fi
