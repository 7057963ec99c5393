"""What names a configuration: every field of the vocabulary, and nothing else."""

from __future__ import annotations

import dataclasses
from typing import Any

from study.config import COMPONENTS, LATER, Augmentation, TrialConfig, from_dict, to_dict


def changed(value: Any) -> Any:
    """A value that a field of this one may have too."""
    if isinstance(value, bool):
        return not value
    return (*value, 1) if isinstance(value, tuple) else value + 1 if isinstance(value, int) else value / 2 + 0.05


def altered(part: Any) -> list[Any]:
    """The part with one field at a time at another value."""
    plain = {f.name: getattr(part, f.name) for f in dataclasses.fields(part) if f.name not in ("name", *COMPONENTS)}
    plain.pop("augmentation", None)
    return [dataclasses.replace(part, **{key: changed(value)}) for key, value in plain.items()]


def test_every_field_changes_the_id() -> None:
    """Also those that an id leaves out at their default."""
    parts = {kind: list(known.values()) for kind, known in COMPONENTS.items()} | {"augmentation": [Augmentation()]}
    configs = altered(TrialConfig())
    for kind, prototypes in parts.items():
        for part in [*prototypes, *(one for prototype in prototypes for one in altered(prototype))]:
            configs.append(dataclasses.replace(TrialConfig(), **{kind: part}))
    different = set(configs)
    assert TrialConfig() in different
    assert len(different) > 60
    assert len({config.config_id for config in different}) == len(different)
    assert all(from_dict(to_dict(config)) == config for config in different)


def test_an_id_is_that_of_before_the_fields_that_came_later() -> None:
    """Computed when `TrialConfig` had none of them."""
    stored = to_dict(TrialConfig())
    early = {
        key: {k: v for k, v in value.items() if k not in LATER} if isinstance(value, dict) else value
        for key, value in stored.items()
        if key not in LATER
    }
    assert from_dict(early) == TrialConfig()
    assert TrialConfig().config_id == "cf5a841312"
