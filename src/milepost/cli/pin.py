"""``milepost pin``."""

from __future__ import annotations

from typing import Annotated

import typer

from milepost.cli.options import Json, RefArgument
from milepost.cli.terminal import document, say
from milepost.core.text import safe


def pin(
    ref: RefArgument,
    remove: Annotated[bool, typer.Option("--remove", help="Take the pin away.")] = False,
    as_json: Json = False,
) -> int:
    """Keep a checkpoint for good.

    Neither retention nor `milepost prune` removes it. A pin is a tag without a name of one's own.

    For example:

        milepost pin runs/mnist@step=1200
        milepost pin runs/mnist@step=1200 --remove

    JSON:

        folder, step, pinned
    """
    from milepost.errors import DamagedError, NotFoundError
    from milepost.folder.tags import pin_name, read_tags, remove_tag, set_tag
    from milepost.ops.refs import locate, wording

    run, checkpoint = locate(ref)
    if checkpoint.summary is None:
        raise DamagedError(
            "this checkpoint cannot be read, so it cannot be pinned",
            where=f"{run.where}/{checkpoint.folder}",
            found=checkpoint.problem,
            hint="nothing removes it without being asked: retention leaves alone what it cannot read",
        )
    name = pin_name(checkpoint)
    with wording("change the pins", run.where):
        if not remove:
            set_tag(run, name, checkpoint)
        elif name in read_tags(run):
            remove_tag(run, name)
        else:
            raise NotFoundError("this checkpoint is not pinned", where=f"{run.where}/{checkpoint.folder}")
    if as_json:
        document({"folder": checkpoint.folder, "step": checkpoint.step, "pinned": not remove})
    else:
        say(f"{safe(checkpoint.folder)} {'is no longer pinned' if remove else 'is pinned'}")
    return 0
