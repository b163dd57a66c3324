"""Which policy a deployment brings: never one for other experts, no certificate lost unasked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cascade_router.errors import BuildError, PolicyError
from cascade_router.policy import Policy

from .first_policy import Choice, first_policy
from .laid_out import chosen_policy
from .manifest import Built
from .spec import Spec

__all__ = ["Look", "deployed_policy"]


class Look:
    """A look at the policy in force; whoever writes one by hand asks no lock.

    Args:
        path: Its file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = self._bytes()

    def again(self) -> None:
        """Refuse to go on if it is another by now: it would be lost with its edition.

        Raises:
            BuildError: If it is.
        """
        if self._bytes() != self._seen:
            message = f"{self._path}: the policy changed while a new edition was made"
            raise BuildError(message, hint="run the command again: it then goes by the new policy")

    def _bytes(self) -> bytes | None:
        return self._path.read_bytes() if self._path.is_file() else None


def deployed_policy(
    spec: Spec, built: Sequence[Built], root: Path, given: Path | None, *, uncertified: bool
) -> Choice:
    """Choose the policy of a new edition.

    Args:
        spec: The cascade.
        built: Its experts, in the order of the tiers.
        root: The model repository.
        given: A ``policy.json`` for these experts; None: none.
        uncertified: Certificates that do not hold for these experts may be lost.

    Raises:
        BuildError: If the policy in force is certified for other experts.
        PolicyError: If the one that was given is not for these.
    """
    if given is not None:
        return Choice(
            text=_fitting(spec, built, given), old=None, action="given", reason=str(given)
        )
    choice = chosen_policy(spec, built, root)
    if choice.action == "replaced" and not uncertified and _certified(choice.old):
        message = f"{spec.name}: the policy in force is certified, and {choice.reason}"
        hint = (
            "build into another repository, record and calibrate there, and give its policy.json "
            "with --policy; or give the certificates up with --uncertified"
        )
        raise BuildError(message, hint=hint)
    # What it replaces stays with the edition before.
    return Choice(text=choice.text, old=None, action=choice.action, reason=choice.reason)


def _fitting(spec: Spec, built: Sequence[Built], path: Path) -> str:
    """Read a policy that was made for these experts."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        message = f"{path}: the policy cannot be read: {exc}"
        raise PolicyError(message, hint="name a policy.json that `calibrate` wrote") from exc
    policy = Policy.from_json(text, str(path))
    wanted = first_policy(spec, [one.digest for one in built])
    hint = "record and calibrate the experts of this spec"
    for key in ("cascade", "activation", "n_classes", "label_tolerance"):
        have, want = getattr(policy, key), getattr(wanted, key)
        if have != want:
            message = f"{path}: made for {key} {have!r}, expected {want!r}"
            raise PolicyError(message, hint=hint)
    have_tiers = [(tier.name, tier.model, tier.digest) for tier in policy.tiers]
    want_tiers = [(tier.name, tier.model, tier.digest) for tier in wanted.tiers]
    if have_tiers != want_tiers:
        said = ", ".join(f"{name} {digest[:19]}" for name, _, digest in have_tiers)
        want = ", ".join(f"{name} {digest[:19]}" for name, _, digest in want_tiers)
        message = f"{path}: made for tiers {said}, expected {want}"
        raise PolicyError(message, hint=hint)
    return text


def _certified(text: str | None) -> bool:
    try:
        return text is not None and bool(Policy.from_json(text).certified)
    except PolicyError:
        return False
