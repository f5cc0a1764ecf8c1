# Two commands for a newcomer: `make run` edits a picture with the embedded model and scores the edit, `make test` checks everything.
PYTHON ?= python3
TORCH  ?= torch==2.13.0
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# set by `make run OUT=somewhere`
OUT    ?= output

.PHONY: setup run picture pictures serve test lint format bench evaluate train-toybox train-toybox-control train-toybox-instruct clean

setup: $(READY)

# torch goes first, so that nothing later pulls another build of it
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "latentgraph needs Python 3.11 or newer, found " + sys.version.split()[0] + "; set PYTHON=")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV) (once; a few minutes)"
	@$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/pip install --quiet --disable-pip-version-check $(TORCH)
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,editor,train]'
	@touch $@

run: $(READY)
	$(BIN)/latentgraph run workflows/p2p_real.json -o $(OUT)

# the README's picture: source, edit and truth of the flagship
picture: $(READY)
	rm -f build/picture/*.png
	$(BIN)/latentgraph run workflows/p2p_real.json -o build/picture
	$(BIN)/python docs/strip.py docs/flagship.png build/picture/p2p_real_0000[123]_.png

# and those of docs/editing.md, one for each technique: about ten minutes
pictures: $(READY)
	$(BIN)/python docs/pictures.py

serve: $(READY)
	$(BIN)/latentgraph serve

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadgroup

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	$(BIN)/python benchmarks/engine.py

evaluate: $(READY)
	$(BIN)/python -m toybox.evaluate

# hours on a CPU, minutes on a GPU; resumes where it stopped
train-toybox: $(READY)
	$(BIN)/python -m toybox.train all
	$(BIN)/python -m toybox.train_probe

# then the ControlNet and the T2I-Adapter for it
train-toybox-control: $(READY)
	$(BIN)/python -m toybox.train_control

# and the variant that follows instructions
train-toybox-instruct: $(READY)
	$(BIN)/python -m toybox.train_instruct

clean:
	rm -rf $(VENV) build *.egg-info
