"""``cloacinactl config``: ``config.toml`` of the home folder, and the profiles in it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cloacina.errors import InvalidRequest, NotFound
from cloacina.runtime.config_file import CONFIG_NAME, ConfigFile

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

    from cloacina.cli.invocation import Invocation

_SECRET = "api_key"  # noqa: S105 - the name of a key


@click.group()
def config() -> None:
    """The configuration file: settings of the daemon, and profiles of servers."""


@config.command()
@click.argument("key")
@click.pass_obj
def get(invocation: Invocation, key: str) -> None:
    """The value of KEY, such as daemon.slots."""
    found: Any = ConfigFile.read(invocation.home).document
    for part in key.split("."):
        if not isinstance(found, Mapping) or part not in found:
            raise NotFound(f"{invocation.home / CONFIG_NAME} has no {key!r}; see: cloacinactl config list")
        found = found[part]
    if invocation.printer.structured or isinstance(found, Mapping | list):
        invocation.printer.document(found)
    else:
        click.echo(str(found).lower() if isinstance(found, bool) else found)


@config.command("set")
@click.argument("key")
@click.argument("value")
@click.pass_obj
def set_value(invocation: Invocation, key: str, value: str) -> None:
    """Sets KEY to VALUE: a number, true, false or text; lists are separated by commas. Comments in the file stay.

    \b
    Examples:
      cloacinactl config set daemon.slots 8
      cloacinactl config set watch.directories ~/packages,/srv/packages
    """
    kind = _kind(key)
    parts = key.split(".")
    with _changed(invocation.home) as document:
        table: Any = document
        for part in parts[:-1]:
            if not isinstance(table.get(part, {}), Mapping):
                raise InvalidRequest(f"{part!r} in {key!r} is no table in the file")
            if part not in table:
                import tomlkit

                table[part] = tomlkit.table()
            table = table[part]
        table[parts[-1]] = [each.strip() for each in value.split(",")] if kind == "list" else _parsed(value, kind)
    problems = _problems(invocation.home)
    if problems:
        click.echo("\n".join(problems), err=True)


@config.command("list")
@click.pass_obj
def list_values(invocation: Invocation) -> None:
    """Every value of the file; what means nothing is told on stderr. Keys of profiles are not shown."""
    file = ConfigFile.read(invocation.home)
    rows = [{"key": key, "value": value} for key, value in _flat(file.document)]
    invocation.printer.rows(rows, ("key", "value"), key="key")
    for problem in _problems(invocation.home):
        click.echo(problem, err=True)


@config.command()
@click.pass_obj
def path(invocation: Invocation) -> None:
    """Where the file is."""
    click.echo(invocation.home / CONFIG_NAME)


@config.group()
def profile() -> None:
    """Servers by name: URL, key and tenant. --profile chooses one."""


@profile.command("set")
@click.argument("name")
@click.argument("server", required=False)
@click.option("--server", "server_option", help="The same as SERVER.")
@click.option("--api-key", required=True, help="The key; better env:VARIABLE or file:PATH, which keeps it out of here.")
@click.option("--tenant", help="Whose workflows, unless --tenant says otherwise.")
@click.option("--default", "is_default", is_flag=True, help="Also used when no profile is named.")
@click.pass_obj
def set_profile(
    invocation: Invocation,
    name: str,
    server: str | None,
    server_option: str | None,
    api_key: str,
    tenant: str | None,
    is_default: bool,
) -> None:
    """Makes or changes the profile NAME for the server at the URL SERVER.

    \b
    Examples:
      cloacinactl config profile set prod https://cloacina.example.com --api-key env:CLOACINA_PROD_KEY --default
      cloacinactl config profile set local http://127.0.0.1:8080 --api-key file:~/.cloacina/bootstrap-key
    """
    url = server or server_option
    if not url or not url.startswith(("http://", "https://")):
        raise click.BadParameter(f"{url or ''!r} is no http:// or https:// URL", param_hint="SERVER")
    with _changed(invocation.home) as document:
        import tomlkit

        profiles = document.setdefault("profiles", tomlkit.table(is_super_table=True))
        made = tomlkit.table()
        made.update({"server": url, "api_key": api_key, **({"tenant": tenant} if tenant else {})})
        profiles[name] = made
        if is_default:
            document["default_profile"] = name
    if not api_key.startswith(("env:", "file:")):
        click.echo(f"The key is now in {invocation.home / CONFIG_NAME}, readable by you only.", err=True)


@profile.command("list")
@click.pass_obj
def list_profiles(invocation: Invocation) -> None:
    """The profiles; the default one is marked."""
    file = ConfigFile.read(invocation.home)
    default = file.document.get("default_profile")
    rows = [
        {
            "default": "*" if name == default else "",
            "name": name,
            "server": each.get("server"),
            "api_key": _shown_key(str(each.get(_SECRET, ""))),
            "tenant": each.get("tenant"),
        }
        for name, each in sorted(file.table("profiles").items())
        if isinstance(each, Mapping)
    ]
    invocation.printer.rows(rows, ("default", "name", "server", "api_key", "tenant"), key="name")


@profile.command()
@click.argument("name")
@click.pass_obj
def use(invocation: Invocation, name: str) -> None:
    """Makes NAME the default profile."""
    with _changed(invocation.home) as document:
        _existing(document, name)
        document["default_profile"] = name


@profile.command()
@click.argument("name")
@click.pass_obj
def delete(invocation: Invocation, name: str) -> None:
    """Takes the profile NAME out."""
    with _changed(invocation.home) as document:
        del _existing(document, name)[name]
        if document.get("default_profile") == name:
            del document["default_profile"]


def _existing(document: TOMLDocument, name: str) -> Any:
    profiles: Any = document.get("profiles", {})
    if name not in profiles:
        known = ", ".join(sorted(profiles)) or "none"
        raise NotFound(f"there is no profile {name!r}; there are: {known}")
    return profiles


@contextlib.contextmanager
def _changed(home: Path) -> Iterator[TOMLDocument]:
    """The file, to be changed; written whole at once, for its owner only."""
    import tomlkit

    ConfigFile.read(home)  # says what is wrong with it
    path = home / CONFIG_NAME
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        document = tomlkit.parse(text)
        yield document
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(tomlkit.dumps(document))
        part.replace(path)
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be changed: {error.strerror}") from None


def _kind(key: str) -> str:
    """What is to stand under a key: "list", or nothing in particular.

    Raises:
        InvalidRequest: nothing takes such a key.
    """
    from cloacina.daemon.settings import KNOWN

    known: Any = KNOWN
    for part in key.split("."):
        if not isinstance(known, Mapping) or (part not in known and "*" not in known):
            unknown = ConfigFile(Path(CONFIG_NAME), _nested(key)).unknown(KNOWN)
            raise InvalidRequest("; ".join(unknown) or f"{key!r} is no key of the file")
        known = known.get(part, known.get("*"))
    if isinstance(known, Mapping):
        raise InvalidRequest(f"{key!r} is a table; set a key in it: {', '.join(sorted(known))}")
    if key == "watch.directories":
        return "list"
    return "text" if key.startswith("profiles.") else ""


def _nested(key: str) -> dict[str, Any]:
    head, _, rest = key.partition(".")
    return {head: _nested(rest) if rest else ""}


def _parsed(value: str, kind: str) -> Any:
    if kind == "text":
        return value
    if value in ("true", "false"):
        return value == "true"
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return number(value)
    return value


def _flat(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _shown_key(value) if key == _SECRET else value


def _shown_key(key: str) -> str:
    return key if key.startswith(("env:", "file:")) or not key else "(hidden)"


def _problems(home: Path) -> list[str]:
    """What the file says that means nothing, or cannot be used."""
    from cloacina.daemon.settings import SettingsError, settings_from

    try:
        return settings_from(home, {})[1]
    except SettingsError as error:
        return [error.message]
