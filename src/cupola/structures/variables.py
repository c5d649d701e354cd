"""Names and units of atmospheric variables, as files and other projects spell them.

A channel is named as in FourCastNet: a variable of the surface by its ECMWF short name (t2m, msl),
one on pressure levels by its letter and the level in hPa (z500).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# The order of FourCastNet's published files and statistics; the files hold one more.
FOURCASTNET_CHANNELS = (
    *("u10", "v10", "t2m", "sp", "msl", "t850", "u1000", "v1000", "z1000", "u850", "v850"),
    *("z850", "u500", "v500", "z500", "t500", "z50", "r500", "r850", "tcwv"),
)
GRAVITY = 9.80665  # m s-2, by which WMO defines geopotential height


@dataclass(frozen=True)
class Variable:
    """name: ours, without a level. standard_name: of CF, with `height` where that alone is vague.

    long_name: WeatherBench 2's and the CDS's. e2s: earth2studio's. static: does not change in time.
    """

    name: str
    standard_name: str
    units: str
    long_name: str
    aliases: tuple[str, ...] = ()
    e2s: str = ""
    height: float | None = None
    on_levels: bool = False
    static: bool = False


def _level(name: str, standard: str, units: str, long_name: str, *aliases: str) -> Variable:
    return Variable(name, standard, units, long_name, aliases, on_levels=True)


VARIABLES = (
    _level("u", "eastward_wind", "m s-1", "u_component_of_wind", "ua", "uwnd"),
    _level("v", "northward_wind", "m s-1", "v_component_of_wind", "va", "vwnd"),
    _level("t", "air_temperature", "K", "temperature", "ta"),
    _level("z", "geopotential", "m2 s-2", "geopotential", "phi"),
    _level("r", "relative_humidity", "%", "relative_humidity", "rh", "hur"),
    _level("q", "specific_humidity", "kg kg-1", "specific_humidity", "hus", "shum"),
    _level("w", "lagrangian_tendency_of_air_pressure", "Pa s-1", "vertical_velocity", "wap"),
    Variable(
        *("u10", "eastward_wind", "m s-1", "10m_u_component_of_wind"),
        *(("10u", "u10m", "10_metre_u_wind_component", "uas"), "u10m", 10.0),
    ),
    Variable(
        *("v10", "northward_wind", "m s-1", "10m_v_component_of_wind"),
        *(("10v", "v10m", "10_metre_v_wind_component", "vas"), "v10m", 10.0),
    ),
    Variable(
        *("u100", "eastward_wind", "m s-1", "100m_u_component_of_wind"),
        *(("100u", "u100m", "100_metre_u_wind_component"), "u100m", 100.0),
    ),
    Variable(
        *("v100", "northward_wind", "m s-1", "100m_v_component_of_wind"),
        *(("100v", "v100m", "100_metre_v_wind_component"), "v100m", 100.0),
    ),
    Variable(
        *("t2m", "air_temperature", "K", "2m_temperature"),
        *(("2t", "2_metre_temperature", "tas"), "t2m", 2.0),
    ),
    Variable(
        *("d2m", "dew_point_temperature", "K", "2m_dewpoint_temperature"),
        *(("2d", "2_metre_dewpoint_temperature"), "d2m", 2.0),
    ),
    Variable("sp", "surface_air_pressure", "Pa", "surface_pressure", ("ps",), "sp"),
    Variable(
        *("msl", "air_pressure_at_mean_sea_level", "Pa", "mean_sea_level_pressure"),
        *(("prmsl", "psl", "slp", "air_pressure_at_sea_level", "mslp"), "msl"),
    ),
    Variable(
        *("tcwv", "atmosphere_mass_content_of_water_vapor", "kg m-2"),
        *("total_column_water_vapour", ("prw", "total_column_water_vapor"), "tcwv"),
    ),
    Variable(
        "tp",
        "lwe_thickness_of_precipitation_amount",
        "m",
        "total_precipitation",
        ("tp06", "tp6h"),
        "tp",
    ),
    Variable("sst", "sea_surface_temperature", "K", "sea_surface_temperature", ("tos",), "sst"),
    Variable("skt", "surface_temperature", "K", "skin_temperature", ("ts",), "skt"),
    Variable("tcc", "cloud_area_fraction", "1", "total_cloud_cover", ("clt",), "tcc"),
    Variable(
        *("lsm", "land_binary_mask", "1", "land_sea_mask", ("land_area_fraction", "sftlf"), "lsm"),
        static=True,
    ),
    Variable(
        *("orography", "surface_altitude", "m", "surface_height", ("orog", "hgt_sfc"), "orog"),
        static=True,
    ),
    Variable(
        *("z_surface", "surface_geopotential", "m2 s-2", "geopotential_at_surface", (), "z"),
        static=True,
    ),
    Variable("tisr", "toa_incoming_shortwave_flux", "J m-2", "toa_incident_solar_radiation"),
    Variable("vorticity", "atmosphere_relative_vorticity", "s-1", "relative_vorticity", ("vo",)),
)
BY_NAME = {variable.name: variable for variable in VARIABLES}
_SPELLINGS = {
    spelling: variable
    for variable in VARIABLES
    for spelling in (variable.name, variable.long_name, *variable.aliases)
}
_HEIGHT_OF_GEOPOTENTIAL = ("geopotential_height", "gh", "hgt", "zg")
_LEVEL = re.compile(r"([a-z_]+?)_?(\d+(?:\.\d+)?)(?:hpa|mb)?")


def _plain(name: str) -> str:
    return re.sub(r"[\s\-]+", "_", name.strip().lower())


def find_variable(
    name: str, attributes: Mapping[str, object], has_level: bool, height: float | None = None
) -> Variable | None:
    """The variable that a file's variable is, by its name, GRIB name, CF or long name; or None.

    height: of its coordinate above the ground in metres, by which CF tells t2m from other air
    temperatures.
    """
    for key in (name, *(str(attributes.get(a, "")) for a in ("GRIB_shortName", "long_name"))):
        if _plain(key) in _HEIGHT_OF_GEOPOTENTIAL and has_level:
            return BY_NAME["z"]
        found = _SPELLINGS.get(_plain(key))
        if found is not None and (has_level or not found.on_levels):
            return found
    standard = _plain(str(attributes.get("standard_name", "")))
    if standard in _HEIGHT_OF_GEOPOTENTIAL and has_level:
        return BY_NAME["z"]
    named = [v for v in VARIABLES if v.standard_name == standard and v.on_levels == has_level]
    if not has_level and any(variable.height for variable in named):
        named = [variable for variable in named if variable.height == height]
    return named[0] if len(named) == 1 else None


def split_channel(channel: str) -> tuple[Variable | None, float | None]:
    """The variable of a channel and its pressure level: z500 -> (z, 500.0), t2m -> (t2m, None)."""
    if variable := _SPELLINGS.get(_plain(channel)):
        return variable, None
    if match := _LEVEL.fullmatch(_plain(channel)):
        variable = _SPELLINGS.get(match[1])
        if variable is None and match[1] in _HEIGHT_OF_GEOPOTENTIAL:
            variable = BY_NAME["z"]
        if variable is not None and variable.on_levels:
            return variable, float(match[2])
    return None, None


def channel_name(channel: str) -> str:
    """Our name of a channel that may be spelled otherwise: 2m_temperature -> t2m."""
    variable, level = split_channel(channel)
    if variable is None:
        return channel
    return variable.name if level is None else f"{variable.name}{level:g}"


def channel_names(channels: Sequence[str], convention: str) -> tuple[str, ...]:
    """Channels as CF files ("cf"), WeatherBench 2 ("wb") or earth2studio ("e2s") call them.

    WeatherBench 2 has no names for single levels: z500 is geopotential_500.
    """
    if convention == "cf":
        return tuple(channels)
    names = []
    for channel in channels:
        variable, level = split_channel(channel)
        if variable is None:
            names.append(channel)
            continue
        own = variable.long_name if convention == "wb" else variable.e2s or variable.name
        mark = "_" if convention == "wb" else ""
        names.append(own if level is None else f"{own}{mark}{level:g}")
    return tuple(names)


def channel_units(channel: str) -> str:
    """The units that models have a channel in; "" for an unknown one."""
    variable, _ = split_channel(channel)
    return variable.units if variable else ""


def is_height(units: str, channel: str) -> bool:
    """Whether a geopotential is given as a height in metres, perhaps geopotential metres."""
    variable, _ = split_channel(channel)
    return variable is BY_NAME["z"] and _plain(units) in ("m", "gpm", "metre", "metres", "meters")
