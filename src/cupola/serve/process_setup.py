"""The first steps of a worker or runner: umask, environment, limits, user, CPUs, folder."""

import grp
import os
import pwd
import resource

from cupola.cores import limit_spinning
from cupola.errors import ConfigError
from cupola.serve.settings.settings import Settings


def identity(settings: Settings) -> tuple[int, int] | None:
    """User and group id that children switch to; None unless running as root with `user` set."""
    if settings.user is None or os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(settings.user)
        group = grp.getgrnam(settings.group).gr_gid if settings.group else entry.pw_gid
    except KeyError as error:
        raise ConfigError(f"user or group: {error.args[0]}") from None
    return entry.pw_uid, group


def setup_process(settings: Settings, index: int = 0, priority: int = 0) -> None:
    """Applies the settings to this process, in nginx's order; any failure is fatal at start."""
    os.umask(0o077)
    os.environ.update(settings.environment)
    limit_spinning()
    if priority:
        os.setpriority(os.PRIO_PROCESS, 0, priority)
    if settings.worker_rlimit_nofile is not None:
        limit = settings.worker_rlimit_nofile
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    if settings.worker_rlimit_core is not None:
        core = settings.worker_rlimit_core
        resource.setrlimit(resource.RLIMIT_CORE, (core, core))
    who = identity(settings)
    if who is not None and settings.user is not None:
        os.initgroups(settings.user, who[1])
        os.setgid(who[1])
        os.setuid(who[0])
    if settings.worker_cpu_affinity:
        masks = settings.worker_cpu_affinity
        os.sched_setaffinity(0, masks[index % len(masks)])
    if settings.working_directory is not None:
        os.chdir(settings.working_directory)
