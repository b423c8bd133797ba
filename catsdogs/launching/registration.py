"""Registration of the declared studies, the launcher and the names of job folders with Hydra."""

from __future__ import annotations

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from catsdogs.config.compose import resolve_job_name
from catsdogs.config.locations import sweeps_dir
from catsdogs.launching.isolated import register_launcher


def register() -> None:
    """Register the studies of `sweeps/`, the launcher and the resolver of job names; may be called repeatedly."""
    register_launcher()
    store = ConfigStore.instance()
    # Not through hydra.searchpath: it would need the parent of sweeps/. In a checkout that is the repository, and Hydra
    # would treat each of its folders as a configuration group.
    for file in sorted(sweeps_dir().glob("*.yaml")):
        store.store(group="sweeps", name=file.stem, package="_global_", node=OmegaConf.load(file))
    OmegaConf.register_new_resolver("catsdogs.job_name", resolve_job_name, replace=True)
