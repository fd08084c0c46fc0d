"""`raygate roll-back`: the singletons run this version again, after a newer one did."""

from deployments.cli.options import ConfigOption
from deployments.cli.reach import reach
from deployments.cli.terminal import notice


def roll_back(config: ConfigOption = None) -> None:
    """Let the singletons run this version, older than the one that they run now.

    Deploy this version first: from here on replicas of the newer one bring no singleton back.
    Needs access to the cluster itself: RAY_ADDRESS, or a gateway that is up here.
    """
    at = reach(config, None)
    with at.connected():
        from actors import registry

        version = ".".join(map(str, registry.code_version()))
        if registry.roll_back(at.name):
            notice(f"The singletons of {at.name} run version {version} from here on.")
        else:
            notice(f"No newer version than {version} is in charge; nothing was changed.")
