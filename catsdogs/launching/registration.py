"""What Hydra is told of catsdogs: declared studies, the launcher, the names of job folders."""

from __future__ import annotations

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from catsdogs.config.compose import resolve_job_name
from catsdogs.config.locations import sweeps_dir
from catsdogs.launching.isolated import register_launcher


def register() -> None:
    """Tell Hydra our declared studies, launcher and resolver for names of jobs. May be called again."""
    register_launcher()
    store = ConfigStore.instance()
    # As nodes and not through hydra.searchpath: the search path would have to hold the parent of sweeps/, which in a
    # checkout is the whole repository, every folder of which Hydra would then take for a configuration group.
    for file in sorted(sweeps_dir().glob("*.yaml")):
        store.store(group="sweeps", name=file.stem, package="_global_", node=OmegaConf.load(file))
    OmegaConf.register_new_resolver("catsdogs.job_name", resolve_job_name, replace=True)
