"""Hydra sweeper whose jobs are chosen by Optuna, from the results of those before them.

It imports Hydra, OmegaConf and Optuna only, so that it can become a package. A job returns the number to optimize.
Choices, ranges and intervals of `hydra.sweeper.params` and of the command line, which takes precedence, are searched.
"""

import difflib
import inspect
import logging
import math
from typing import Any

import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

_log = logging.getLogger(__name__)


class OptunaSweeper(Sweeper):
    """Sweeper that runs `n_jobs` jobs at a time, until `n_trials` are finished or every combination was tried.

    `sampler` and `pruner` have the name of a class of Optuna and its arguments. With a `storage`, finished jobs count
    and interrupted ones run again, so only one command at a time may use a `study_name`. A job that fails or returns no
    number fails its trial only; if none succeeds, its error is raised. A job has the number of its trial.
    """

    def __init__(self, params: dict[str, Any] | None = None, **settings: Any) -> None:
        self._params, self._settings = params or {}, OmegaConf.create(settings)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep context and configuration, and create the launcher."""
        self.hydra_context: Any = hydra_context
        self.config: Any = config
        self.launcher: Any = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        """Run the jobs and write the best one to `optimization_results.yaml`; a wrong setting is a `HydraException`."""
        optuna.logging.disable_default_handler()
        optuna.logging.enable_propagation()
        words = [*(f"{key}={value}" for key, value in self._params.items()), *arguments]
        parsed = OverridesParser.create(config_loader=self.hydra_context.config_loader).parse_overrides(words)
        last = {override.get_key_element().lstrip("+"): override for override in parsed}
        space = {name: _distribution(override) for name, override in last.items() if override.is_sweep_override()}
        constants = [str(override.input_line) for override in last.values() if not override.is_sweep_override()]
        study = self._study()

        def overrides(values: dict[str, Any]) -> list[str]:
            return [*constants, *(f"{last[name].get_key_element()}={_text(values[name])}" for name in space)]

        self.validate_batch_is_legal([overrides(values) for values in _every_choice(space)])
        size: Any = math.prod(math.inf if (values := _values(one)) is None else len(values) for one in space.values())
        returns: list[JobReturn] = []
        while True:
            known = study.get_trials(deepcopy=False)
            same = [
                trial for trial in known if trial.distributions == space
            ]  # others: interrupted before a value was chosen
            tried = {tuple(map(trial.params.get, space)) for trial in same if trial.state.is_finished()}
            left = self._settings.n_trials - sum(trial.state.is_finished() for trial in known)
            count = min(self._settings.n_jobs, left, size - len(tried))
            if count < 1:
                break
            study.sampler = self._sampler(space, len(known))
            trials: list[Any] = [trial for trial in same if trial.state == TrialState.RUNNING][:count]
            try:
                trials += [study.ask(space) for _ in range(count - len(trials))]
            except (ImportError, TypeError, ValueError) as error:  # a missing package, or an unsuitable space
                raise HydraException(f"hydra.sweeper.sampler: {error}") from error
            launched = self.launcher.launch([overrides(one.params) for one in trials], initial_job_idx=trials[0].number)
            for trial, returned in zip(trials, launched, strict=True):
                self._record(study, trial.number, returned)
            returns += launched
        self._finish(study, returns)
        return returns

    def _study(self) -> optuna.Study:
        for key in ("n_trials", "n_jobs"):
            if not isinstance(number := self._settings[key], int) or number < 1:
                raise HydraException(f"hydra.sweeper.{key}={number}: must be an integer of at least 1")
        for key in ("sampler", "pruner"):
            if not isinstance(one := self._settings[key], DictConfig):
                raise HydraException(f"hydra.sweeper.{key}={one}: is a group; use hydra.sweeper.{key}.name={one}")
        direction, names = self._settings.direction, {key: self._settings[key] for key in ("storage", "study_name")}
        if direction not in ("minimize", "maximize"):
            raise HydraException(f"hydra.sweeper.direction={direction}: must be minimize or maximize")
        pruner = _instance(optuna.pruners, "pruner", self._settings.pruner)
        try:
            return optuna.create_study(**names, direction=direction, pruner=pruner, load_if_exists=True)
        except Exception as error:  # of the driver of the database
            raise HydraException(f"hydra.sweeper.storage: cannot be used ({error})") from error

    def _sampler(self, space: dict[str, BaseDistribution], number: int) -> optuna.samplers.BaseSampler:
        """Return the sampler for the trial with this number."""
        settings = dict(self._settings.sampler)
        if settings.get("name") == "GridSampler":
            settings["search_space"] = {name: list(_values(one) or ()) for name, one in space.items()}
            if endless := [name for name, values in settings["search_space"].items() if not values]:
                raise HydraException(f"{endless[0]}: GridSampler needs choice(A,B) or range(A,B)")
        elif isinstance(settings.get("seed"), int) and settings.get("name") != "QMCSampler":
            # A resumed study would draw its first trials again; these two continue from what they wrote to the storage.
            settings["seed"] += number
        return _instance(optuna.samplers, "sampler", settings)

    def _record(self, study: optuna.Study, number: int, returned: JobReturn) -> None:
        value, state = math.nan, TrialState.FAIL
        try:
            value = float(returned.return_value)
            state = TrialState.FAIL if math.isnan(value) else TrialState.COMPLETE
        except optuna.TrialPruned:
            state = TrialState.PRUNED
        except Exception as error:
            _log.warning("trial %d: %s", number, error)
        try:
            study.tell(number, value if state == TrialState.COMPLETE else None, state)
        except RuntimeError:
            # The last combination: these stop the study, which only `optimize` supports, but the value is stored.
            if self._settings.sampler.name not in ("GridSampler", "BruteForceSampler"):
                raise
        _log.info("trial %d: %s", number, value if state == TrialState.COMPLETE else state.name.lower())

    def _finish(self, study: optuna.Study, returns: list[JobReturn]) -> None:
        if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            _log.error("no trial of study %s succeeded", study.study_name)
            _ = [returned.return_value for returned in returns]  # raises the error of the first job that has one
            return
        best = study.best_trial
        _log.info("best is trial %d: %s with %s", best.number, best.value, best.params)
        result = {"name": "optuna", "best_params": best.params, "best_value": best.value}
        OmegaConf.save(OmegaConf.create(result), f"{self.config.hydra.sweep.dir}/optimization_results.yaml")


def _distribution(override: Override) -> BaseDistribution:
    """Return the distribution of a choice, range or interval."""
    value: Any = override.value()
    try:
        if isinstance(value, ChoiceSweep):
            value.shuffle = False  # a resumed study needs the same order
        if not isinstance(value, RangeSweep | IntervalSweep):
            return CategoricalDistribution(list(dict.fromkeys(override.sweep_string_iterator())))
        if value.tags - {"log"}:
            raise ValueError("the only tag is log")
        step: Any = abs(value.step) if isinstance(value, RangeSweep) else None
        numbers: Any = sorted(value.range()) if isinstance(value, RangeSweep) else [value.start, value.end]
        if not numbers:
            raise ValueError("has no values")
        if isinstance(numbers[0], int):
            return IntDistribution(numbers[0], numbers[-1], log="log" in value.tags, step=step or 1)
        return FloatDistribution(numbers[0], numbers[-1], log="log" in value.tags, step=step)
    except ValueError as error:
        raise HydraException(f"{override.input_line}: {error}") from error


def _values(distribution: Any) -> tuple[Any, ...] | range | None:
    """Return the values in order, or None for a continuous interval."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    low, high, step = distribution.low, distribution.high, distribution.step
    if isinstance(low, int):
        return range(low, high + 1, step)
    return None if step is None else tuple(low + index * step for index in range(round((high - low) / step) + 1))


def _every_choice(space: dict[str, Any]) -> list[dict[str, Any]]:
    """Return points of the space that together have every choice, to compose their jobs before the first one runs."""
    choices = {name: getattr(distribution, "choices", None) for name, distribution in space.items()}
    first = {name: values[0] if values else space[name].low for name, values in choices.items()}
    return [first, *(first | {name: value} for name, values in choices.items() for value in (values or ())[1:])]


def _text(value: Any) -> str:
    """Return the value of an override; floats have 12 digits, because steps of 0.1 lead to 0.30000000000000004."""
    return repr(float(f"{value:.12g}")) if isinstance(value, float) else str(value)


def _instance(module: Any, kind: str, settings: dict[str, Any]) -> Any:
    """Return an object of the class of Optuna with this name and these arguments."""
    name, arguments = settings.get("name"), {key: value for key, value in settings.items() if key != "name"}
    known = [one for one in module.__all__ if one.endswith(kind.title()) and not inspect.isabstract(vars(module)[one])]
    if name not in known:
        close = [f"did you mean {one!r}? " for one in difflib.get_close_matches(f"{name}{kind.title()}", known, 1)]
        hint = f"{''.join(close)}known here: {', '.join(known)}"
        raise HydraException(f"hydra.sweeper.{kind}.name={name}: unknown {kind}; {hint}")
    try:
        return vars(module)[name](**arguments)
    except (TypeError, ValueError) as error:
        raise HydraException(f"hydra.sweeper.{kind}: {error}") from error
