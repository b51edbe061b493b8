"""Pages of the site that are not written by hand, and links that leave ``docs/``.

mkdocs calls these functions by their names. The references come from the code, and the files that
lie elsewhere in the repository become pages, so that nothing is written twice.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from typer.core import TyperGroup
from typer.main import get_command

import footprints
from footprints.cli import app
from footprints.config import RunConfig

ROOT = Path(__file__).parent.parent

ELSEWHERE = {
    "README.md": "manual.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "data_samples/README.md": "sample.md",
    **{f"footprints/weights/{p.name}": p.name for p in (ROOT / "footprints/weights").glob("*.md")},
    **{f"notebooks/{p.name}": f"{p.stem}.md" for p in sorted((ROOT / "notebooks").glob("*.ipynb"))},
}
"""Files of the repository that are pages, too."""

_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")
"""Mark of a picture, text, file and place in the file."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put every page of ``docs/`` that has no other place under "How to"."""
    placed = set(re.findall(r"[\w-]+\.(?:md|ipynb)", str(config.nav)))
    (guides,) = (entry["How to"] for entry in config.nav if "How to" in entry)
    guides += sorted(p.name for p in (ROOT / "docs").glob("*.md") if p.name not in placed)
    (notebooks,) = (entry["Notebooks"] for entry in config.nav if "Notebooks" in entry)
    notebooks += [ELSEWHERE[path] for path in ELSEWHERE if path.endswith(".ipynb")]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the references and the files that lie elsewhere."""
    pages = {
        "commands.md": commands(),
        "configuration.md": configuration(),
        "python.md": python(),
        **{page: read_page(ROOT / path) for path, page in ELSEWHERE.items()},
    }
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def read_page(path: Path) -> str:
    """A file as Markdown; notebooks are stored without outputs, so their cells are all there is."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]
    return "\n\n".join(
        source if kind == "markdown" else f"```python\n{source}\n```" for kind, source in cells
    )


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to where their file is in the site; code and folders keep their name alone.

    What does not exist is left as it is, and ends the build.
    """
    origins = {page_name: Path(path) for path, page_name in ELSEWHERE.items()}
    origin = origins.get(page.file.src_uri, Path("docs", page.file.src_uri))

    def lead(link: re.Match[str]) -> str:
        mark, text, file, place = link.groups("")
        target = (ROOT / origin.parent / file).resolve()
        if not target.exists() or not target.is_relative_to(ROOT):
            return link[0]
        path = target.relative_to(ROOT).as_posix()
        path = f"{path}/README.md" if f"{path}/README.md" in ELSEWHERE else path
        if path in ELSEWHERE:
            return f"{mark}[{text}]({ELSEWHERE[path]}{place})"
        if path.startswith("docs/"):
            return f"{mark}[{text}]({path.removeprefix('docs/')}{place})"
        return f"`{path}`" if text == path else f"{text} (`{path}`)"

    return _LINK.sub(lead, markdown)


def commands() -> str:
    """The page of all commands, from their help texts."""
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    parts = ["# Commands", group.help or ""]
    for name, command in sorted(group.commands.items()):
        text, _, example = (command.help or "").partition("Example: ")
        parts += [f"## footprints {name}", text.strip(), f"```\n{example.strip()}\n```"]
        rows = ["| | | default |", "|---|---|---|"]
        for parameter in command.params:
            flags = ", ".join(parameter.opts + parameter.secondary_opts)
            is_option = parameter.param_type_name == "option"
            default = parameter.default
            known = default is not None and not isinstance(default, bool)
            right = default if known else "required" if parameter.required else ""
            help_text = (getattr(parameter, "help", "") or "").replace("|", "\\|")
            rows.append(f"| `{flags if is_option else flags.upper()}` | {help_text} | {right} |")
        parts.append("\n".join(rows))
    return "\n\n".join(parts) + "\n"


def configuration() -> str:
    """The page of all keys of a configuration, from the models that check them."""
    schema = RunConfig.model_json_schema()
    module = griffe.load("footprints.config", search_paths=[str(ROOT)])
    parts = [
        "# Configuration",
        "What the YAML files of `footprints train` may hold. `--set section.key=value` overrides "
        "a key on the command line; unknown keys are errors. [Some configurations](../configs) "
        "ship with the repository.",
    ]
    for path, kind in _sections(schema, schema, "RunConfig", ""):
        about = schema if kind == "RunConfig" else schema["$defs"][kind]
        parts.append(f"## {path or 'Top level'}\n\n{about.get('description', '')}")
        rows = ["| key | value | default | |", "|---|---|---|---|"]
        for key, value in about["properties"].items():
            default = json.dumps(value["default"]) if "default" in value else "required"
            if isinstance(value.get("default"), dict) or _references(value):
                default = "see its section" if "default" in value else "required"
            text = _docstring(module, kind, key)
            rows.append(f"| `{key}` | {_values(value)} | {default} | {text} |")
        parts.append("\n".join(rows))
    return "\n\n".join(parts) + "\n"


def _sections(
    schema: dict[str, Any], about: dict[str, Any], kind: str, path: str
) -> Iterator[tuple[str, str]]:
    """Path and model of each section, those inside others behind them."""
    yield path, kind
    for key, value in about["properties"].items():
        inner = _references(value)
        for each in inner:
            name = f"{path}.{key}".lstrip(".")
            name += "[]" if value.get("type") == "array" else ""
            tag = schema["$defs"][each]["properties"].get("kind", {}).get("const")
            shown = f"{name} (kind: {tag})" if len(inner) > 1 else name
            yield from _sections(schema, schema["$defs"][each], each, shown)


def _references(value: dict[str, Any]) -> list[str]:
    """The models a value may be."""
    found = re.findall(r"'\$ref': '#/\$defs/(\w+)'", str(value))
    return list(dict.fromkeys(found))


def _values(value: dict[str, Any]) -> str:
    """What a key may hold, in words."""
    for union in ("anyOf", "oneOf"):
        if union in value:
            return " or ".join(dict.fromkeys(_values(each) for each in value[union]))
    if "$ref" in value:
        return "section"
    if "enum" in value or "const" in value:
        return ", ".join(f"`{each}`" for each in value.get("enum", [value.get("const")]))
    names = {"array": "list", "object": "pairs", "null": "`null`", "string": "text"}
    words = [names.get(value.get("type", ""), value.get("type", "any"))]
    if "items" in value:
        words.append(f"of {_values(value['items'])}")
    for key, sign in {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤",
                      "exclusiveMaximum": "<", "multipleOf": "multiple of"}.items():  # fmt: skip
        words += [f"{sign} {value[key]:g}"] if key in value else []
    return " ".join(words)


def _docstring(module: griffe.Module, kind: str, key: str) -> str:
    """The text below a field, of its model or of the one that it comes from."""
    member = module[kind].all_members.get(key)
    text = "" if member is None or member.docstring is None else member.docstring.value
    return " ".join(text.split()).replace("|", "\\|").replace("``", "`")


def python() -> str:
    """The page of the public names, which mkdocstrings fills in."""
    homes = footprints._HOMES
    # What is called comes first, then what it returns.
    public = sorted(footprints.__all__, key=lambda name: (name[0].isupper(), name))
    names = [f"::: {homes[name]}.{name}" for name in public if name in homes]
    head = (
        "# Python\n\n`import footprints as fp`; every name below is `fp.NAME`. Layers are "
        "GeoDataFrames in and out.\n"
    )
    return "\n\n".join([head, *names]) + "\n"
