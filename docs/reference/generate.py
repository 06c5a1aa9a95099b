"""Pages that are made from the code when the documentation is built: the keys of protocols and profiles, and the Python names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mkdocs.structure.files import File

from scotopic import api
from scotopic.protocol import ImagingProtocol, MicroscopeProfile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from pydantic import BaseModel


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages (a hook of mkdocs)."""
    pages = {
        "reference/protocol.md": keys_page("Keys of protocols", ImagingProtocol),
        "reference/profile.md": keys_page("Keys of microscope profiles", MicroscopeProfile),
        "reference/python.md": python_page(),
    }
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def python_page() -> str:
    """Return the page of the stable names."""
    lines = ["# Python", "", (api.__doc__ or "").strip(), ""]
    lines += [f"::: scotopic.api.{name}\n    options: {{heading_level: 2}}\n" for name in api.__all__]
    return "\n".join(lines)


def keys_page(title: str, model: type[BaseModel]) -> str:
    """Return a page with all keys of a model and of the models in it."""
    schema = model.model_json_schema()
    shown = {model.__name__: schema} | schema.get("$defs", {})
    lines = [f"# {title}", ""]
    for name, part in shown.items():
        if "properties" in part:
            lines += [f"## {name}", "", part.get("description", "").partition("\n\n")[0], "", *_table(part), ""]
    return "\n".join(lines)


def _table(part: dict[str, Any]) -> Iterator[str]:
    needed = set(part.get("required", ()))
    yield "| key | value | default | meaning |"
    yield "|---|---|---|---|"
    for key, field in part["properties"].items():
        default = "required" if key in needed else f"`{field.get('default')!r}`" if "default" in field else ""
        if isinstance(field.get("default"), dict):
            default = "see there"
        meaning = " ".join(field.get("description", "").split())
        yield f"| `{key}` | {_kind(field)} | {_cell(default)} | {_cell(meaning)} |"


def _kind(field: dict[str, Any]) -> str:
    """Return in words what a value may be."""
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "allOf" in field:
        return _kind(field["allOf"][0])
    for key in ("anyOf", "oneOf"):
        if key in field:
            return " or ".join(dict.fromkeys(_kind(each) for each in field[key]))
    if "enum" in field or "const" in field:
        return _cell(" or ".join(f"`{value}`" for value in field.get("enum", [field.get("const")])))
    if field.get("type") == "array":
        inner = field.get("items") or (field.get("prefixItems") or [{}])[0]
        return f"list of {_kind(inner)}" if isinstance(inner, dict) and inner else "list"
    if field.get("type") == "object":
        inner = field.get("additionalProperties")
        return f"name: {_kind(inner)}" if isinstance(inner, dict) else "keys"
    bounds = [
        f"{sign} {field[key]:g}"
        for key, sign in (("exclusiveMinimum", ">"), ("minimum", ">="), ("exclusiveMaximum", "<"), ("maximum", "<="))
        if key in field
    ]
    return " ".join(
        [{"null": "nothing"}.get(field.get("type", ""), field.get("type", "any")), ", ".join(bounds)]
    ).strip()


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
