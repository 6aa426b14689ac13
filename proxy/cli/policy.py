"""`sluis policy`: the packs, and vector files run against them."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import orjson
import typer

if TYPE_CHECKING:
    from policy.pack import Pack, Packs, Rule

app = typer.Typer(help="Show the law that is applied, and test it.", no_args_is_help=True)

_USAGE = 64
_BAD_DATA = 65
_NO_INPUT = 66

PacksDir = Annotated[
    Path | None,
    typer.Option(
        "--packs",
        help="A directory with packs of your own, beside the shipped ones.",
        file_okay=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_(packs: PacksDir = None, as_json: Json = False) -> None:
    """One line per pack: id, version, digest, review date, countries."""
    loaded = _load(packs)
    if as_json:
        _print_json([_summary(pack) for pack in loaded])
        return
    for pack in loaded:
        sent_from = ", also for mail sent from there" if pack.applies_to_sent_from else ""
        countries = " ".join(pack.countries)
        typer.echo(
            f"{pack.label}  reviewed {pack.reviewed_on}  {pack.title} ({countries}){sent_from}"
        )


@app.command()
def show(
    id_: Annotated[str, typer.Argument(metavar="ID", help="As listed by `policy list`.")],
    packs: PacksDir = None,
    as_json: Json = False,
) -> None:
    """The rules of one pack, in order, with their conditions, articles and confidence."""
    loaded = _load(packs)
    if id_ not in loaded.by_id:
        _fail(f"no pack {id_}; there are: {' '.join(loaded.by_id)}", _USAGE)
    pack = loaded[id_]
    if as_json:
        rules = [_rule(rule) for rule in pack.rules]
        _print_json(_summary(pack) | {"rules": rules, "duties": asdict(pack.duties)})
        return
    typer.echo(f"{pack.label}  {pack.title}, reviewed {pack.reviewed_on}")
    for place, rule in enumerate(pack.rules, 1):
        needs = ", ".join(condition.name for condition in rule.conditions) or "nothing recorded"
        typer.echo(f"{place}. {rule.id} -> {rule.allows}  [{rule.cite}; {rule.confidence}]")
        for gate, value in _gates(rule).items():
            typer.echo(f"   only for {gate} = {value}")
        typer.echo(f"   needs: {needs}")
    typer.echo("Every marketing message owes:")
    for duty, cite in _duties(pack):
        typer.echo(f"   {duty}  [{cite}]")
    typer.echo(f"An objection stops it  [{pack.suppression_cite}]")


@app.command("test")
def run_files(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Vector files (TOML).")],
    packs: PacksDir = None,
    as_json: Json = False,
) -> None:
    """Run vector files: one line per failing case, then `N passed, N failed`; exit 1 on failure."""
    from policy.vectors import VectorError, cases_from, run

    loaded = _load(packs)
    passed = 0
    failures: list[dict[str, str]] = []
    for file in files:
        try:
            cases = cases_from(file.read_text("utf-8"), name=str(file))
        except OSError as error:
            _fail(f"{file}: {error.strerror}", _NO_INPUT)
        except (VectorError, UnicodeDecodeError) as error:
            _fail(str(error), _BAD_DATA)
        for case in cases:
            outcome = run(case, loaded)
            passed += outcome.ok
            if not outcome.ok:
                failures.append({"file": str(file), "case": case.id, "words": outcome.words})
    if as_json:
        _print_json({"passed": passed, "failed": len(failures), "failures": failures})
    else:
        for failure in failures:
            typer.echo(f"{failure['file']}: {failure['case']}: {failure['words']}")
        typer.echo(f"{passed} passed, {len(failures)} failed")
    if failures:
        raise typer.Exit(1)


@app.command()
def docs(
    out: Annotated[Path, typer.Option(help="The directory to write to.", file_okay=False)],
    packs: PacksDir = None,
) -> None:
    """Write a page for people on each pack (Markdown), and one that leads to them."""
    from policy.pages import index, page
    from proxy.packs import pack_texts

    loaded = _load(packs)
    texts = pack_texts(packs)
    out.mkdir(parents=True, exist_ok=True)
    for pack in loaded:
        name, text = texts[pack.id]
        (out / f"{pack.id}.md").write_text(page(pack, text, name), "utf-8")
    (out / "README.md").write_text(index(loaded), "utf-8")
    typer.echo(f"{len(loaded) + 1} pages written to {out}", err=True)


@app.command()
def backtest(
    since: Annotated[str, typer.Option(help="30d, or an ISO 8601 time.")],
    config: Annotated[Path | None, typer.Option("--config", "-c", help="The TOML file.")] = None,
    packs: PacksDir = None,
    settings: Annotated[
        Path | None, typer.Option(help="Another configuration, whose senders and streams to try.")
    ] = None,
    stream: Annotated[str | None, typer.Option(help="This stream only.")] = None,
    as_json: Json = False,
) -> None:
    """Decide the journal's mails again under other packs or settings; one line per flip."""
    from proxy.cli.backtest import run as replay

    raise typer.Exit(
        replay(
            config=config,
            since=since,
            packs_dir=packs,
            settings=settings,
            stream=stream,
            json=as_json,
        )
    )


def _load(directory: Path | None) -> Packs:
    from policy.pack import PackError
    from proxy.packs import load_packs

    try:
        return load_packs(directory)
    except PackError as error:
        _fail(str(error), _BAD_DATA)
    except OSError as error:
        _fail(f"{directory}: {error.strerror}", _NO_INPUT)


def _fail(words: str, code: int) -> NoReturn:
    typer.echo(f"sluis: {words}", err=True)
    raise typer.Exit(code)


def _print_json(value: object) -> None:
    typer.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())


def _summary(pack: Pack) -> dict[str, object]:
    return {
        "id": pack.id,
        "title": pack.title,
        "version": pack.version,
        "digest": pack.digest,
        "label": pack.label,
        "reviewed_on": pack.reviewed_on,
        "countries": pack.countries,
        "applies_to_sent_from": pack.applies_to_sent_from,
    }


def _rule(rule: Rule) -> dict[str, object]:
    return {
        "id": rule.id,
        "allows": rule.allows,
        "cite": rule.cite,
        "confidence": rule.confidence,
        "reviewed_on": rule.reviewed_on,
        "gates": _gates(rule),
        "conditions": [condition.name for condition in rule.conditions],
    }


def _duties(pack: Pack) -> list[tuple[str, str]]:
    from policy.pack import Label

    duties = pack.duties
    lasting = f" that works for {duties.valid_days} days" if duties.valid_days else ""
    labels = {Label.NEVER: "", Label.ALWAYS: ", labelled", Label.UNLESS_CONSENT: ", labelled"}
    unless = " unless under consent" if duties.label is Label.UNLESS_CONSENT else ""
    owed = [
        ("the sender's identity", duties.identity),
        ("the sender's postal address", duties.postal_address),
        (f"an easy opt-out{lasting}", duties.unsubscribe),
        (f"an honest subject{labels[duties.label]}{unless}", duties.subject),
        ("one visible recipient", duties.recipients),
    ]
    return [(words, cite) for words, cite in owed if cite]


def _gates(rule: Rule) -> dict[str, object]:
    """Who and what the rule is for; gates that are open to all are left out."""
    gates: dict[str, object] = {}
    for item in fields(rule.gates):
        value = getattr(rule.gates, item.name)
        if value is not None and value is not False:
            many = isinstance(value, frozenset)
            gates[item.name] = ", ".join(sorted(value)) if many else value
    return gates
