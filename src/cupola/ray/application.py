"""Makes the application: an ingress in front of replicas that hold the models."""

from collections.abc import Mapping, Sequence
from typing import Any

from cupola.errors import ConfigError
from cupola.ray.settings import Model, server_settings

try:
    from ray import serve
    from ray.serve import Application
except ImportError as error:
    raise ConfigError(f"Ray Serve is not installed ({error}); pip install 'cupola[ray]'") from None

from cupola.ray.ingress import Ingress
from cupola.ray.replica import ModelReplica, models_by_name, multiplexed

INGRESS_REQUESTS = 10_000  # at once; the replicas' max_ongoing_requests is the limit that matters
ONGOING = 64  # requests of a replica at once, from which its batches are formed
INGRESS_CPUS = 0.1


def app(
    bundle: Model | Sequence[Model] | None = None,
    *,
    model_dir: str | None = None,
    num_replicas: int | str | None = None,
    autoscaling: Mapping[str, Any] | None = None,
    multiplexed_models: int | None = None,
    ingress_replicas: int = 1,
    ray_actor_options: Mapping[str, Any] | None = None,
    max_ongoing_requests: int = ONGOING,
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> Application:
    """An application for `serve.run`, with the server's routes.

    bundle: what `cupola serve` takes: a name, a folder, an hf:// id, an entry of `models`, or a
        list of them; every node must have the files. Or `model_dir`, see its setting.
    num_replicas: number of processes that each hold the models [1]; "auto", or `autoscaling`,
        Ray's `autoscaling_config`, lets Ray choose it.
    multiplexed_models: if set, a replica holds at most so many of the models at a time.
    ray_actor_options: `num_cpus` is also the number of compute threads [1]; with `num_gpus` models
        compute on a GPU unless they name a device.
    settings: of the server, such as `batch_delay`, `max_batch` and `queue_limit`.
    options: further ones of `serve.deployment` for the models, such as `max_queued_requests`,
        `health_check_timeout_s` and `max_surge_percent`.

    ConfigError for settings that are invalid, BundleError if a bundle cannot be found.
    """
    actor = {"num_cpus": 1, **(ray_actor_options or {})}
    checked = server_settings(bundle, model_dir, settings, actor)
    values = checked.model_dump(mode="json", exclude_unset=True)
    names = list(models_by_name(checked)) if multiplexed_models else []
    scaling: dict[str, Any] = {}
    if num_replicas is not None:
        scaling["num_replicas"] = num_replicas
    if autoscaling is not None:
        scaling["autoscaling_config"] = dict(autoscaling)
    deployment = serve.deployment(
        name="Models",
        ray_actor_options=actor,
        max_ongoing_requests=max_ongoing_requests,
        graceful_shutdown_timeout_s=checked.worker_shutdown_timeout,
        **{"max_surge_percent": 100, **scaling, **options},
    )
    models = deployment(multiplexed(multiplexed_models) if multiplexed_models else ModelReplica)
    front = serve.deployment(
        name="Ingress",
        num_replicas=ingress_replicas,
        ray_actor_options={"num_cpus": INGRESS_CPUS},
        max_ongoing_requests=INGRESS_REQUESTS,
        graceful_shutdown_timeout_s=checked.worker_shutdown_timeout,
        max_surge_percent=100,
    )(Ingress)
    bound = models.bind(values)
    return front.bind(bound, checked.request_timeout, checked.max_body, names)


def build(arguments: Mapping[str, Any]) -> Application:
    """The application of a config file, whose `args` are the arguments of `app`. ConfigError."""
    try:
        return app(**arguments)
    except TypeError as error:
        raise ConfigError(f"args of the application: {error}") from None
