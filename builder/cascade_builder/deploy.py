"""A new edition into a running server: replace experts, add or drop some, go back.

Nothing that is served changes on disk until the switch: the new versions lie beside those in force.
The experts are built as by ``build``, and only what changed gets a new version.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from cascade_router.errors import BuildError, CascadeError, ServerError
from cascade_router.policy import NAME

from . import edition_configs, editions, layout, repository, targets
from .build import Made, Work, alone
from .deployed_policy import Look, deployed_policy
from .deployment import Deployment, nothing, report
from .editions import Edition
from .labels import labels
from .laid_out import LaidOut, models_of
from .locks import locked
from .memory import Limits
from .pruning import tidy
from .running import NoServerError, Running, told
from .spec import Spec
from .swap import Swap
from .triton_config import parse
from .versions import Versions, changed_answers

__all__ = ["deploy", "rollback"]

Tell = Callable[[str], None]


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
        _same_input(now, spec)
        tidy(folder)
        made = Work(spec, resolved, root, folder, tell, clock).made(limits)
        in_force = Look(now.folder(root) / "policy.json")
        choice = deployed_policy(spec, made.built, root, policy, uncertified=uncertified)
        names = labels(spec)
        laid_out = LaidOut.of(spec, resolved, made.built, root, names, made.golden, choice)
        _told_what_stays(spec, laid_out, tell)
        if _is_so(root, now, laid_out):
            return nothing(now, server, clock() - start)
        versions = _versions(spec, made, root, now)
        models = {
            model.name: model
            for model in models_of(spec, resolved, made.built, choice, names, made.golden, versions)
        }
        _check_interface(root, models, now)
        last_look = in_force.again if policy is None else lambda: None
        checked = _exchange(root, now, versions, models, Swap(root, server, tell), last_look, tell)
        new = Edition.in_force(root, spec.name)
    return report(now, new, server, "deployed", choice, checked, clock() - start)


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
    if NAME.fullmatch(cascade) is None:  # it becomes part of file names
        message = f"{cascade!r} is no name of a cascade ({NAME.pattern})"
        raise BuildError(message, hint="name it as its spec does")
    with locked(root, "repository", tell):
        now = _begin(root, cascade, server, tell)
        kept = editions.previous(root, now)
        if kept is None:
            message = f"{root}: {cascade!r} has no edition before router version {now.router}"
            raise BuildError(message, hint="`cascade-builder deploy` keeps the one it replaces")
        _not_built_over(root, now, kept)
        try:
            editions.restore(root, kept)
            editions.write_previous(kept.folder(root), now.router)
            checked = Swap(root, server, tell).run(now, kept)
        except BaseException:
            if Edition.in_force(root, cascade).router == now.router:
                editions.retire(root, kept, now)
            raise
        editions.retire(root, now, kept)
    return report(now, kept, server, "rolled back", None, checked, clock() - start)


def _begin(root: Path, cascade: str, server: Running, tell: Tell) -> Edition:
    """See that the server serves this repository, and complete what a killed deployment left.

    Where no server is, what it left is put in order on disk, so that one can start.

    Raises:
        BuildError: If the repository does not hold the cascade.
        ServerError: If the server does not load models on demand, or serves something else.
    """
    repository.finish(root, cascade)
    now = Edition.in_force(root, cascade)
    swap = Swap(root, server, tell)
    try:
        # As it is loaded already, this only shows that it may be done.
        server.load(f"{cascade}_control")
    except NoServerError:
        swap.rest(now)
        if gone := _forget_others(root, now):
            tell(f"removed what a killed command left: {', '.join(gone)}")
        raise
    said = told(server, cascade)
    if said.get("manifest") != now.manifest:
        message = f"{server.url}: the server serves another {cascade!r} than {root} holds"
        raise ServerError(message, hint="give the --repository that it serves")
    if said.get("refused") is not None:
        message = f"{server.url}: what {root} holds is not what is served: {said['refused']}"
        hint = "it was built over while it served, or its policy is broken; start the server anew"
        raise ServerError(message.splitlines()[0], hint=hint)
    swap.settle(now)
    _forget_others(root, now)
    return now


def _forget_others(root: Path, now: Edition) -> list[str]:
    """Take out of the server's sight what is not in force; say what of it was removed."""
    kept = editions.previous(root, now)
    if kept is not None:
        editions.retire(root, kept, now)
    return editions.tidy(root, now)


def _is_so(root: Path, now: Edition, laid_out: LaidOut) -> bool:
    """Say whether what is in force is what the spec asks for, serving options included."""
    if now.router_model in {model.name for model in laid_out.write}:
        return False
    said = edition_configs.said(root, now)
    experts = [model for model in laid_out.models if model.name in now.experts]
    return all(said[model.name] == _config(model) for model in experts)


def _told_what_stays(spec: Spec, laid_out: LaidOut, tell: Tell) -> None:
    """Say which models the spec wants otherwise, and a deployment leaves as they are."""
    shared = {spec.model("preprocess"), spec.model("control")}
    for model in laid_out.write:
        if model.name in shared:
            tell(
                f"note: {model.name}, which has no versions, stays as it is; to have what the spec "
                "asks for, build, and start the server anew"
            )


def _same_target(now: Edition, target: str) -> None:
    if now.manifest.get("target") != target:
        message = f"{now.cascade}: runs for target {now.manifest.get('target')!r}, not {target!r}"
        hint = "build it into a repository of its own, and start a server on that"
        raise BuildError(message, hint=hint)


def _same_input(now: Edition, spec: Spec) -> None:
    """Refuse rows made otherwise: one model makes them for all versions, by its own tokeniser."""
    served, wanted = now.manifest.get("input"), spec.input.described
    if served != wanted:
        message = f"{now.cascade}: is served with input {served}, the spec asks for {wanted}"
        hint = "what prepares rows has no versions: build, and start the server anew"
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
    configs = {name: _config(model) for name, model in models.items()}
    for name, changed in _changed_answers(root, configs, now):
        message = f"{name}: its config differs in {', '.join(changed)}, for all its versions"
        hint = "give the expert another name in the spec"
        if name not in now.experts:
            hint = "what clients send or get changes: build, and start the server anew"
        raise BuildError(message, hint=hint)


def _changed_answers(
    root: Path, configs: Mapping[str, bytes], now: Edition
) -> Iterator[tuple[str, list[str]]]:
    """Name models whose config decides answers otherwise than the one that lies there."""
    for name, content in configs.items():
        path = root / name / "config.pbtxt"
        if not path.is_file() or name == f"{now.cascade}_control":
            continue
        changed = changed_answers(parse(path.read_text(encoding="utf-8")), parse(content.decode()))
        if changed:
            yield name, changed


def _exchange(
    root: Path,
    now: Edition,
    versions: Versions,
    models: Mapping[str, layout.Model],
    swap: Swap,
    last_look: Callable[[], None],
    tell: Tell,
) -> dict[str, int]:
    """Lay the new edition beside the one in force, and let it take over."""
    with _discarded_on_failure(root, now, versions.router, swap):
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
        edition_configs.keep(root, new, {name: _config(one) for name, one in models.items()})
        checked = swap.run(now, new, last_look)
    editions.retire(root, now, new)
    editions.tidy(root, new)
    return checked


@contextlib.contextmanager
def _discarded_on_failure(root: Path, now: Edition, router: int, swap: Swap) -> Iterator[None]:
    """Remove the new edition where it did not come into force.

    While the server may have some of it loaded its files stay: the next command unloads that, and
    only they say what there is to unload.
    """
    try:
        yield
    except BaseException:
        with contextlib.suppress(CascadeError):
            if swap.undone and Edition.in_force(root, now.cascade).router == now.router:
                kept = editions.previous(root, now)
                stay = [now] if kept is None else [now, kept]
                editions.discard(root, now.cascade, router, stay)
        raise


def _not_built_over(root: Path, now: Edition, kept: Edition) -> None:
    """Refuse to go back to a version that a later build replaced in place."""
    hint = "`cascade-builder deploy` the spec that you want"
    for model, version in kept.experts.items():
        over = now.experts.get(model) == version and now.digests[model] != kept.digests[model]
        if over:
            message = f"{root / model}: version {version} was built over since then"
            raise BuildError(message, hint=hint)
    if kept.manifest.get("input") != now.manifest.get("input"):
        message = f"{root}: what prepares the rows of {now.cascade!r} was built over since then"
        raise BuildError(message, hint=hint)
    for name, changed in _changed_answers(root, edition_configs.kept(root, kept), now):
        message = f"{root / name}: was built over since then, differs in {', '.join(changed)}"
        raise BuildError(message, hint=hint)


def _config(model: layout.Model) -> bytes:
    content = model.files["config.pbtxt"]
    assert isinstance(content, bytes)
    return content
