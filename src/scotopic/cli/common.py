"""What all commands share: mistakes are told in one line."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@contextmanager
def told_in_one_line() -> Iterator[None]:
    """Turn what goes wrong into a line and an exit code: 2 for a mistake, 1 for a failure, 130 for an interrupt."""
    from pydantic import ValidationError

    from scotopic.protocol import Problem, ProblemsError

    try:
        yield
    except typer.Exit:  # it was told already; an exit is a RuntimeError to click
        raise
    except ProblemsError as error:
        fail(error.problems)
    except ValidationError as error:  # a value of an option that its model refuses
        told = [(each["msg"].removeprefix("Value error, "), each["loc"]) for each in error.errors()]
        fail([Problem(what, key=".".join(map(str, place))) for what, place in told])
    except (RuntimeError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt as error:
        typer.echo("Interrupted.", err=True)
        raise typer.Exit(130) from error


def let_ending_signals_interrupt() -> None:
    """Let a closed terminal or a polite kill end a run as Ctrl-C does: through every `finally`, light off."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):  # a shell starts background jobs deaf to SIGINT
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), interrupt)


def fail(problems: Sequence[object]) -> NoReturn:
    """Say what is wrong, and end with exit code 2."""
    for problem in problems:
        typer.echo(f"error: {problem}", err=True)
    typer.echo(counted(problems), err=True)
    raise typer.Exit(2)


def counted(problems: Sequence[object]) -> str:
    """Return how many problems there are, for a message."""
    return f"{len(problems)} problem{'s' if len(problems) > 1 else ''}."
