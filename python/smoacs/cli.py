"""The command ``smoacs``. Everything heavy is imported inside the commands: help is instant."""

from __future__ import annotations

import gc
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option
from typer.core import TyperGroup

from smoacs.cli_options import DesignOptions, names_of, objectives_of, with_design_options

if TYPE_CHECKING:
    from smoacs.runs import OnStep, Run

DONE, BAD_INPUT, NO_SUCCESS, INTERRUPTED = 0, 2, 3, 130

_PACKAGE = Path(__file__).parent
_CONTACTS = {"kind": "contact_strain"}


class _Commands(TyperGroup):
    """Lists ``design`` first."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=lambda name: name != "design")


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="""Design crystals with several target properties at once, under hard constraints.

    \b
    First steps:
      smoacs doctor
      smoacs design perovskite --band-gap 2.5 --out runs/gap25
    """,
    epilog="Exit codes: 0 done, 2 bad input, 3 no candidate succeeded, 130 interrupted.",
)
design_app = typer.Typer(help="Design crystals in a family of structures.")
app.add_typer(design_app, name="design")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit code.

    0 done, 2 bad input (one line on stderr), 3 no candidate succeeded, 130 interrupted. Errors
    that are no mistake of the user keep their traceback.
    """
    # Threads that wait by spinning are several times slower than one where others use the machine.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # read when torch is imported
    # Imports make 200,000 objects that stay: to search them again and again takes 0.2 of 2.4 s.
    gc.set_threshold(10_000)
    with warnings.catch_warnings():
        warnings.filterwarnings("default", category=UserWarning)
        warnings.showwarning = _show_warning
        try:
            code = app(args=None if arguments is None else list(arguments), standalone_mode=False)
        except Exception as error:
            message = _mistake(error)
            if message is None:
                raise
            _say(message)
            return BAD_INPUT
    return code or DONE


def _mistake(error: Exception) -> str | None:
    """The message, if the user made the error; None if the program did.

    Users give wrong options, name files that cannot be used, lack packages, and fail smoacs's own
    checks; the last two are raised by smoacs's own lines.
    """
    if hasattr(error, "format_message"):  # options and arguments
        context = getattr(error, "ctx", None)
        hint = f". Try: {context.command_path} --help" if context else ""
        return error.format_message().rstrip(".") + hint
    if isinstance(error, ValueError | ImportError):
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        return str(error) if raised_in.is_relative_to(_PACKAGE) else None
    return str(error) if isinstance(error, OSError) else None


def _say(text: str) -> None:
    """One line on stderr."""
    typer.echo(f"smoacs: {' '.join(text.split())}", err=True)


def _show_warning(
    message: Warning | str, category: object, filename: str, *_: object, **__: object
) -> None:
    """Warnings of smoacs as one line; those of other packages mean nothing to its users."""
    if Path(filename).is_relative_to(_PACKAGE):
        _say(str(message))


@app.callback(invoke_without_command=True)
def _start(
    context: typer.Context,
    version: Annotated[bool, Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        from smoacs import __version__

        typer.echo(f"smoacs {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


# --- Design --------------------------------------------------------------------------------------


@design_app.command("perovskite")
@with_design_options
def design_perovskite(
    options: DesignOptions,
    supercell: Annotated[
        tuple[int, int, int], Option(help="Cells along a, b, c.", metavar="A B C")
    ] = (1, 1, 1),
    tolerance_factor: Annotated[
        tuple[float, float], Option(help="Success with a factor in between.", metavar="LOW HIGH")
    ] = (0.8, 1.0),
) -> int:
    """Design perovskites ABX3.

    \b
    smoacs design perovskite --band-gap 2.5 --out runs/gap25
    smoacs design perovskite --band-gap 4 --supercell 3 3 3 --candidates 32 --out runs/large
    smoacs design perovskite --band-gap 1.5 --exclude Pb,Cd --out runs/without-lead
    """  # noqa: D301
    low, high = tolerance_factor
    template = {"kind": "perovskite", "supercell": supercell}
    factor = {"kind": "tolerance_factor", "low": low, "high": high}
    if options.preset == "paper":
        factor["strength"] = 1.0
    return _design(template, [factor, _CONTACTS], options)


@design_app.command("prototype")
@with_design_options
def design_prototype(
    options: DesignOptions,
    source: Annotated[
        str, Option("--from", help="aflow, minerals, or a file or folder.", metavar="SOURCE")
    ],
    only: Annotated[
        str | None, Option(help="Use these prototypes only.", metavar="NAME[,NAME]")
    ] = None,
) -> int:
    """Design crystals in known structure types or your own.

    \b
    smoacs design prototype --from aflow --band-gap 3 --out runs/aflow
    smoacs design prototype --from my_cifs --minimize formation_energy=-1 --out runs/mine
    """  # noqa: D301
    return _design({"kind": "prototype", "source": source, "only": only}, [_CONTACTS], options)


def _design(
    template: dict[str, Any], standard: list[dict[str, Any]], options: DesignOptions
) -> int:
    from smoacs.config import make_config
    from smoacs.runs import run_config

    _use_threads(options.threads)
    config = make_config(
        template=template,
        objectives=objectives_of(options, standard),
        **({"predictors": names_of(options.predictor)} if options.predictor else {}),
        candidates=options.candidates,
        steps=options.steps,
        seed=options.seed,
        preset=options.preset,
        start=options.start,
        oxidation=options.oxidation,
        elements=options.elements,
        exclude=options.exclude,
        device=options.device,
        sites_per_batch=options.batch_sites,
        keep_all=options.keep_all,
        reference=options.reference,
        out=options.out,
    )
    return _complete(lambda on_step: run_config(config, force=options.force, on_step=on_step))


# --- Runs ----------------------------------------------------------------------------------------


@app.command()
def run(
    config: Annotated[Path, Argument(help="Configuration, such as DIR/config.yaml.")],
    out: Annotated[
        Path | None, Option(help="Folder for the results, in place of the file's.", metavar="DIR")
    ] = None,
    threads: Annotated[int | None, Option(help="CPU threads.", min=1)] = None,
    force: Annotated[bool, Option("--force", help="Replace an earlier run.")] = False,
) -> int:
    """Run a design from a configuration file.

    \b
    smoacs run runs/gap25/config.yaml --out runs/again
    """  # noqa: D301
    from smoacs.config import read_config
    from smoacs.runs import run_config

    _use_threads(threads)
    request = read_config(config)
    if out is not None:
        request = request.model_copy(update={"out": out})
    if request.out is None:
        raise ValueError(f"{config} names no folder for the results; add `out: DIR` or give --out")
    return _complete(lambda on_step: run_config(request, force=force, on_step=on_step))


@app.command()
def resume(
    folder: Annotated[Path, Argument(help="Folder of an interrupted run.", metavar="DIR")],
    threads: Annotated[int | None, Option(help="CPU threads.", min=1)] = None,
) -> int:
    """Continue an interrupted run; the result is the same."""
    from smoacs import runs

    _use_threads(threads)
    return _complete(lambda on_step: runs.resume(folder, on_step=on_step))


@app.command()
def evaluate(
    folder: Annotated[Path, Argument(help="Folder of a finished run.", metavar="DIR")],
    predictor: Annotated[
        str | None, Option(help="Models that judge in place of the run's.", metavar="NAME[,NAME]")
    ] = None,
    out: Annotated[Path | None, Option(help="Table to write.", metavar="CSV")] = None,
) -> int:
    """Judge a finished run again, also by another model.

    \b
    smoacs evaluate runs/gap25
    smoacs evaluate runs/gap25 --predictor alignn:mp_gappbe_alignn,alignn:mp_e_form_alignn
    """  # noqa: D301
    from smoacs.job import Given
    from smoacs.reevaluation import REPRODUCED_WITHIN
    from smoacs.reevaluation import evaluate as reevaluate
    from smoacs.run_folder import write_text

    names = names_of(predictor) if predictor else None
    result = reevaluate(folder, Given(predictors=names))
    if out is not None:
        write_text(out, result.table.round(6).to_csv(index=False))
    if names:
        _print_table(("Criterion", "Share"), [(n, f"{s:.2f}") for n, s in result.criteria.items()])
    else:
        _print_table(
            ("Value", "Largest difference"),
            [(name, f"{value:.2g}") for name, value in result.differences.items()],
        )
    typer.echo(f"{len(result.table)} structures, {int(result.table['success'].sum())} succeed.")
    if not names and not result.reproduced:
        _say(f"the results are not reproduced within {REPRODUCED_WITHIN:g}")
        return BAD_INPUT
    return DONE


def _use_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def _complete(start: Callable[[OnStep | None], Run]) -> int:
    """Run with a progress bar, report, and give the exit code."""
    from smoacs.runs import Interrupted

    try:
        with _progress() as on_step:
            result = start(on_step)
    except Interrupted as stop:
        _say(str(stop))
        return INTERRUPTED
    summary = result.summary
    rows = [*summary["criteria"].items(), ("all of these", summary["success_rate"])]
    rows += [("novel successes", summary["novel_rate"])] if summary["novel_rate"] else []
    _print_table(("Criterion", "Share"), [(name, f"{share:.2f}") for name, share in rows])
    distinct = int(result.table["unique"].sum())
    typer.echo(
        f"{summary['n_success']} of {summary['n_candidates']} candidates succeeded "
        f"({distinct} distinct) in {summary['wall_time_s']:.0f} s.\n"
        f"Results: {result.folder}"
    )
    if not summary["n_success"]:
        worst = min(summary["criteria"], key=summary["criteria"].__getitem__)
        _say(
            f"no candidate succeeded; {worst} is met least often: "
            "try more --steps or --candidates, or a wider margin"
        )
        return NO_SUCCESS
    return DONE


@contextmanager
def _progress() -> Iterator[OnStep | None]:
    """A progress bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        MofNCompleteColumn(),
        BarColumn(bar_width=30),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("starting", total=None)

        def on_step(report: Any, optimizer: Any) -> None:
            losses = report.loss[~report.loss.isnan()]
            best = f"  best loss {losses.min():.3f}" if losses.numel() else ""
            heat = "discrete" if report.temperature is None else f"T = {report.temperature:.2g}"
            text = f"{report.n_success}/{len(optimizer.space)} succeed  {heat}{best}"
            bar.update(task, completed=report.step, total=optimizer.steps, description=text)

        yield on_step


def _print_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, title in enumerate(header):
        table.add_column(title, no_wrap=number == 0)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


# --- What there is -------------------------------------------------------------------------------


@app.command()
def predictors(
    word: Annotated[str | None, Argument(help="Part of a name or of a property's name.")] = None,
) -> int:
    """List the models that can judge."""
    from smoacs.cli_listing import listing
    from smoacs.predictors.catalogue import list_predictors

    for line in listing(list_predictors(), word):
        typer.echo(line)
    return DONE


@app.command()
def templates(
    source: Annotated[
        str | None, Argument(help="aflow, minerals, or a file or folder: list its prototypes.")
    ] = None,
) -> int:
    """List the families of structures."""
    from smoacs.config import PrototypeEntry

    if source is None:
        families = [
            ("perovskite", "ABX3 and supercells; smoacs design perovskite"),
            ("aflow", "AFLOW prototypes; smoacs design prototype --from aflow"),
            ("minerals", "JARVIS minerals; smoacs design prototype --from minerals"),
            ("FILE or FOLDER", "your structures; smoacs design prototype --from FOLDER"),
        ]
        _print_table(("Family", "What"), families)
        typer.echo("List the prototypes of one: smoacs templates aflow")
        return DONE
    found = PrototypeEntry(source=source).templates("smoacs")
    rows = [(t.name, str(t.n_sites), _formula(t.roles)) for t in found]
    _print_table(("Name", "Sites", "Prototype"), rows)
    return DONE


def _formula(roles: Sequence[str]) -> str:
    counts = {role: roles.count(role) for role in dict.fromkeys(roles)}
    return "".join(f"{role}{n}" if n > 1 else role for role, n in counts.items())


@app.command()
def doctor() -> int:
    """Show versions, what was built, devices and weights."""
    from smoacs.doctor import diagnose

    for topic, facts in diagnose().items():
        typer.echo(topic)
        for name, fact in facts.items():
            typer.echo(f"  {name}: {fact}")
    return DONE


@app.command()
def predict(
    files: Annotated[list[Path], Argument(help="CIF, POSCAR, extxyz or .jsonl[.xz].")],
    predictor: Annotated[str, Option(help="Model.", metavar="NAME")] = "smoacs-crystalformer-mp",
    out: Annotated[Path | None, Option(help="Table to write, else shown.", metavar="CSV")] = None,
    device: Annotated[str, Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, Option(help="CPU threads.", min=1)] = None,
) -> int:
    """Predict the properties of structures.

    \b
    smoacs predict POSCAR structures/*.cif --out predicted.csv
    """  # noqa: D301
    from smoacs.job import choose_device
    from smoacs.predictors import predict as predict_structures
    from smoacs.run_folder import write_text
    from smoacs.structures_io import read_structures

    _use_threads(threads)
    found = [(file, name, s) for file in files for name, s in read_structures(file)]
    structures = [structure for _, _, structure in found]
    table = predict_structures(structures, predictor, device=str(choose_device(device)))
    table.insert(0, "file", [str(file) for file, _, _ in found])
    table.insert(1, "name", [name for _, name, _ in found])
    table.insert(2, "formula", [structure.composition.reduced_formula for structure in structures])
    text = table.to_csv(index=False)
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_text(out, text)
    return DONE


@app.command()
def train(
    config: Annotated[Path, Argument(help="Training configuration.")],
    device: Annotated[str, Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, Option(help="CPU threads.", min=1)] = None,
) -> int:
    """Train a model on your own data, or continue a training."""
    from smoacs.job import choose_device
    from smoacs.training import train as start

    _use_threads(threads)
    typer.echo(f"Model: {start(config, device=choose_device(device)).card}")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
