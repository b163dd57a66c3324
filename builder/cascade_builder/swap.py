"""One edition takes over from another on a running server, without a request noticing.

    beside     every expert's new version is loaded beside the old one and answers the golden rows,
               then the router's, which calls those versions and no others
    switch     the ensemble's step names the router's new version; Triton exchanges an ensemble in
               one step, and what is under way ends where it began
    settle     the router's old version is unloaded and, when it has answered all it had, its
               experts

Whatever fails until the switch is done is undone: the configs, the ensemble's first, say again what
they said, and the server settles on the edition that the ensemble names. The switch itself is one
file that is renamed; what else the new edition's configs are to say lies beside its router by then.
So at every moment the repository describes one edition that serves whole, in the server and after a
restart.

What Triton 2.51 does, tried under load without a failed request: a load with a new version folder
loads the old version anew beside the running one and exchanges it when ready; a load that only
takes a version out of the config loads nothing. A version that failed to load stays in Triton's
books, and its server-wide readiness stays false until that version was loaded once.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cascade_router.errors import CascadeError, ServerError

from . import edition_configs
from .artifacts import written
from .editions import Edition
from .golden_check import GoldenCheck
from .repository import aside
from .running import FAILED, READY, NoServerError, Running, wait_until
from .triton_config import parse, text
from .versions import pinned, serving

__all__ = ["Swap"]

_UNLOADED_S = 120.0
_BUSY = ("LOADING", "UNLOADING")

Tell = Callable[[str], None]


class Swap:
    """Exchanges the edition that a server runs.

    Args:
        root: The model repository, as the server reads it.
        server: It.
        tell: Takes progress.

    Attributes:
        undone: Nothing of an edition that did not take over is loaded any more.
    """

    def __init__(self, root: Path, server: Running, tell: Tell) -> None:
        self._root = root
        self._server = server
        self._tell = tell
        self.undone = True

    def run(
        self, old: Edition, new: Edition, last_look: Callable[[], None] = lambda: None
    ) -> dict[str, int]:
        """Let ``new`` take over from ``old``; both lie in the repository.

        Args:
            old: Is in force; what its configs say is kept beside it.
            new: Is to be; so are its configs, as far as they are kept.
            last_look: Called before the switch; what it raises stops it.

        Returns:
            How many ``experts`` were checked, and how many ``answers`` of the router.

        Raises:
            CascadeError: If ``new`` fails a check or cannot be loaded; ``old`` then serves on.
                After the switch: if the old versions cannot be unloaded, or a config cannot be
                loaded, which then says what it said before; ``new`` serves.
        """
        was_ready = self._server.ready()
        before = edition_configs.said(self._root, old)
        edition_configs.keep(self._root, old, before)
        self.undone = False
        try:
            checked = self._beside(old, new)
            last_look()
            self._switch(old, new)
        except BaseException:
            self._go_back(old, new, before, was_ready)
            raise
        self.settle(new)
        return checked

    def settle(self, edition: Edition) -> None:
        """Have the server run this edition, which the repository says is in force, and no other.

        Raises:
            ServerError: If something cannot be loaded or does not end.
        """
        configs = edition_configs.kept(self._root, edition)
        try:
            self._settle(edition, configs)
        finally:
            edition_configs.applied(self._root, edition)

    def rest(self, edition: Edition) -> None:
        """Have the configs name this edition alone, where no server is there to be settled.

        One that starts loads all that they name, and ends where a version cannot be loaded.

        Raises:
            BuildError: If the file system refuses.
        """
        for model, version in edition.models.items():
            config = parse(self._config(model).read_text(encoding="utf-8"))
            if list(config.version_policy.specific.versions) != [version]:
                self._tell(f"having the config of {model} name version {version} alone")
                written(self._config(model), text(serving(config, [version])).encode())

    def _settle(self, edition: Edition, configs: Mapping[str, bytes]) -> None:
        states = self._server.states()
        for model, version in edition.models.items():
            if states.get(model, {}).get(version) != READY:
                self._tell(f"loading {model} version {version}")
                self._serve(model, {version, *self._loaded(model)})
        called = self._server.step_version(edition.cascade, edition.router_model)
        if called != edition.router:
            self._server.load(edition.cascade)
        if self._loaded(edition.router_model) != {edition.router}:
            self._server.let_pass()
        # The router first: what it has taken it still asks its experts for.
        for model in reversed(edition.models):
            self._only(model, edition.models[model], configs.get(model))
        ours = {f"{edition.cascade}_{part}" for part in ("router", "control", "preprocess")}
        for model, versions in self._server.states().items():
            left = model not in edition.models and model not in ours
            # One that still loads, for a command that was killed, would be nobody's afterwards.
            here = {READY, "LOADING"} & set(versions.values())
            if left and here and model in self._siblings(edition):
                self._tell(f"unloading {model}")
                self._server.unload(model)
                self._gone(model, None)

    def _go_back(
        self, old: Edition, new: Edition, before: Mapping[str, bytes], was_ready: bool
    ) -> None:
        """Serve the old edition alone again; what is in the way of that is told, not raised."""
        switched = self._config(old.cascade).read_bytes() != before[old.cascade]
        # The ensemble alone at first: a load looks at what it calls, too, and a router whose config
        # said so by then would go before the ensemble that calls it.
        with self._told_only():
            self._put_back({old.cascade: before[old.cascade]})
        if switched:  # whatever became of the load, this one comes after it
            with self._told_only():
                self._server.load(old.cascade)
                self._server.let_pass()
        with self._told_only():
            self._put_back(before)
        # The old one, unless not even the ensemble's config could be written back: then the new
        # one, whose checks it passed. Never may the router go that the ensemble calls.
        try:
            stays = Edition.in_force(self._root, old.cascade)
            self._tell(f"going back: router version {stays.router} stays in force")
            self.settle(stays)
            if was_ready:
                self._clear_failures(old, new)
            self.undone = True
        except CascadeError as exc:
            self._tell(f"warning: {exc.message}; the next command tries it again")
            self.undone = isinstance(exc, NoServerError)  # then nothing is loaded any more

    @contextlib.contextmanager
    def _told_only(self) -> Iterator[None]:
        try:
            yield
        except CascadeError as exc:
            self._tell(f"warning: {exc.message}")

    def _put_back(self, before: Mapping[str, bytes]) -> None:
        """Have every config say what it said, whether a server is there to see it or not."""
        for model, data in before.items():
            if self._config(model).read_bytes() != data:
                written(self._config(model), data)

    def _config(self, model: str) -> Path:
        return self._root / model / "config.pbtxt"

    def _siblings(self, edition: Edition) -> set[str]:
        """Name the experts of any edition that lies here: other cascades may share the prefix."""
        out: set[str] = set()
        for folder in (self._root / edition.router_model).iterdir():
            if folder.name.isdecimal() and int(folder.name) != edition.router:
                try:
                    other = Edition.read(self._root, edition.cascade, int(folder.name))
                except CascadeError:
                    continue
                out |= set(other.experts)
        return out

    def _beside(self, old: Edition, new: Edition) -> dict[str, int]:
        logits: dict[str, Any] = {}
        names = {str(one["model"]): str(one["name"]) for one in new.manifest["experts"]}
        for model, version in new.experts.items():
            if old.experts.get(model) != version:
                self._tell(f"loading {model} version {version} beside what serves")
                self._load_beside(model, version, old.experts.get(model))
        check = GoldenCheck.of(self._server, self._root, new)
        for model in new.experts:
            self._tell(f"checking {model} version {new.experts[model]} on golden rows")
            logits[names[model]] = check.expert(names[model])
        self._tell(f"loading {new.router_model} version {new.router} beside {old.router}")
        self._load_beside(new.router_model, new.router, old.router)
        self._tell("checking the router on golden rows, at every operating point")
        return {"experts": len(logits), "answers": check.router(logits)}

    def _load_beside(self, model: str, version: int, old: int | None) -> None:
        self._serve(model, {version} if old is None else {old, version})
        if self._server.states().get(model, {}).get(version) != READY:
            message = (
                f"{self._server.url}: version {version} of {model} lies in {self._root}, but the "
                "server does not see it"
            )
            raise ServerError(message, hint="give the repository that the server serves")

    def _switch(self, old: Edition, new: Edition) -> None:
        """Let the ensemble call the new router."""
        self._tell(f"switching to router version {new.router}")
        switched = self._carry_switch(old, new)
        path = self._config(new.cascade)
        config = pinned(parse(path.read_text(encoding="utf-8")), new.router_model, new.router)
        kept = edition_configs.kept(self._root, new)
        written(path, kept.get(new.cascade, text(config).encode()))
        self._server.load(new.cascade)
        if self._switch_file(old) != switched:  # an operator was quicker
            self._carry_switch(old, new)

    def _carry_switch(self, old: Edition, new: Edition) -> bytes | None:
        """Hand the operator's choice of the default point on; it counts where the point exists."""
        chosen = self._switch_file(old)
        path = new.folder(self._root) / "switch.json"
        if chosen is None:
            path.unlink(missing_ok=True)
        else:
            written(path, chosen)
        return chosen

    def _switch_file(self, edition: Edition) -> bytes | None:
        path = edition.folder(self._root) / "switch.json"
        return path.read_bytes() if path.is_file() else None

    def _serve(self, model: str, versions: set[int], base: bytes | None = None) -> None:
        """Write which versions of a model are served, and have the server look."""
        path = self._config(model)
        config = serving(parse((base or path.read_bytes()).decode()), sorted(versions))
        written(path, text(config).encode())
        self._server.load(model)

    def _only(self, model: str, version: int, base: bytes | None) -> None:
        """Serve one version of a model, and wait until the others have answered what they had."""
        now = self._config(model).read_bytes()
        wanted = text(serving(parse((base or now).decode()), [version])).encode()
        if wanted != now or self._loaded(model) != {version}:
            try:
                self._serve(model, {version}, base)
            except BaseException:
                if base is not None:  # what cannot be loaded must not meet the next start either
                    with contextlib.suppress(CascadeError):
                        self._serve(model, {version}, now)
                raise
        self._gone(model, version)

    def _loaded(self, model: str) -> set[int]:
        states = self._server.states().get(model, {})
        return {version for version, state in states.items() if state == READY}

    def _gone(self, model: str, but: int | None) -> None:
        """Wait until no version of a model but one answers any more."""

        def done() -> bool:
            states = self._server.states().get(model, {})
            return all(
                version == but or state not in (READY, *_BUSY) for version, state in states.items()
            )

        if not wait_until(done, _UNLOADED_S):
            message = f"{self._server.url}: {model} is still unloading after {_UNLOADED_S:.0f} s"
            hint = "run the command again: it goes on from here"
            raise ServerError(message, hint=hint)

    def _clear_failures(self, old: Edition, new: Edition) -> None:
        """Load once what failed to load: else Triton calls itself not ready for good."""
        states = self._server.states()
        failed = [
            (model, version)
            for model, version in new.models.items()
            if old.models.get(model) != version and states.get(model, {}).get(version) == FAILED
        ]
        for model, version in failed:
            try:
                self._load_once(old, model, version)
            except (CascadeError, OSError) as exc:
                self._tell(
                    f"warning: Triton may call itself not ready until it is restarted: {exc}"
                )

    def _load_once(self, old: Edition, model: str, version: int) -> None:
        """Load something sound under the name of a version that failed, and unload it."""
        folder = self._root / model
        place = folder / str(version)
        if model in old.models:
            with aside(place):
                shutil.copytree(folder / str(old.models[model]), place)
                try:
                    self._serve(model, {old.models[model], version})
                finally:  # its config must not name what is about to go
                    self._only(model, old.models[model], None)
            return
        donor = next(iter(old.experts))
        with aside(place, folder / "config.pbtxt"):
            shutil.copytree(self._root / donor / str(old.models[donor]), place)
            config = parse(self._config(donor).read_text(encoding="utf-8"))
            config.name = model
            self._serve(model, {version}, text(config).encode())
            self._server.unload(model)
            self._gone(model, None)
