"""What a job sets up before its command: the lines of shell, and what stands before ``weaver``."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from .. import parsing
from ..errors import ConfigError
from ..parsing import setting

__all__ = ["Apptainer", "Environment"]


@dataclass(frozen=True)
class Apptainer:
    """A container.

    Attributes
    ----------
    image: file, or ``docker://...``
    binds: directories to show inside; that of the point always is
    nv: show the GPUs inside
    """

    image: str = setting("", parsing.text)
    binds: tuple[str, ...] = setting((), parsing.texts)
    nv: bool = setting(True, parsing.boolean)

    def __post_init__(self) -> None:
        if not self.image:
            raise ConfigError("scan.environment.apptainer.image", "expected an image, found none")


@dataclass(frozen=True)
class Environment:
    """At most one of the first four; without them, ``weaver`` is what the job finds.

    Attributes
    ----------
    venv: directory of a virtual environment
    conda: name or directory of a conda environment
    lcg: the ``setup.sh`` of an LCG view
    apptainer: the container that ``weaver`` runs in
    lines: shell, after that
    command: what is run; e.g. ``torchrun --standalone --nproc-per-node 4 --no-python weaver``
    """

    venv: str | None = setting(None, parsing.optional(parsing.text))
    conda: str | None = setting(None, parsing.optional(parsing.text))
    lcg: str | None = setting(None, parsing.optional(parsing.text))
    apptainer: Apptainer | None = setting(None, parsing.optional(parsing.section_of(Apptainer)))
    lines: tuple[str, ...] = setting((), parsing.texts)
    command: str = setting("weaver", parsing.text)

    def __post_init__(self) -> None:
        kinds = [kind for kind in ("venv", "conda", "lcg", "apptainer") if getattr(self, kind) is not None]
        if len(kinds) > 1:
            raise ConfigError("scan.environment", f"expected one of {', '.join(kinds)}, found {len(kinds)}")

    def shell(self) -> list[str]:
        """Lines to run before the command."""
        before: list[str] = []
        if self.venv is not None:
            before = _source(self.venv.rstrip("/") + "/bin/activate")
        if self.conda is not None:
            name = shlex.quote(self.conda)
            before = ['. "$(conda info --base)/etc/profile.d/conda.sh"']
            before += [f"conda activate {name} || without_environment {name}"]
        if self.lcg is not None:
            before = _source(self.lcg)
        return [*before, *self.lines]

    def words(self) -> str:
        """The command, as shell."""
        if self.apptainer is None:
            return self.command
        binds = "".join(f" --bind {shlex.quote(bind)}" for bind in self.apptainer.binds)
        nv = " --nv" if self.apptainer.nv else ""
        image = shlex.quote(self.apptainer.image)
        return f'apptainer exec{nv} --bind "$PWD" --pwd "$PWD"{binds} {image} {self.command}'


def _source(file: str) -> list[str]:
    """bash would go on without the file, perhaps with another weaver; what the file returns need mean nothing."""
    name = shlex.quote(file)
    return [f"[ -r {name} ] || without_environment {name}", f". {name}"]
