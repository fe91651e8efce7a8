"""README's figure, from a finished study: python docs/figures/fields.py FOLDER"""

import sys
from pathlib import Path

from convbias import plots
from convbias.study.jobs import Job
from convbias.study.request import Request
from convbias.study.runs import Run
from convbias.tying import parse

SHOWN = ("tied", "c h + c w", "rank:1", "rank:4", "untied")


def main(folder: Path) -> None:
    """Draw what the first seed learned under some tyings."""
    asked = Run.request_in(folder) or {}
    run, request = Run(folder, asked), Request.of(asked, folder)
    trials = {tying: run.finished(Job(parse(tying), 0, request.recipe)) for tying in SHOWN}
    fields = {tying: trial.fields for tying, trial in trials.items() if trial is not None}
    plots.save(plots.bias_fields(fields), Path(__file__).with_suffix(".png"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
