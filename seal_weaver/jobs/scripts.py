"""The text of ``command.sh``: one training as plain bash, for a batch system or by hand."""

from __future__ import annotations

import shlex
from pathlib import Path

from . import options
from .environment import Environment
from .grid import Point

__all__ = ["BUSY", "command_script", "enter"]

BUSY = 75
"""Exit status of a script that finds its training running already."""

_HEAD = """\
#!/bin/bash
# One training of a scan. It continues where an earlier run stopped, and does nothing if the training is finished.
# By hand: bash command.sh. An argument is the directory to work in, instead of this one.
{enter}
set --  # what is sourced below must not take it for its own
if grep -qs '^finished' status; then echo "$PWD: finished already"; exit 0; fi

# never two at a time; where the file system has no locks, this is left to you
exec 9> lock
flock -w 3 -E {busy} 9 2> /dev/null; lock=$?
if [ $lock -eq {busy} ]; then echo "$PWD: running already"; exit {busy}; fi

echo "$PWD: the log is log.txt"
exec >> log.txt 2>&1
if [ $lock -ne 0 ]; then echo "no lock here (flock: $lock): never train here twice at a time"; fi
# in one piece, so that neither a reader nor a full disk finds half of it
set_status() {{ echo "$* $(hostname) $(date -u +%Y-%m-%dT%H:%M:%SZ)" > status.new && mv -f status.new status; }}
without_environment() {{ echo "the environment is not there: $1"; set_status failed 1; exit 1; }}
"""

_RESUME = """\
# The last epoch that is complete: its validation stands in the log, and its files are there. What a run continued
# from stands in the log, too: epochs after that are validated again, and what was said of them before is void.
last_complete_epoch() {{
    local started='^--- .+ on .+: (starts|continues after epoch [0-9]+)$'
    for epoch in $(
        grep -aoE "$started|Epoch #[0-9]+: Current validation metric" log.txt |
            awk '/^---/ {{ from = $NF == "starts" ? -1 : $NF + 0; for (e in done) if (e + 0 > from) delete done[e] }}
                /^Epoch/ {{ done[substr($2, 2) + 0] }} END {{ for (e in done) print e }}' | sort -rn
    ); do
        if [ -s {prefix}_epoch-${{epoch}}_state.pt ] && [ -s {prefix}_epoch-${{epoch}}_optimizer.pt ] &&
            {{ [ ! -e {prefix}_epoch-0_seal.json ] || [ -s {prefix}_epoch-${{epoch}}_seal.json ]; }}; then
            echo "$epoch"
            return
        fi
    done
}}
resume=()
epoch=$(last_complete_epoch)
{anew}if [ -n "$epoch" ]; then resume=(--load-epoch "$epoch"); fi
echo  # a progress bar that was cut off has not ended its line
echo "--- $(date) on $(hostname): ${{epoch:+continues after epoch }}${{epoch:-starts}}"
set_status running
"""

_ANEW = """\
if [ -n "$epoch" ]; then
    echo
    echo "epochs up to $epoch are complete, but weaver would continue {schedule} in the wrong place: from the beginning"
    rm -f {prefix}_*
    epoch=
fi
"""
"""weaver 0.5.3 counts epochs where this schedule counts steps: a training that it continues ends at the peak."""

_TAIL = """\
weaver=$!
trap 'kill -TERM $weaver' TERM INT
wait $weaver 2> /dev/null; code=$?
while kill -0 $weaver 2> /dev/null; do wait $weaver; code=$?; done
if [ $code -eq 0 ] && [ "$(last_complete_epoch)" != {last} ]; then
    echo "the command ended without an error, but epoch {last}, the last one, is not complete"
    code=1
fi

if [ $code -eq 0 ]; then set_status finished; else set_status failed $code; fi
exit $code
"""


def command_script(point: Point, environment: Environment, folder: Path) -> str:
    """The script of a point whose directory is ``folder``."""
    parts = [_HEAD.format(enter=enter(folder / point.name), busy=BUSY)]
    parts.append("\n".join([*environment.shell(), "export TQDM_MININTERVAL=${TQDM_MININTERVAL:-10}", ""]))
    schedule = str(point.weaver.get("lr-scheduler"))
    anew = _ANEW.format(schedule=schedule, prefix=options.PREFIX) if schedule in options.NOT_RESUMED else ""
    parts += [_RESUME.format(prefix=options.PREFIX, anew=anew), _command(point, environment)]
    parts.append(_TAIL.format(last=int(point.weaver["num-epochs"]) - 1))
    return "\n".join(parts)


def enter(place: Path) -> str:
    """The lines with which the script of the point in ``place`` goes there."""
    return f'place={shlex.quote(str(place))}\ncd "${{1:-$place}}" || exit 1'


def _command(point: Point, environment: Environment) -> str:
    """The command, an option a line, in the background so that the script can pass a signal on."""
    lines = [environment.words()]
    for name, value in point.weaver.items():
        own = options.COPIES.get(name, value)
        lines += [_join(words) for words in options.words(name, own)]
    copies = {key: options.OPTION_COPIES[key] for key in options.option_files(point.options)}
    lines += [_join(["-o", key, repr(copies.get(key, value))]) for key, value in point.options.items()]
    lines.append(f'--model-prefix {options.PREFIX} "${{resume[@]}}" &')
    return " \\\n    ".join(lines) + "\n"


def _join(words: list[str]) -> str:
    """As ``shlex.join``, but Python literals, which are full of single quotes, in double ones."""
    return " ".join(f'"{_in_quotes(word)}"' if "'" in word and "!" not in word else shlex.quote(word) for word in words)


def _in_quotes(text: str) -> str:
    """Text for the inside of double quotes."""
    for character in '\\"$`':
        text = text.replace(character, "\\" + character)
    return text
