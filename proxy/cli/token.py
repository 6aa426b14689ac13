"""`sluis token`: who may use the API."""

from __future__ import annotations

from typing import Annotated, get_args

import typer

app = typer.Typer(help="Tokens of the API.", no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def group() -> None:
    """Tokens of the API."""


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Who gets it; appears in logs.")],
    role: Annotated[str, typer.Option(help="reader, editor or auditor.")],
    sender: Annotated[
        list[str] | None, typer.Option(help="A sender that it may ask about; default: all.")
    ] = None,
) -> None:
    """Make a token, and the lines for the configuration. It is shown this once and kept nowhere."""
    import orjson
    from pydantic import ValidationError

    from proxy.api_tokens import digest, new_token
    from proxy.config import ApiToken
    from proxy.config.models import Role

    if role not in get_args(Role):
        raise typer.BadParameter(f"one of {', '.join(get_args(Role))}", param_hint="--role")
    made = new_token()
    try:
        entry = ApiToken.model_validate(
            {"name": name, "token_hash": digest(made), "role": role, "senders": sender or []}
        )
    except ValidationError as error:
        words = "; ".join(detail["msg"] for detail in error.errors(include_url=False))
        raise typer.BadParameter(words) from error
    lines = ["[[api_tokens]]", f'name = "{entry.name}"', f'token_hash = "{entry.token_hash}"']
    lines.append(f'role = "{entry.role}"')
    if entry.senders:
        lines.append(f"senders = {orjson.dumps(entry.senders).decode()}")
    typer.echo("The token; it is not shown again:", err=True)
    typer.echo(made)
    typer.echo("For the configuration:", err=True)
    typer.echo("\n".join(lines))
