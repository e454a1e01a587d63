"""What a job script says to run JupyterLab on a compute node, and to tell a person how to get there."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from milepost.core.text import safe
from milepost.errors import ScriptError

COMMAND = ("jupyter", "lab")


def lines(container: Sequence[str] = (), proxy: str | None = None) -> list[str]:
    """The lines after the ``#SBATCH`` ones.

    Args:
        container: the words before the command that run it in a container.
        proxy: the address at which the site's proxy shows a port of a node, with {host} and {port} in it:
            "https://ood.site.edu/node/{host}/{port}/". None for a tunnel by ssh.

    Raises:
        ScriptError: `proxy` is no such address.
    """
    start = [
        "port=$(python3 -c 'import socket; s = socket.socket(); s.bind((\"\", 0)); print(s.getsockname()[1])')",
        "token=$(python3 -c 'import secrets; print(secrets.token_hex(24))')",
        "host=$(hostname) user=$(id -un)",
        "# The token is what keeps others out, and it stands in this job's output file.",
        "chmod 600 /dev/stdout",
    ]
    options = ["--no-browser", '--ServerApp.port="$port"', "--ServerApp.port_retries=0"]
    if proxy is None:
        address = "127.0.0.1"
        tell = [
            'echo "JupyterLab: on your own machine run"',
            'echo "    ssh -N -L $port:127.0.0.1:$port -J $user@$SLURM_SUBMIT_HOST $user@$host"',
            'echo "and open http://127.0.0.1:$port/lab?token=$token"',
        ]
    else:
        at, base = _address(proxy)
        address = "0.0.0.0"  # noqa: S104 - the proxy is another machine
        options += [f"--ServerApp.base_url={base}", "--ServerApp.allow_remote_access=True"]
        tell = [f'echo "JupyterLab: {at}lab?token=$token"']
    run = " ".join(["srun", shlex.join([*container, *COMMAND]), f"--ServerApp.ip={address}", *options])
    # Not in the command line, which all users of the node can read.
    return [*start, "", *tell, "", "export JUPYTER_TOKEN=$token", run]


def _address(proxy: str) -> tuple[str, str]:
    """The address, and its path, as words of the shell in double quotes."""
    scheme, _, rest = proxy.partition("://")
    plain = rest.replace("{host}", "").replace("{port}", "")
    fine = scheme in ("http", "https") and "{port}" in rest and all(one.isalnum() or one in "/.-_:~" for one in plain)
    if not fine or not plain.isascii():
        raise ScriptError(
            "--proxy is the address of a port behind the site's proxy",
            expected='as in "https://ood.site.edu/node/{host}/{port}/"',
            found=safe(proxy),
        )
    at = f"{proxy.rstrip('/')}/".replace("{host}", "$host").replace("{port}", "$port")
    return at, '"/' + at.partition("://")[2].partition("/")[2] + '"'
