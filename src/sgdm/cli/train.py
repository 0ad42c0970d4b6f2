"""`sgdm train`: a run under one convention, or several conventions side by side."""

import sys
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from sgdm.cli.launch import LOST, launch
from sgdm.errors import (
    DivergedError,
    InterruptedRunError,
    InvalidUseError,
    InvalidValueError,
    LostProcessError,
    SgdmError,
)
from sgdm.extras import load_extra
from sgdm.training.environment import is_launched, world_size

if TYPE_CHECKING:
    from collections.abc import Generator

    from sgdm.training.comparison import Comparison
    from sgdm.training.folder import Metrics, RunFolder
    from sgdm.training.observer import Observer
    from sgdm.training.settings import Settings
    from sgdm.training.world import World

__all__ = ["train"]

_WHERE = "Where the run is kept"
_HOW = "The optimizer"
_WHAT = "Data and network"
_SPREAD = "Several processes"
_SEEN = "What is seen of it"


def train(
    context: typer.Context,
    data: Annotated[
        str,
        typer.Option(help="'digits', or a .npz file with arrays x and y.", rich_help_panel=_WHAT),
    ] = "digits",
    model: Annotated[str, typer.Option(help="linear, mlp or cnn.", rich_help_panel=_WHAT)] = "cnn",
    epochs: Annotated[int, typer.Option(rich_help_panel=_WHAT)] = 20,
    batch_size: Annotated[int, typer.Option(rich_help_panel=_WHAT)] = 32,
    seed: Annotated[
        int, typer.Option(help="Of split, weights and batches.", rich_help_panel=_WHAT)
    ] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...", rich_help_panel=_WHAT)] = "cpu",
    convention: Annotated[
        str, typer.Option(help="See `sgdm conventions`.", rich_help_panel=_HOW)
    ] = "torch",
    conventions: Annotated[
        str | None,
        typer.Option(
            help="Compare several, as in torch,caffe,torch:nesterov; in float64, with an lr drop.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    lr: Annotated[float, typer.Option(rich_help_panel=_HOW)] = 0.1,
    momentum: Annotated[float, typer.Option(rich_help_panel=_HOW)] = 0.9,
    dampening: Annotated[float, typer.Option(rich_help_panel=_HOW)] = 0.0,
    nesterov: Annotated[bool, typer.Option("--nesterov", rich_help_panel=_HOW)] = False,
    weight_decay: Annotated[float, typer.Option(rich_help_panel=_HOW)] = 1e-3,
    weight_decay_mode: Annotated[
        str | None, typer.Option(help="coupled, lr, lr/lr0 or absolute.", rich_help_panel=_HOW)
    ] = None,
    lr_schedule: Annotated[
        str | None,
        typer.Option(
            help="constant, steps or cosine.",
            show_default="cosine; steps with --conventions",
            rich_help_panel=_HOW,
        ),
    ] = None,
    lr_drops: Annotated[
        str, typer.Option(help="Where steps drops, in parts of the run.", rich_help_panel=_HOW)
    ] = "0.5",
    lr_drop_factor: Annotated[float, typer.Option(rich_help_panel=_HOW)] = 0.1,
    warmup_epochs: Annotated[float, typer.Option(rich_help_panel=_HOW)] = 0.0,
    momentum_schedule: Annotated[
        str,
        typer.Option(
            help="constant, nesterov, su-boyd-candes, sutskever or demon.", rich_help_panel=_HOW
        ),
    ] = "constant",
    evaluate_at: Annotated[
        str,
        typer.Option(help="look-ahead (Θ, as stored) or iterate (θ).", rich_help_panel=_HOW),
    ] = "look-ahead",
    out: Annotated[
        Path | None,
        typer.Option(
            help="The run's folder.", show_default="runs/DATA-MODEL-...", rich_help_panel=_WHERE
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a run.", rich_help_panel=_WHERE)
    ] = False,
    resume: Annotated[
        Path | None,
        typer.Option(help="Go on with the run in this folder.", rich_help_panel=_WHERE),
    ] = None,
    nproc: Annotated[
        int,
        typer.Option(
            min=1, help="Processes on this machine; torchrun does it too.", rich_help_panel=_SPREAD
        ),
    ] = 1,
    shard: Annotated[
        bool,
        typer.Option(
            "--shard",
            help="Spread parameters and optimizer state over the processes (FSDP2).",
            rich_help_panel=_SPREAD,
        ),
    ] = False,
    live: Annotated[
        bool,
        typer.Option("--live", help="Draw the curves in the terminal.", rich_help_panel=_SEEN),
    ] = False,
    tensorboard: Annotated[
        bool,
        typer.Option(
            "--tensorboard",
            help="Write scalars for TensorBoard, in the run's folder.",
            rich_help_panel=_SEEN,
        ),
    ] = False,
) -> None:
    """Train a network on real data with sgdm.SGD."""
    if nproc > 1 and not is_launched():
        _check_processes(nproc, conventions, shard=shard)
        _refuse_torchrun(nproc)
        raise typer.Exit(launch(nproc, [sys.executable, *sys.orig_argv[1:]]))

    from sgdm.training.settings import Settings

    with _joined() as world:
        with world.together():
            _check_processes(world.size, conventions, shard=shard)
            if resume is not None:
                _refuse_settings(context)
            if conventions is not None:
                _refuse_together(context, "convention", "conventions")
            settings = Settings.from_plain(
                {
                    # Absolute, so that the run can be resumed from another folder.
                    "data": data if data == "digits" else str(Path(data).absolute()),
                    "model": model,
                    "convention": convention,
                    "nesterov": nesterov,
                    "lr": lr,
                    "momentum": momentum,
                    "dampening": dampening,
                    "weight_decay": weight_decay,
                    "weight_decay_mode": weight_decay_mode,
                    "lr_schedule": lr_schedule or ("steps" if conventions else "cosine"),
                    "lr_drops": _numbers("lr_drops", lr_drops),
                    "lr_drop_factor": lr_drop_factor,
                    "warmup_epochs": warmup_epochs,
                    "momentum_schedule": momentum_schedule,
                    "epochs": epochs,
                    "batch_size": batch_size,
                    "seed": seed,
                    "device": device,
                    "evaluate_at": evaluate_at,
                }
            )
        last = conventions or convention + ":nesterov" * nesterov
        last = last.replace(",", "-").replace(":", "-")
        path = resume or out or Path("runs") / f"{Path(data).stem}-{model}-{last}"
        watch = _watched_by_first(world, path, live=live, tensorboard=tensorboard)
        if conventions is not None:
            _run_several(settings, conventions, path, watch, overwrite=overwrite)
            return
        given = settings if resume is None else None
        _run_one(given, path, watch, world, overwrite=overwrite, shard=shard)


@contextmanager
def _joined() -> "Generator[World]":
    """Join the processes that share the work; the first one speaks for all."""
    from sgdm.training.world import joined

    try:
        with joined() as world:
            try:
                yield world
            except SgdmError as error:
                if world.rank:
                    error.args = ("",)
                raise
    except LostProcessError as error:
        if not is_launched():
            typer.echo(f"sgdm: {error}", err=True)
        raise typer.Exit(LOST) from error


@contextmanager
def _watched_by_first(
    world: "World", path: Path, *, live: bool, tensorboard: bool
) -> "Generator[Observer]":
    from sgdm.cli.watching import watching
    from sgdm.training.observer import Observer

    with ExitStack() as stack:
        observer = Observer()
        with world.together():
            if world.rank == 0:
                watch = watching(path, live=live, tensorboard=tensorboard)
                observer = stack.enter_context(watch)
        yield observer


def _run_one(
    settings: "Settings | None",
    path: Path,
    watch: "AbstractContextManager[Observer]",
    world: "World",
    *,
    overwrite: bool,
    shard: bool,
) -> None:
    """Train, or go on where `settings` is None; draw what there is, however it ends."""
    from sgdm.training.folder import RunFolder
    from sgdm.training.run import resume, train

    folder = RunFolder(path)
    world.by_first(_check_pictures)  # missing, it is said before the run
    with folder.held(world, "resume" if settings is None else "out"):
        try:
            with watch as observer:
                if settings is None:
                    metrics = resume(path, observer=observer, world=world, shard=shard)
                else:
                    metrics = train(
                        settings,
                        path,
                        overwrite=overwrite,
                        observer=observer,
                        world=world,
                        shard=shard,
                    )
        except (DivergedError, InterruptedRunError):
            with suppress(SgdmError):  # a picture that fails is no reason to hide how it ended
                world.by_first(lambda: _draw(folder, folder.read_metrics()))
            raise
        world.by_first(lambda: _report(folder, metrics))


def _check_pictures() -> None:
    load_extra("matplotlib.figure", extra="train")


def _report(folder: "RunFolder", metrics: "list[Metrics]") -> None:
    last = metrics[-1]
    typer.echo(
        f"test accuracy {100 * last.test_accuracy:.2f} %, loss {last.test_loss:.4f}, "
        f"after {last.epoch} epochs"
    )
    _draw(folder, metrics)
    checkpoint = folder.checkpoint if folder.checkpoint.exists() else folder.checkpoint_folder
    for file in (folder.curves, folder.metrics, checkpoint, folder.config):
        typer.echo(str(file))


def _draw(folder: "RunFolder", metrics: "list[Metrics]") -> None:
    from sgdm.plots.training import draw_curves

    if metrics:
        settings = folder.read_settings()
        name = settings.convention + ":nesterov" * settings.nesterov
        title = f"{Path(settings.data).stem}, {settings.model}, {name}"
        draw_curves(metrics, folder.curves, title=title)


def _run_several(
    settings: "Settings",
    conventions: str,
    path: Path,
    watch: "AbstractContextManager[Observer]",
    *,
    overwrite: bool,
) -> None:
    from sgdm.plots.training import draw_comparison
    from sgdm.training.comparison import compare, parse_conventions
    from sgdm.training.folder import RunFolder
    from sgdm.training.world import World

    _check_pictures()
    names = parse_conventions(conventions)
    folder = RunFolder(path)
    with folder.held(World(), "out"):
        with watch as observer:
            comparison = compare(settings, names, path, overwrite=overwrite, observer=observer)
        Console(highlight=False, markup=False).print(_table(comparison))
        draw_comparison(comparison, folder.compare_png)
    for name in ("compare.png", "compare.csv", "config.json"):
        typer.echo(str(path / name))


def _table(comparison: "Comparison") -> Table:
    table = Table("convention", box=None, pad_edge=False)
    for heading in (
        "test\nloss",
        "test\naccuracy",
        "parts at\nstep",
        "distance\nthen",
        "\npredicted",
        "distance\nat end",
        "\npredicted",
    ):
        table.add_column(heading, justify="right")
    for trace in comparison.traces:
        assert trace.score is not None
        cells = [trace.name, f"{trace.score.loss:.4f}", f"{100 * trace.score.accuracy:.2f} %"]
        if trace is not comparison.traces[0]:
            at = (trace.parted or len(trace.distances)) - 1
            cells.append(str(trace.parted or "never"))
            for i in (at, -1):
                cells += [f"{trace.distances[i]:.1e}", f"{trace.predicted[i]:.1e}"]
        table.add_row(*cells)
    return table


def _numbers(name: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise InvalidValueError.of(
            name, "numbers with commas between", text, "as in --lr-drops 0.5,0.75"
        ) from None


def _refuse_settings(context: typer.Context) -> None:
    """Refuse settings beside --resume: they are those of the run.

    Its processes are none, and how it is watched is none.
    """
    for name in context.params.keys() - {"resume", "nproc", "shard", "live", "tensorboard"}:
        if _was_given(context, name):
            raise InvalidUseError(
                f"--{name.replace('_', '-')} must be left out with --resume, whose settings are in "
                "the run's config.json; start a new run to change them"
            )


def _check_processes(count: int, conventions: str | None, *, shard: bool) -> None:
    if conventions is not None and count > 1:
        raise InvalidUseError(
            f"--conventions must be run by one process, got {count}; leave out --nproc and torchrun"
        )
    if shard and count == 1:
        raise InvalidUseError(
            "--shard must be given to several processes, got 1; add --nproc, or start with torchrun"
        )


def _refuse_torchrun(count: int) -> None:
    if world_size() > 1:
        raise InvalidUseError(
            f"--nproc must be left out where torchrun has started {world_size()} processes, got "
            f"{count}; take one of them"
        )


def _refuse_together(context: typer.Context, one: str, other: str) -> None:
    if _was_given(context, one):
        raise InvalidUseError(f"--{one} must be left out with --{other}, which names them all")


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
