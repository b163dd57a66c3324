"""A new edition into a running server: replace experts, add or drop some, go back.

Nothing that is served changes on disk until the switch: the new versions lie beside those in force.
The experts are built as by ``build``, and only what changed gets a new version.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cascade_router.errors import BuildError, CascadeError, ServerError

from . import editions, layout, repository, targets
from .build import Made, Work, alone
from .deployed_policy import deployed_policy
from .editions import Edition
from .first_policy import Choice
from .labels import labels
from .laid_out import LaidOut, models_of
from .locks import locked
from .memory import Limits
from .pruning import tidy
from .running import Running, told
from .spec import Spec
from .swap import Swap
from .triton_config import parse
from .versions import Versions, changed_answers

__all__ = ["Deployment", "deploy", "rollback"]

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What was done to a running cascade.

    Attributes:
        cascade: Its name.
        url: Of the server.
        action: ``deployed``, ``rolled back`` or ``nothing``.
        router: Version of the router in force now.
        before: Version that was in force; a rollback goes back to it.
        experts: What became of each, by name: ``kept``, ``replaced``, ``added`` or ``removed``.
        versions: Version of each expert in force, by name.
        policy: What became of the policy.
        checked: How many ``experts`` and ``answers`` were checked on golden rows.
        seconds: Spent in all.
    """

    cascade: str
    url: str
    action: str
    router: int
    before: int
    experts: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, int] = field(default_factory=dict)
    policy: str = "kept"
    checked: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Write for machines."""
        return asdict(self)


def deploy(
    spec: Spec,
    root: Path,
    server: Running,
    target: str | None = None,
    *,
    artifacts_folder: Path = Path("build"),
    policy: Path | None = None,
    uncertified: bool = False,
    limits: Limits | None = None,
    tell: Tell = lambda _: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Deployment:
    """Bring a running cascade to what a spec asks for.

    Args:
        spec: What is asked for.
        root: The model repository that the server serves.
        server: It; its models are loaded on demand.
        target: As of ``build``; must be that of the running cascade.
        artifacts_folder: Keeps built experts.
        policy: A ``policy.json`` made for the new experts; None: the one in force if it holds, else
            the spec's points.
        uncertified: Give certificates up where the policy in force does not hold for the experts.
        limits: As of ``build``.
        tell: Takes progress.
        clock: Seconds.

    Raises:
        CascadeError: If it cannot be done, or a new version fails a check; what served before then
            serves on, and nothing of the new edition is left.
    """
    start = clock()
    resolved, _ = targets.choose(target, spec)
    targets.check(spec, resolved)
    folder = artifacts_folder / spec.name
    with alone(folder, root, tell):
        now = _begin(root, spec.name, server, tell)
        _same_target(now, resolved)
        tidy(folder)
        made = Work(spec, resolved, root, folder, tell, clock).made(limits)
        choice = deployed_policy(spec, made.built, root, policy, uncertified=uncertified)
        names = labels(spec)
        laid_out = LaidOut.of(spec, resolved, made.built, root, names, made.golden, choice)
        if now.router_model not in {model.name for model in laid_out.write}:
            return _nothing(now, server, clock() - start)
        versions = _versions(spec, made, root, now)
        models = {
            model.name: model
            for model in models_of(spec, resolved, made.built, choice, names, made.golden, versions)
        }
        _check_interface(root, models, now)
        checked = _exchange(root, now, versions, models, server, tell)
        new = Edition.in_force(root, spec.name)
    return _report(now, new, server, "deployed", choice, checked, clock() - start)


def rollback(
    cascade: str,
    root: Path,
    server: Running,
    *,
    tell: Tell = lambda _: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Deployment:
    """Go back to the edition before; done twice, it is in force again.

    Args:
        cascade: Its name.
        root: The model repository that the server serves.
        server: It.
        tell: Takes progress.
        clock: Seconds.

    Raises:
        CascadeError: If there is none, it was built over, or it fails a check; what served before
            then serves on.
    """
    start = clock()
    with locked(root, "repository", tell):
        now = _begin(root, cascade, server, tell)
        kept = editions.previous(root, now)
        if kept is None:
            message = f"{root}: {cascade!r} has no edition before router version {now.router}"
            raise BuildError(message, hint="`cascade-builder deploy` keeps the one it replaces")
        _not_built_over(root, now, kept)
        editions.restore(root, kept)
        editions.write_previous(kept.folder(root), now.router)
        try:
            checked = Swap(root, server, tell).run(now, kept, {})
        except BaseException:
            if Edition.in_force(root, cascade).router == now.router:
                editions.retire(root, kept, now)
            raise
        editions.retire(root, now, kept)
    return _report(now, kept, server, "rolled back", None, checked, clock() - start)


def _begin(root: Path, cascade: str, server: Running, tell: Tell) -> Edition:
    """See that the server serves this repository, and complete what a killed deployment left.

    Raises:
        BuildError: If the repository does not hold the cascade.
        ServerError: If the server does not load models on demand, or serves something else.
    """
    repository.finish(root, cascade)
    now = Edition.in_force(root, cascade)
    server.load(
        f"{cascade}_control"
    )  # as it is loaded already, this only shows that it may be done
    said = told(server, cascade)
    if said.get("manifest") != now.manifest:
        message = f"{server.url}: the server serves another {cascade!r} than {root} holds"
        raise ServerError(message, hint="give the --repository that it serves")
    if said.get("refused") is not None:
        message = f"{server.url}: what {root} holds is not what is served: {said['refused']}"
        hint = "it was built over while it served, or its policy is broken; start the server anew"
        raise ServerError(message.splitlines()[0], hint=hint)
    Swap(root, server, tell).settle(now)
    kept = editions.previous(root, now)
    if kept is not None:
        editions.retire(root, kept, now)
    editions.tidy(root, now)
    return now


def _same_target(now: Edition, target: str) -> None:
    if now.manifest.get("target") != target:
        message = f"{now.cascade}: runs for target {now.manifest.get('target')!r}, not {target!r}"
        hint = "build it into a repository of its own, and start a server on that"
        raise BuildError(message, hint=hint)


def _versions(spec: Spec, made: Made, root: Path, now: Edition) -> Versions:
    """Give what changed a version of its own."""
    router = now.router_model
    experts = {}
    for one in made.built:
        model = spec.model(one.expert.name)
        kept = now.digests.get(model) == one.digest
        experts[one.expert.name] = (
            now.experts[model] if kept else editions.next_version(root, router, model)
        )
        if not kept and one.served is not None and model in now.experts:
            message = f"expert {one.expert.name!r}: the model that serves it already changed"
            hint = "two of it cannot be told apart: name the new one, and the expert, anew"
            raise BuildError(message, hint=hint)
    return Versions(router=editions.next_version(root, router, router), experts=experts)


def _check_interface(root: Path, models: Mapping[str, layout.Model], now: Edition) -> None:
    """Refuse what two versions of a model cannot differ in.

    Raises:
        BuildError: Names the first model, and what of its config.
    """
    for name, model in models.items():
        path = root / name / "config.pbtxt"
        if not path.is_file() or name == f"{now.cascade}_control":
            continue
        content = model.files["config.pbtxt"]
        assert isinstance(content, bytes)
        changed = changed_answers(parse(path.read_text(encoding="utf-8")), parse(content.decode()))
        if changed:
            message = f"{name}: its config differs in {', '.join(changed)}, for all its versions"
            hint = "give the expert another name in the spec"
            if name not in now.experts:
                hint = "what clients send or get changes: build, and start the server anew"
            raise BuildError(message, hint=hint)


def _exchange(
    root: Path,
    now: Edition,
    versions: Versions,
    models: Mapping[str, layout.Model],
    server: Running,
    tell: Tell,
) -> dict[str, int]:
    """Lay the new edition beside the one in force, and let it take over."""
    configs = {name: _config(model) for name, model in models.items()}
    with _discarded_on_failure(root, now, versions.router):
        tell("writing the new versions beside those in force")
        router = models[now.router_model]
        repository.add(root, [router])  # first: its manifest says what belongs to the edition
        editions.write_previous(root / router.name / str(router.version), now.router)
        new = Edition.read(root, now.cascade, versions.router)
        fresh = [
            models[model]
            for model, version in new.experts.items()
            if now.experts.get(model) != version
        ]
        repository.add(root, fresh)
        checked = Swap(root, server, tell).run(now, new, configs)
    editions.retire(root, now, new)
    editions.tidy(root, new)
    return checked


@contextlib.contextmanager
def _discarded_on_failure(root: Path, now: Edition, router: int) -> Iterator[None]:
    """Remove the new edition where it did not come into force."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(CascadeError):
            if Edition.in_force(root, now.cascade).router == now.router:
                kept = editions.previous(root, now)
                stay = [now] if kept is None else [now, kept]
                editions.discard(root, now.cascade, router, stay)
        raise


def _not_built_over(root: Path, now: Edition, kept: Edition) -> None:
    """Refuse to go back to a version that a later build replaced in place."""
    for model, version in kept.experts.items():
        over = now.experts.get(model) == version and now.digests[model] != kept.digests[model]
        if over:
            message = f"{root / model}: version {version} was built over since then"
            raise BuildError(message, hint="`cascade-builder deploy` the spec that you want")


def _config(model: layout.Model) -> bytes:
    content = model.files["config.pbtxt"]
    assert isinstance(content, bytes)
    return content


def _nothing(now: Edition, server: Running, seconds: float) -> Deployment:
    return Deployment(
        cascade=now.cascade,
        url=server.url,
        action="nothing",
        router=now.router,
        before=now.router,
        experts={str(one["name"]): "kept" for one in now.manifest["experts"]},
        versions={str(one["name"]): one["version"] for one in now.manifest["experts"]},
        seconds=round(seconds, 2),
    )


def _report(
    old: Edition,
    new: Edition,
    server: Running,
    action: str,
    choice: Choice | None,
    checked: Mapping[str, int],
    seconds: float,
) -> Deployment:
    before = {str(one["name"]): one for one in old.manifest["experts"]}
    after = {str(one["name"]): one for one in new.manifest["experts"]}
    experts = {}
    for name in [*after, *(gone for gone in before if gone not in after)]:
        if name not in after:
            experts[name] = "removed"
        elif name not in before:
            experts[name] = "added"
        else:
            same = after[name]["version"] == before[name]["version"]
            experts[name] = "kept" if same else "replaced"
    said = "the one of that edition" if choice is None else f"{choice.action} ({choice.reason})"
    return Deployment(
        cascade=new.cascade,
        url=server.url,
        action=action,
        router=new.router,
        before=old.router,
        experts=experts,
        versions={name: one["version"] for name, one in after.items()},
        policy=said,
        checked=checked,
        seconds=round(seconds, 2),
    )
