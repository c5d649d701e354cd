"""FourCastNet's own configs: YAML files with a section for each model (config/AFNO.yaml).

Keys as in NVlabs/FourCastNet: in_channels are places in the published files, paths are strings,
"None" is none, and `5E-4` may be text, since only YAML 1.2 calls it a number.
"""

from collections.abc import Mapping
from typing import Any

from cupola.errors import ConfigError, did_you_mean

# The order of the published files, as in cupola.structures.variables.
CHANNELS = (
    *("u10", "v10", "t2m", "sp", "msl", "t850", "u1000", "v1000", "z1000", "u850", "v850"),
    *("z850", "u500", "v500", "z500", "t500", "z50", "r500", "r850", "tcwv"),
)
USUAL = "afno_backbone"  # the section that is taken where none is named
MARKS = ("nettype", "in_channels", "out_channels", "num_blocks")
SIZE = (720, 1440)  # rows and columns after the loader has dropped the south pole


def is_published(cfg: Mapping[str, Any]) -> bool:
    """Whether a config is one of FourCastNet's: sections that describe an AFNO."""
    return "model" not in cfg and any(_is_section(value) for value in cfg.values())


def _is_section(value: Any) -> bool:
    return isinstance(value, Mapping) and sum(mark in value for mark in MARKS) >= 3


def published_config(
    cfg: Mapping[str, Any], name: str | None = None, where: str = "config"
) -> dict[str, Any]:
    """The training config of a section of FourCastNet's YAML; other configs as they are.

    name: the section, as FourCastNet's `--config`; by default afno_backbone. Raises ConfigError
    for an unknown section, and for a setting that has no counterpart.
    """
    if not is_published(cfg):
        if name is not None:
            raise ConfigError(f"{where}: --config chooses a section of FourCastNet's YAML files")
        return dict(cfg)
    sections = [key for key, value in cfg.items() if _is_section(value)]
    wanted = name or (USUAL if USUAL in sections else sections[0])
    if wanted not in sections or (name is None and USUAL not in sections and len(sections) > 1):
        hint = did_you_mean(wanted, sections) if name else "; choose one with --config"
        raise ConfigError(f"{where}: has no section {wanted!r}{hint}; it has {sections}")
    return _translate({key: _plain(value) for key, value in cfg[wanted].items()}, where)


def _plain(value: Any) -> Any:
    return None if value in ("None", "") else value


def _translate(section: Mapping[str, Any], where: str) -> dict[str, Any]:
    channels = [_channel(index, where) for index in section["in_channels"]]
    predicted = len(channels) if section.get("precip") else len(section["out_channels"])
    if section["out_channels"] != section["in_channels"][: len(section["out_channels"])]:
        raise ConfigError(f"{where}: out_channels must be the first of in_channels")
    if section.get("orography"):
        channels.append("orography")
    if section.get("add_grid"):
        raise ConfigError(f"{where}: add_grid is not included; no published checkpoint has it")
    net = {
        "type": "AFNONet",
        "img_size": SIZE,
        "patch_size": int(section.get("patch_size", 8)),
        "in_chans": len(channels),
        "out_chans": predicted,
        "embed_dim": int(section.get("embed_dim", 768)),
        "depth": int(section.get("depth", 12)),
        "num_blocks": int(section.get("num_blocks", 8)),
    }
    fields = {
        "type": "FieldDataset",
        "channels": channels,
        "targets": channels[:predicted],
        "means": section.get("global_means_path"),
        "stds": section.get("global_stds_path"),
        "rows": SIZE[0],
    }
    is_precipitation = bool(section.get("precip"))
    model = _with_precipitation(net, section) if is_precipitation else net
    found = {
        "channels": channels,
        "model": model,
        "fields": fields,
        "time_means": section.get("time_means_path"),
        **_training(section, fields),
    }
    start = section.get("model_wind_path") if is_precipitation else None
    if start:
        found["load_from"] = {"path": start, "into": "wind"}
    elif section.get("pretrained") and section.get("pretrained_ckpt_path"):
        found["load_from"] = section["pretrained_ckpt_path"]
    return {key: value for key, value in found.items() if value is not None}


def _channel(index: Any, where: str) -> str:
    if not isinstance(index, int) or isinstance(index, bool) or index < 0:
        raise ConfigError(f"{where}: in_channels holds {index!r}, which is no place of a channel")
    return CHANNELS[index] if index < len(CHANNELS) else f"channel{index}"


def _with_precipitation(net: dict[str, Any], section: Mapping[str, Any]) -> dict[str, Any]:
    """PrecipNet: a backbone with one output, after the model of the winds."""
    return {
        "type": "PrecipNet",
        "backbone": {**net, "out_chans": 1},
        "wind": net,
        "epsilon": float(section.get("precip_eps") or 1e-5),
    }


def _training(section: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    steps = 2 if section.get("two_step_training") else 1
    targets = ["tp_log"] if section.get("precip") else fields["targets"]
    train, valid = (
        {**fields, "path": section.get(key), "targets": targets, "steps": number}
        for key, number in (("train_data_path", steps), ("valid_data_path", 1))
    )
    workers = int(section.get("num_data_workers") or 0)
    scheduler = {"type": str(section.get("scheduler", "CosineAnnealingLR")), "by_epoch": True}
    return {
        "train_dataloader": {
            "batch_size": int(section.get("batch_size", 64)),
            "num_workers": workers,
            "dataset": train,
        },
        "val_dataloader": {"batch_size": 1, "num_workers": workers, "dataset": valid},
        "val_evaluator": {
            "type": "ForecastMetric",
            "latitude_weights": True,
            "climate": None if section.get("precip") else section.get("time_means_path"),
        },
        "optim_wrapper": {"optimizer": {"type": "Adam", "lr": float(section.get("lr", 5e-4))}},
        "param_scheduler": [scheduler],
        "train_cfg": {"max_epochs": int(section.get("max_epochs", 150)), "val_interval": 1},
        "default_hooks": {"checkpoint": {"save_best": "relative_l2", "rule": "less"}},
        "randomness": {"seed": 0},
    }
