# Needs Python 3.11 or newer, git and make; everything else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-full format docs plugin clean

demo: .venv/ready
	mkdir -p out
	$(BIN)/footprints predict data_samples/town.tif -o out/town.gpkg --overlay out/town.png --overwrite
	$(BIN)/footprints evaluate out/town.gpkg data_samples/town_buildings.gpkg
	@echo "layer: out/town.gpkg   picture: out/town.png"

test: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest

test-full: .venv/ready
	$(BIN)/pytest -m full

format: .venv/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: .venv/ready
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --editable '.[docs]'
	$(BIN)/mkdocs build --strict
	@echo "site: site/index.html"

plugin:
	$(PYTHON) qgis/make_zip.py dist/footprints-qgis.zip
	@echo "plugin: dist/footprints-qgis.zip"

clean:
	rm -rf .venv out site dist

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --editable '.[test]'
	touch .venv/ready
