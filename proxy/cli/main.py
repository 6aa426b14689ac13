"""`sluis`: the command line. Data on stdout, messages on stderr, exit codes of sysexits.h.

Every command imports what it needs when it runs, so that `sluis --help` and `sluis healthcheck`
stay quick.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from proxy.cli import consent, dkim, key, outbox, policy, report, token
from proxy.errors import ConfigError, SluisError

app = typer.Typer(
    name="sluis",
    help="An SMTP relay that sends only what may be sent, with the article of law for the rest.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(consent.app, name="consent")
app.add_typer(policy.app, name="policy")
app.add_typer(report.app, name="report")
app.add_typer(token.app, name="token")
app.add_typer(dkim.app, name="dkim")
app.add_typer(key.app, name="key")
app.add_typer(outbox.app, name="outbox")

#: The base of all usage errors, wherever this Typer keeps its Click.
_USAGE_ERROR: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "UsageError")

Config = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", help="The TOML file; else $SLUIS_CONFIG, /etc/sluis/sluis.toml."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"sluis {version('sluis')}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


@app.command()
def serve(config: Config = None) -> None:
    """Run the relay until SIGTERM; a second signal ends it at once."""
    from proxy.cli.serve import run

    run(config)


@app.command()
def demo(
    once: Annotated[
        bool, typer.Option("--once", help="Exit when done: 0 if all as expected.")
    ] = False,
) -> None:
    """Start everything on free ports, send a dozen mails, show each verdict with its article."""
    from proxy.cli.demo import run

    raise typer.Exit(run(once=once))


@app.command()
def check(
    config: Config = None,
    show: Annotated[
        bool, typer.Option("--show", help="Print the effective configuration.")
    ] = False,
    json: Json = False,
) -> None:
    """Check the configuration: every problem with file, key and remedy; exit 78 if there is one."""
    from proxy.cli.check import check as run

    run(config, show=show, json=json)


@app.command()
def doctor(config: Config = None, json: Json = False) -> None:
    """Look at the running relay from outside: strangers, TLS, upstreams; exit 1 if one fails."""
    from proxy.cli.doctor import run

    raise typer.Exit(run(config, json=json))


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="CSV, or JSONL when it ends in .jsonl or .ndjson.")],
    config: Config = None,
    sender: Annotated[str | None, typer.Option(help="Sender of rows without one.")] = None,
    column: Annotated[
        list[str] | None, typer.Option("--map", help="theirs=ours; ours '-' leaves it out.")
    ] = None,
    preset: Annotated[
        list[str] | None, typer.Option("--set", help="column=value for rows without it.")
    ] = None,
    timezone: Annotated[str | None, typer.Option(help="Zone of times without one.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read and check, write nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Record consents, relationships and objections; bad rows are told and skipped (exit 65)."""
    from proxy.cli.importing import run

    raise typer.Exit(
        run(
            file,
            config=config,
            sender=sender,
            columns=column or [],
            preset=preset or [],
            timezone=timezone,
            dry_run=dry_run,
            json=json,
        )
    )


@app.command()
def explain(
    address: Annotated[
        str, typer.Argument(help="An address, or the reference that a reply or the log names.")
    ],
    stream: Annotated[
        str | None, typer.Option(help="The stream the mail would go by; not with a reference.")
    ] = None,
    config: Config = None,
    product: Annotated[list[str] | None, typer.Option(help="What the mail is about.")] = None,
    topic: Annotated[list[str] | None, typer.Option(help="Instead of the stream's.")] = None,
    at: Annotated[str | None, typer.Option(help="ISO 8601: as it was then.")] = None,
    lang: Annotated[str, typer.Option(help="en or nl.")] = "en",
    json: Json = False,
) -> None:
    """Say whether a mail may be sent, why, and what would change the answer; exit 1 on block."""
    from proxy.cli.explaining import run

    raise typer.Exit(
        run(
            address,
            config=config,
            stream=stream,
            products=tuple(product or ()),
            topics=tuple(topic or ()),
            at=at,
            language=lang,
            json=json,
        )
    )


@app.command()
def preflight(
    file: Annotated[
        Path, typer.Argument(help="CSV with an address column, one address a line, or JSONL.")
    ],
    stream: Annotated[str, typer.Option(help="The stream the campaign would go by.")],
    config: Config = None,
    product: Annotated[list[str] | None, typer.Option(help="What the mail is about.")] = None,
    topic: Annotated[list[str] | None, typer.Option(help="Instead of the stream's.")] = None,
    at: Annotated[str | None, typer.Option(help="ISO 8601: when it goes; default now.")] = None,
    column: Annotated[str | None, typer.Option(help="The address column's name.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write allowed.csv and blocked.csv here.", file_okay=False)
    ] = None,
    lang: Annotated[str, typer.Option(help="en or nl.")] = "en",
    json: Json = False,
) -> None:
    """Count what of a campaign's list may be mailed, and why the rest may not; nothing is sent."""
    from proxy.cli.preflight import run

    raise typer.Exit(
        run(
            file,
            config=config,
            stream=stream,
            products=tuple(product or ()),
            topics=tuple(topic or ()),
            at=at,
            column=column,
            out=out,
            language=lang,
            json=json,
        )
    )


@app.command()
def sink(
    smtp: Annotated[str, typer.Option(help="host:port of SMTP.")] = "127.0.0.1:1025",
    http: Annotated[str, typer.Option(help="host:port of the inbox.")] = "127.0.0.1:8025",
    public_url: Annotated[
        str, typer.Option(help="Origin, besides loopback, that the unsubscribe button may call.")
    ] = "",
) -> None:
    """A development upstream that keeps mail in memory and shows it in a web inbox."""
    from proxy.cli.sink import sink as run

    run(smtp=smtp, http=http, public_url=public_url)


@app.command()
def healthcheck(
    config: Config = None,
    url: Annotated[
        str | None, typer.Option(help="Instead of http.admin of the configuration.")
    ] = None,
) -> None:
    """Ask the running relay whether it is ready; exit 0 if so, 69 if not."""
    from proxy.cli.serve import healthcheck as run

    raise typer.Exit(run(config, url))


def main(arguments: list[str] | None = None) -> None:
    """The console script. Usage errors exit 64, a configuration in error 78, store trouble 69,
    a fault of ours 70."""
    try:
        code = app(arguments, standalone_mode=False)
    except _USAGE_ERROR as error:
        error.show()
        code = os.EX_USAGE
    except typer.Abort:
        code = 130
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)  # noqa: T201  messages go to stderr
        code = os.EX_CONFIG
    except SluisError as error:
        print(f"sluis: {error}", file=sys.stderr)  # noqa: T201
        code = os.EX_UNAVAILABLE
    except BrokenPipeError:
        # The reader of our output left (`sluis ... | head`): not an error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception:  # the edge: 1 is the answer "block" of `explain`, never a fault of ours
        traceback.print_exc()
        code = os.EX_SOFTWARE
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
