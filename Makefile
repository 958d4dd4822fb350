# The two commands: `make run` and `make test`. Each does all set-up by itself, as root or not.
# PYTHON chooses the interpreter (3.11 or newer); HOME_FOLDER where `make run` keeps its data.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
HOME_FOLDER ?= $(if $(CLOACINA_HOME),$(CLOACINA_HOME),$(HOME)/.cloacina)
INSTALLED := $(VENV)/.installed

.PHONY: run test check audit protos openapi bench chaos clean
.DEFAULT_GOAL := run

run: $(INSTALLED)
	@$(BIN)/python scripts/main_job.py --home "$(HOME_FOLDER)"

# Most tests time real processes: on a machine that stands still for a moment one may fail that is right. It is run once
# more, and the summary lists it (RERUN, with why): that is a defect to look into, of the test or of what it tests.
test: $(INSTALLED)
	$(BIN)/pytest -n 4 --dist loadgroup --reruns 1 tests

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python scripts/generate_protos.py --check
	$(BIN)/python scripts/access_table.py --check
	$(BIN)/python scripts/openapi.py --check

openapi: $(INSTALLED)
	$(BIN)/python scripts/openapi.py --write

audit: $(INSTALLED)
	$(BIN)/python scripts/audit.py

protos: $(INSTALLED)
	$(BIN)/python scripts/generate_protos.py

bench: $(INSTALLED)
	$(BIN)/python bench/suite.py

# EXECUTIONS, FAULTS, SEED and DATABASE (sqlite, postgres, both) choose; docs/durability.md says what it does.
chaos: $(INSTALLED)
	$(BIN)/python -m tests.chaos $(if $(EXECUTIONS),--executions $(EXECUTIONS)) $(if $(FAULTS),--faults $(FAULTS)) \
		$(if $(SEED),--seed $(SEED)) $(if $(DATABASE),--database $(DATABASE))

clean:
	rm -rf $(VENV)

# One environment for all of them: exactly what requirements.lock says, and this checkout on top.
$(INSTALLED): pyproject.toml requirements.lock scripts/make_venv.sh
	@sh scripts/make_venv.sh "$(PYTHON)" $(VENV)
	@touch $@
